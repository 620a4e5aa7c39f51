"""Pages opened in a browser: on a phone and a wide screen, light and dark, all in two starts of it."""

import json
import re
import subprocess
import threading

import numpy as np
import pytest
from browser import CHROMIUM, OPTIONS, WITHOUT, measure_pages
from text_model_folder import make_text_model

from lexalcm.generate.text import TextModel
from lexalcm.pages import run_live
from lexalcm.pages.data_report import report_data
from lexalcm.pages.generation_report import report_generation, text_prompt
from lexalcm.pages.model_report import report_model
from lexalcm.pages.run_report import report_runs
from lexalcm.pages.schedule_report import report_schedule

WIDTHS = (390, 1200)
SCHEMES = {"dark": 0, "light": 1}  # Chromium's numbers of them
PICTURES = {"data": 6, "run": 7, "schedule": 5, "model": 3, "generation": 4}
AXES = {
    "data": ["document length (concepts)", "cosine similarity of two sentences"],
    "run": ["training loss per concept", "learning rate", "gradient norm (L2)", "throughput (concepts/s)"],
    "schedule": ["timestep", "log-SNR, ln(α²/σ²)"],
    "model": ["parameters", "memory of weights, gradients and optimizer"],
    "generation": ["denoising step", "squared L2 to the true concept", "cosine similarity with the true concept"],
}

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=WITHOUT)

MEASURE = """
  const root = document.documentElement;
  document.querySelectorAll("details").forEach(one => { one.open = true; });
  const images = [...document.images];
  await Promise.all(images.map(image => image.decode()));
  return {
    overflow: root.scrollWidth - root.clientWidth,
    broken: images.filter(image => !(image.naturalWidth > 0)).map(image => image.alt),
    dark: images.filter(image => image.currentSrc === image.parentElement.querySelector("source").srcset).length,
    alternatives: images.map(image => image.alt),
    narrowest: Math.min(...images.map(image => image.getBoundingClientRect().width)),
    background: getComputedStyle(document.body).backgroundColor,
  };
"""


def line(step):
    return {
        "step": step,
        "loss": 100 / step,
        "validation_loss": 100 / step,
        "lr": 1e-3,
        "grad_norm": 2.0,
        "concepts_per_s": 500.0,
        "seconds": 0.5 * step,
        "skipped_steps": step // 5,
        "loss_by_timestep": [1.0 * bucket + step for bucket in range(10)],
    }


def add_lines(folder, steps):
    folder.mkdir(exist_ok=True)
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(line(step)) + "\n" for step in steps))


@pytest.fixture(scope="module")
def pages(make_dataset, tmp_path_factory):
    """The text of a page of each kind."""
    folder = tmp_path_factory.mktemp("pages")
    generator = np.random.default_rng(0)
    documents = [(lang, generator.normal(size=(9, 6))) for lang in ("eng_Latn", "jpn_Jpan") for _ in range(4)]
    report_data(make_dataset({"train": documents}).path, folder / "data")
    add_lines(folder / "a-run-with-a-rather-long-name-that-must-not-widen-the-page", range(1, 20))
    (folder / "a-run-with-a-rather-long-name-that-must-not-widen-the-page/config.yaml").write_text("name: a\nlr: 0.1")
    add_lines(folder / "b", range(1, 9))
    (folder / "b/config.yaml").write_text("name: b\nlr: 0.2")
    report_runs(sorted(path.parent for path in folder.glob("*/metrics.jsonl")), folder / "run")
    report_schedule(folder / "schedule", format="svg", steps=5)
    report_model("two-tower-7b", folder / "model", format="svg")
    writer = TextModel.open(make_text_model(folder / "text-model"))
    prompt = text_prompt(writer, "Peace is near. The wind blew. Nobody slept.", writer.options(), None, seed=0)
    report_generation(writer, prompt, writer.options(), folder / "generation", samples=2)
    return {name: (folder / name / "index.html").read_text(encoding="utf-8") for name in PICTURES}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_pages_open_without_an_error_fit_their_width_and_show_their_pictures(pages, tmp_path, scheme):
    preference = f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}"
    found, log = measure_pages(tmp_path, pages, WIDTHS, MEASURE, preference)
    assert "CONSOLE" not in log
    assert sorted(found) == sorted((name, width) for name in pages for width in WIDTHS)
    for name, pictures in PICTURES.items():
        for width in WIDTHS:
            page = found[name, width]
            assert page["overflow"] == 0, (name, width)
            assert page["broken"] == []
            assert len(page["alternatives"]) == pictures
            assert page["dark"] == (pictures if scheme == "dark" else 0)
            assert page["narrowest"] > 300
            red = int(re.match(r"rgb\((\d+)", page["background"]).group(1))
            assert red < 60 if scheme == "dark" else red > 200
            for label in AXES[name]:
                assert any(label in alternative for alternative in page["alternatives"]), label


def rendered(address, profile):
    """What Chromium makes of a page in 20 s of its own time, and what it writes to its log."""
    options = [*OPTIONS, "--virtual-time-budget=20000", f"--user-data-dir={profile}", "--dump-dom"]
    result = subprocess.run([CHROMIUM, *options, address], capture_output=True, text=True, timeout=180, check=True)
    return result.stdout, result.stderr


def test_a_live_page_changes_in_the_browser_when_its_run_writes(tmp_path, monkeypatch):
    add_lines(tmp_path / "run", range(1, 4))
    (tmp_path / "run/config.yaml").write_text("train: {steps: 50}")
    started, servers = threading.Event(), []

    def read_then_write(paths):
        runs = real(paths)
        if runs[0].lines == 3:
            add_lines(tmp_path / "run", range(4, 8))
        return runs

    def ready(server, address):
        servers.extend([server, address])
        started.set()

    real = run_live.read_runs
    monkeypatch.setattr(run_live, "read_runs", read_then_write)
    options = {"port": 0, "seconds": 1.0, "ready": ready}
    thread = threading.Thread(target=run_live.serve_runs, args=([tmp_path / "run"],), kwargs=options, daemon=True)
    thread.start()
    assert started.wait(10)
    server, address = servers
    try:
        document, log = rendered(address, tmp_path / "profile")
    finally:
        server.shutdown()
    assert "CONSOLE" not in log
    assert "<b>7</b><span>steps of 50</span>" in document
    assert document.count("<img") == 8
    assert re.search(r'id="lost"[^>]*hidden', document)
