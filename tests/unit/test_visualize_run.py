"""Curves of runs: what is read of a file in the making, what is drawn of it, and the page that follows."""

import http.client
import json
import math
import threading
from pathlib import Path

import numpy as np
import pytest

from lexalcm.errors import UserError
from lexalcm.pages import run_figures as figures
from lexalcm.pages.run_live import serve_runs
from lexalcm.pages.run_metrics import (
    CONFIG_FILE,
    METRICS_FILE,
    differing_settings,
    find_metrics,
    newest_run,
    read_runs,
    short_names,
)
from lexalcm.pages.run_report import duration, figure_specs, report_runs
from lexalcm.train.run.folder import RunFolder


def line(step, **changes):
    return {
        "step": step,
        "loss": 100 / step,
        "lr": 1e-3,
        "grad_norm": 2.0 * step,
        "concepts_per_s": 500.0,
        "seconds": 0.5 * step,
        "skipped_steps": 0,
        "skipped_documents": 0,
    } | changes


def make_run(folder, lines, config="train: {steps: 100, lr: 0.001}\n"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")
    (folder / "config.yaml").write_text(config, encoding="utf-8")
    return folder


def drawn(axes):
    """The strong curves of a picture by their labels."""
    return {one.get_label(): one.get_xydata() for one in axes.lines if not str(one.get_label()).startswith("_")}


def test_files_are_those_that_training_writes(tmp_path):
    run = RunFolder(tmp_path)
    assert (run.metrics.name, run.config.name) == (METRICS_FILE, CONFIG_FILE)


def test_a_run_in_the_making_is_read_up_to_its_last_whole_line(tmp_path):
    folder = make_run(tmp_path / "a", [line(1), line(2, loss=None), line(3, validation_loss=7.0)])
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 4, "loss": 25.0, "lr"')
    [run] = read_runs([folder])
    assert run.columns["step"].tolist() == [1, 2, 3]
    assert run.unreadable == 0
    assert math.isnan(run.columns["loss"][1])
    steps, loss = run.points("loss")
    assert (steps.tolist(), loss.tolist()) == ([1, 3], [100, pytest.approx(100 / 3)])
    assert run.last("validation_loss") == 7.0
    assert not run.has("mfu")
    assert run.points("mfu")[1].tolist() == []
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(": 0.1}\n")
    assert read_runs([folder])[0].columns["step"].tolist() == [1, 2, 3, 4]


def test_lines_that_are_none_are_passed_over_and_told(tmp_path):
    folder = make_run(tmp_path / "a", [line(1)])
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('nonsense\n\n[1]\n{"loss": 1}\n' + json.dumps(line(2)) + "\n")
    [run] = read_runs([folder])
    assert (run.columns["step"].tolist(), run.unreadable) == ([1, 2], 3)
    report_runs([folder], tmp_path / "out")
    assert "3 lines were skipped" in (tmp_path / "out/index.html").read_text(encoding="utf-8")


def test_a_run_that_went_back_shows_the_later_lines(tmp_path):
    folder = make_run(tmp_path / "a", [line(1), line(2), line(3), line(2, loss=5.0), line(4)])
    [run] = read_runs([folder])
    assert run.columns["step"].tolist() == [1, 2, 4]
    assert run.columns["loss"].tolist() == [100, 5, 25]


def test_curves_are_the_numbers_of_the_file_and_their_axes_are_named(tmp_path):
    a = make_run(tmp_path / "a", [line(step) for step in range(1, 9)])
    b = make_run(tmp_path / "b", [line(step, loss=3.0, mfu=0.4, seconds=7200.0 * step) for step in range(2, 5)])
    runs = read_runs([a, b])
    drawings = {spec.name: spec.figure(*spec.arguments) for spec in figure_specs(runs, by_time=False)}
    assert drawings.keys() == {"loss", "learning_rate", "gradient_norm", "throughput", "mfu"}
    for name, column, ylabel in (
        ("loss", "loss", "training loss per concept"),
        ("learning_rate", "lr", "learning rate"),
        ("gradient_norm", "grad_norm", "gradient norm (L2)"),
        ("throughput", "concepts_per_s", "throughput (concepts/s)"),
    ):
        [axes] = drawings[name].axes
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", ylabel)
        curves = drawn(axes)
        for label, folder in (("a", a), ("b", b)):
            written = [json.loads(one) for one in (folder / "metrics.jsonl").read_text().splitlines()]
            assert curves[label].tolist() == [[one["step"], one[column]] for one in written]
    # one curve of two runs is seen as two lines
    widths = [one.get_linewidth() for one in drawings["loss"].axes[0].lines]
    assert widths[0] > widths[1] + 0.5
    # a run keeps its colour where the other has no number
    colours = {one.get_label(): one.get_color() for one in drawings["loss"].axes[0].lines}
    assert [one.get_color() for one in drawings["mfu"].axes[0].lines] == [colours["b"]]
    by_time = figure_specs(runs, by_time=True)[0]
    [axes] = by_time.figure(*by_time.arguments).axes
    assert axes.get_xlabel() == "training time (h)"
    assert drawn(axes)["b"][:, 0].tolist() == [4, 6, 8]


def test_the_first_line_of_a_run_can_be_seen(tmp_path):
    """One point a figure: dots, one tick on the step itself, and nothing at the rim."""
    [run] = read_runs([make_run(tmp_path / "run", [line(10, loss_by_timestep=[3.0, 5.0])])])
    for spec in figure_specs([run], by_time=False):
        axes = spec.figure(*spec.arguments).axes[0]
        assert all(one.get_marker() == "o" for one in axes.lines if len(one.get_xdata()) == 1), spec.name
        if axes.get_xlabel() == "step":
            low, high = axes.get_xlim()
            assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [10], spec.name
    throughput = figures.curves_from_zero([run], "concepts_per_s", "throughput (concepts/s)", figures.STEP_AXIS).axes[0]
    assert throughput.get_ylim() == pytest.approx((0, 1.05 * 500))


def test_many_noisy_points_get_their_moving_average(tmp_path):
    losses = np.random.default_rng(0).normal(50, 1, 400)
    folder = make_run(tmp_path / "a", [line(step, loss=loss) for step, loss in enumerate(losses, start=1)])
    [axes] = figures.curves(read_runs([folder]), "loss", "loss", figures.STEP_AXIS, True).axes
    raw, smooth = (one.get_ydata() for one in axes.lines)
    assert raw.tolist() == losses.tolist()
    slow = [losses[max(0, i - 4) : i + 5].mean() for i in range(400)]
    assert smooth == pytest.approx(np.array(slow))


def test_validation_marks_its_lowest_point_and_steps_that_were_skipped_are_counted(tmp_path):
    lines = [line(step, validation_loss=(step - 3) ** 2 + 1.0, skipped_steps=step // 4) for step in range(1, 8)]
    folder = make_run(tmp_path / "a", lines)
    runs = read_runs([folder])
    curve, ring = figures.validation(runs, figures.STEP_AXIS).axes[0].lines
    assert curve.get_ydata().tolist() == [one["validation_loss"] for one in lines]
    assert ring.get_xydata().tolist() == [[3, 1]]
    [skipped] = [spec for spec in figure_specs(runs, by_time=False) if spec.name == "skipped_steps"]
    assert skipped.figure(*skipped.arguments).axes[0].lines[0].get_ydata().tolist() == [0, 0, 0, 1, 1, 1, 1]
    result = report_runs([folder], tmp_path / "out")
    [row] = result["runs"]
    assert (row["step"], row["steps"], row["best_validation_loss"], row["best_step"]) == (7, 100, 1.0, 3)
    assert (row["skipped_steps"], row["concepts_per_s"], row["seconds"]) == (1, 500.0, 3.5)


def test_loss_by_timestep_is_the_mean_of_the_newest_lines_that_have_it(tmp_path):
    lines = [line(step, loss_by_timestep=[1.0 * step, None, 3.0]) for step in range(1, 21)]
    lines += [line(21, loss_by_timestep=[None, 8.0, None]), line(22), line(23, loss_by_timestep=None)]
    lines[4]["validation_loss_by_timestep"] = [9.0, 9.0, 9.0]
    lines[9]["validation_loss_by_timestep"] = [4.0, 5.0, 6.0]
    [run] = read_runs([make_run(tmp_path / "a", lines)])
    # a tenth of 21 such lines is two: steps 20 and 21
    training, validation = figures.loss_by_timestep([run]).axes[0].lines
    assert training.get_xydata() == pytest.approx(np.array([[50 / 3, 20], [50, 8], [250 / 3, 3]]))
    assert validation.get_ydata().tolist() == [4, 5, 6]
    [axes] = figures.loss_by_timestep_over_training(run, figures.STEP_AXIS).axes
    assert [len(one.get_xdata()) for one in axes.lines] == [20, 1, 20]
    assert axes.lines[0].get_ydata().tolist() == list(range(1, 21))
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["67–100%", "33–67%", "0–33%"]


def test_settings_that_differ_stand_beside_each_other(tmp_path):
    a = make_run(tmp_path / "a", [line(1)], "name: a\ntrain: {lr: 0.1, steps: 5}\nmodel: m\n")
    b = make_run(tmp_path / "b", [line(1)], "name: b\ntrain: {lr: 0.2, steps: 5, clip_norm: 1.0}\nmodel: m\n")
    broken = make_run(tmp_path / "c", [line(1)], "train: [")
    assert differing_settings(read_runs([a, b])) == {
        "name": ["a", "b"],
        "train.lr": [0.1, 0.2],
        "train.clip_norm": [None, 1.0],
    }
    assert differing_settings(read_runs([a, a])) == {}
    assert read_runs([broken])[0].steps is None


def test_names_are_short_tell_runs_apart_and_can_be_drawn():
    paths = [Path("/x/runs/base"), Path("/x/old/base"), Path("/x/runs/銀河"), Path("/x/runs/_hidden"), Path("/x/$a$")]
    assert short_names(paths) == ["runs/base", "old/base", "run 3", "run 4", "$a$"]
    assert short_names([Path("/x/runs/base")] * 2) == ["base", "base"]


def test_names_and_lines_that_are_strange_are_drawn_all_the_same(tmp_path):
    folder = make_run(tmp_path / "$a_{b$", [line(1), line(2, lr=0.0, loss=-1.0, grad_norm=None)])
    other = make_run(tmp_path / "<b>銀", [line(1, seconds=None)])
    assert len(report_runs([folder, other], tmp_path / "out", format="svg", by_time=True)["files"]) == 5
    page = (tmp_path / "out/index.html").read_text(encoding="utf-8")
    assert "<b>銀" not in page
    assert "&lt;b&gt;銀" in page


def test_mistakes_are_said(tmp_path):
    with pytest.raises(UserError, match="no run in"):
        report_runs([tmp_path / "nowhere"], tmp_path / "out")
    with pytest.raises(UserError, match="is not the folder of a run"):
        report_runs([tmp_path], tmp_path / "out")
    folder = make_run(tmp_path / "a", [])
    with pytest.raises(UserError, match=r"no metrics yet.*--live"):
        report_runs([folder], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="start one with lcm train"):
        newest_run(tmp_path / "empty")
    assert newest_run(tmp_path) == folder
    assert find_metrics(folder / "metrics.jsonl") == folder / "metrics.jsonl"


@pytest.mark.parametrize(
    ("seconds", "text"), [(17.4, "17 s"), (240, "4 min"), (3599, "1 h 00 min"), (7500, "2 h 05 min")]
)
def test_times_are_said_in_words(seconds, text):
    assert duration(seconds) == text


def test_a_live_page_follows_its_run(tmp_path):
    folder = make_run(tmp_path / "a", [])
    started, servers = threading.Event(), []

    def ready(server, address):
        servers.extend([server, address])
        started.set()

    thread = threading.Thread(
        target=serve_runs, args=([folder],), kwargs={"port": 0, "seconds": 1.0, "ready": ready}, daemon=True
    )
    thread.start()
    assert started.wait(10)
    server, address = servers
    assert server.server_address[0] == "127.0.0.1"

    def get(path="/", **headers):
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.headers["ETag"], response.read().decode()

    try:
        assert address == f"http://localhost:{server.server_port}/"
        status, first, page = get()
        assert status == 200
        assert "no metrics yet" in page
        assert "<figure" not in page
        make_run(folder, [line(1), line(2)])
        with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write('{"step": 3')
        status, second, page = get("/page", **{"If-None-Match": first})
        assert status == 200
        assert second != first
        assert 'id="loss"' in page
        assert get("/page", **{"If-None-Match": second})[::2] == (304, "")
        assert get("/etc/passwd")[0] == 404
        for name in ("localhost:8000", "LOCALHOST", "127.0.0.1:1", "[::1]:8000"):
            assert get("/", Host=name)[0] == 200
        for name in ("evil.example", "localhost.evil.example:8000", "127.0.0.1.evil.example", "", "localhost:x"):
            assert get("/", Host=name)[0] == 421
        with pytest.raises(UserError, match=f"port {server.server_port} cannot be used"):
            serve_runs([folder], port=server.server_port, ready=ready)
    finally:
        server.shutdown()
    thread.join(10)
    assert not thread.is_alive()
