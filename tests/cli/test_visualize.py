import json
import signal
import subprocess
import sys
import urllib.request

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from text_model_folder import make_text_model


@pytest.fixture(scope="module")
def dataset(make_dataset):
    generator = np.random.default_rng(0)
    return make_dataset({"train": [("eng_Latn", generator.normal(size=(9, 4))) for _ in range(5)]})


def test_report_is_written_and_listed(lcm, dataset, tmp_path):
    out = tmp_path / "report"
    result = lcm("visualize", "data", dataset.path, "--out", out)
    assert result.code == 0
    assert sorted(result.out.split()) == sorted(str(path) for path in out.iterdir())
    assert f"open {out / 'index.html'}" in " ".join(result.err.split())
    again = lcm("visualize", "data", dataset.path, "--out", out)
    assert (again.code, again.out) == (2, "")
    assert "--overwrite" in again.err
    found = json.loads(lcm("visualize", "data", dataset.path, "--out", out, "--overwrite", "--json").out)
    assert found["sample"]["sentences"] == 45


def test_parquet_of_another_pipeline_is_shown(lcm, tmp_path):
    vectors = np.random.default_rng(0).normal(size=(20, 3, 4))
    columns = {"text_sentences": [["a b", "c", "d"]] * 20, "text_sentences_sonar_emb": vectors.tolist()}
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "data" / "part.parquet")
    result = lcm("visualize", "data", tmp_path / "data", "--out", tmp_path / "out", "--batch", 3, "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["sample"] == {"sentences": 60, "documents": 20, "seed": 0}


def test_mistakes_are_one_line_with_exit_code_two(lcm, dataset, tmp_path):
    for arguments, message in (
        (["nowhere"], "no data set in nowhere"),
        ([dataset.path, "--split", "test"], "has no split 'test'"),
    ):
        result = lcm("visualize", "data", *arguments, "--out", tmp_path / "out")
        assert result.code == 2
        assert message in result.err
        assert result.err.count("\n") == 1
        assert not (tmp_path / "out").exists()


@pytest.fixture
def run_folder(tmp_path):
    folder = tmp_path / "runs" / "base"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 3.5}\n{"step": 2, "loss": 2.5}\n{"st')
    (folder / "config.yaml").write_text("train: {steps: 9}")
    return folder


def test_pictures_of_the_newest_run_and_of_one_by_its_folder(lcm, run_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = lcm("visualize", "run", "--format", "svg")
    assert result.code == 0
    assert result.out.split() == ["reports/run/index.html", "reports/run/loss.svg"]
    found = json.loads(lcm("visualize", "run", run_folder, "-o", "other", "--json").out)
    assert found["runs"][0]["loss"] == 2.5
    assert found["runs"][0]["steps"] == 9
    again = lcm("visualize", "run")
    assert (again.code, again.err.count("\n")) == (2, 1)
    assert "--overwrite" in again.err


def test_pictures_of_schedules_and_models_are_written_and_listed(lcm, tmp_path):
    schedule = ["visualize", "schedule", "--schedule", "cosine", "--sampler", "ddim", "--steps", 4]
    found = json.loads(lcm(*schedule, "-o", tmp_path / "schedule", "--json").out)
    assert found["steps"] == {"cosine": {"DDIM": [99, 74, 49, 24]}}
    result = lcm("visualize", "model", "base-tiny", "-o", tmp_path / "model")
    assert sorted(result.out.split()) == sorted(str(path) for path in (tmp_path / "model").iterdir())


def test_pictures_of_a_generation_are_written_and_listed(lcm, tmp_path):
    model, out = make_text_model(tmp_path / "model"), tmp_path / "out"
    text = "Peace is near. The wind blew."
    result = lcm("visualize", "generation", text, "--model", model, "--out", out, "--steps", 2, "--samples", 1)
    assert result.code == 0
    assert sorted(result.out.split()) == sorted(str(path) for path in out.iterdir())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("run nowhere", "no run in nowhere"),
        ("run", "no run in runs/ yet"),
        ("run --live", "no run in runs/ yet"),
        ("run . --live --json", "omit --json"),
        ("run notes.txt", "notes.txt is not the folder of a run"),
        ("run damaged", "damaged/metrics.jsonl is damaged"),
        (
            "model two-towr-tiny",
            "no folder two-towr-tiny, and unknown preset two-towr-tiny: did you mean two-tower-tiny",
        ),
        ("model", "no such model: models/base"),
        ("schedule --model nowhere", "no such model: nowhere"),
        ("schedule --steps 500", "trained with 100"),
        ("schedule --schedule linear", "--schedule"),
        ("generation", "give a text of at least two sentences"),
        ("generation One.Two. --data data/sample", "give a text of at least two sentences, or a data set"),
        ("generation One. --model nowhere", "no such model: nowhere"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(lcm, tmp_path, monkeypatch, line, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("Nothing.")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "metrics.jsonl").write_text("no JSON\n")
    result = lcm("visualize", *line.split())
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert result.err.count("\n") == 1
    assert not (tmp_path / "reports" / line.split()[0]).exists()


def test_a_live_page_ends_well_at_ctrl_c(run_folder):
    line = [sys.executable, "-m", "lexalcm", "visualize", "run", str(run_folder), "--live", "--port", "0"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        address = process.stdout.readline().strip()
        with urllib.request.urlopen(address, timeout=60) as answer:
            assert 'id="loss"' in answer.read().decode()
        process.send_signal(signal.SIGINT)
        try:
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0
    assert errors.splitlines()[-1] == "stopped"
    assert "Traceback" not in errors
