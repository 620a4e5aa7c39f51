"""What a run tells: a JSON object a line, TensorBoard, and a line on the screen."""

import errno
import json
import math
import time
from pathlib import Path

import pytest

from lexalcm.cli import training_display
from lexalcm.train.monitor import tensorboard
from lexalcm.train.monitor.run_monitor import LoggingDisplay, Metrics, Monitor, NullDisplay
from lexalcm.train.run.folder import RunFolder

LINE = {
    "step": 20,
    "loss": 1.5,
    "lr": 1e-3,
    "grad_norm": math.inf,
    "concepts_per_s": 1234.5,
    "mfu": 0.431,
    "peak_memory_gb": 10.25,
    "skipped_steps": 0,
    "loss_by_timestep": [1.0, math.nan],
    "alerts": ["weights not finite: a"],
}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    with Monitor(RunFolder(tmp_path), NullDisplay(), buckets=["00-49", "50-99"]) as monitor:
        monitor.write(LINE)
        monitor.text(20, "samples/0", "It was *written*.")
    return RunFolder(tmp_path)


def test_a_line_is_one_json_object_without_nan_and_infinity(run: RunFolder) -> None:
    (text,) = run.metrics.read_text().splitlines()

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    line = json.loads(text, parse_constant=refuse)
    assert line == LINE | {"grad_norm": None, "loss_by_timestep": [1.0, None]}


def test_a_full_disk_is_said_once_and_ends_nothing(tmp_path: Path) -> None:
    notes: list[str] = []

    class Notes(NullDisplay):
        def note(self, text: str) -> None:
            notes.append(text)

    run = RunFolder(tmp_path)
    run.metrics.symlink_to("/dev/full")
    with Monitor(run, Notes(), buckets=["00-49", "50-99"]) as monitor:
        monitor.write(LINE)
        monitor.write(LINE | {"step": 30})
    assert [note for note in notes if "metrics.jsonl" in note] == [
        "cannot write metrics.jsonl, the run continues: [Errno 28] No space left on device"
    ]


def test_tensorboard_shows_every_number_and_text(run: RunFolder) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.tensorboard))
    events.Reload()
    numbers = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert set(numbers) == {
        "loss",
        "lr",
        "grad_norm",
        "concepts_per_s",
        "mfu",
        "peak_memory_gb",
        "skipped_steps",
        "loss_by_timestep/00-49",
        "loss_by_timestep/50-99",
    }
    assert numbers["loss"] == [(20, 1.5)]
    (text,) = events.Tensors("samples/0/text_summary")
    assert text.tensor_proto.string_val == [b"It was *written*."]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_tensorboard_goes_on_when_its_folder_is_there_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread ends with the first error."""
    monkeypatch.setattr(tensorboard, "AGAIN", 0.1)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = RunFolder(tmp_path)
    with Monitor(run, NullDisplay(), buckets=["00-49", "50-99"]) as monitor:
        run.tensorboard.rename(tmp_path / "away")
        for step in range(100):
            monitor.write(LINE | {"step": step})
            if step == 50:
                run.tensorboard.mkdir()
            time.sleep(0.005)
    events = EventAccumulator(str(run.tensorboard))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")][-10:] == list(range(90, 100))
    assert len(list(run.tensorboard.iterdir())) < 10


def test_a_line_on_the_screen_is_below_120_columns(capsys: pytest.CaptureFixture[str]) -> None:
    display = LoggingDisplay(training_display.LineDisplay())
    display.begin(0, 100_000)
    display.line(LINE | {"step": 12_345, "loss": 1234.56789, "validation_loss": 1234.56789, "skipped_steps": 12})
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("step 12345/100000  loss 1234.6  validation 1234.6  lr 1.00e-03  1,234 concepts/s, MFU 43%")
    assert line.endswith("  12 skipped")
    assert len(line) < 120


@pytest.mark.parametrize("gone", [BrokenPipeError(), OSError(errno.EIO, "Input/output error")])
def test_a_display_that_is_gone_ends_nothing(gone: OSError) -> None:
    """A pipe that nobody reads, a terminal that is closed."""
    asked = []

    class Gone(NullDisplay):
        def line(self, metrics: Metrics) -> None:
            asked.append(metrics)
            raise gone

    display = LoggingDisplay(Gone())
    display.line(LINE)
    display.line(LINE)
    assert asked == [LINE]


def test_another_error_of_a_display_is_told() -> None:
    class Broken(NullDisplay):
        def note(self, text: str) -> None:
            raise FileNotFoundError(text)

    with pytest.raises(FileNotFoundError):
        LoggingDisplay(Broken()).note("something")
