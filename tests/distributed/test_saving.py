"""Checkpoints in the background, over a full disk, kept for good; every optimizer's state goes on as it was."""

import resource
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from training_workspace import STEPS, curve, final_weights, largest_difference, rewind

from lexalcm.errors import TrainingError
from lexalcm.train.monitor.run_monitor import NullDisplay
from lexalcm.train.run.main import RunResult, read_run_config, train


class Notes(NullDisplay):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.at_step: dict[int, Callable[[], None]] = {}

    def note(self, text: str) -> None:
        self.notes.append(text)

    def advance(self, metrics: object) -> None:
        self.at_step.pop(int(metrics["step"]), lambda: None)()


@pytest.fixture
def here(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(workspace)
    return workspace


def run(name: str, *settings: str, display: NullDisplay | None = None) -> RunResult:
    return train(read_run_config(Path("config.yaml"), [f"name={name}", *settings], "auto"), display=display)


def checkpoints(name: str) -> list[str]:
    return sorted(path.name for path in Path("runs", name, "checkpoints").iterdir())


def after_what_is_being_saved(change: Callable[[], None]) -> Callable[[], None]:
    """Makes a change when what may be written in the background has had its time."""

    def wait() -> None:
        time.sleep(0.3)
        change()

    return wait


@contextmanager
def files_no_larger_than(limit: int) -> Iterator[Callable[[], None]]:
    """Gives a function after whose call every file that grows larger fails, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_every_mth_checkpoint_is_kept_beside_the_newest(here: Path) -> None:
    run("kept", "train.checkpoint.every=1", "train.checkpoint.keep=1", "train.checkpoint.keep_every=2")
    assert checkpoints("kept") == ["step_00000002", "step_00000004", "step_00000006"]


def test_checkpoints_written_in_the_background_are_the_same(here: Path) -> None:
    settings = ["train.checkpoint.every=1", "train.checkpoint.keep=10"]
    run("at-once", *settings)
    run("background", *settings, "train.checkpoint.background=true")
    assert checkpoints("background") == checkpoints("at-once")
    for file in Path("runs/at-once/checkpoints").rglob("*.safetensors"):
        assert file.read_bytes() == (Path("runs/background") / file.relative_to("runs/at-once")).read_bytes()


@pytest.mark.parametrize("background", [False, True])
def test_a_full_disk_costs_a_checkpoint_and_not_the_run(here: Path, background: bool) -> None:
    """The disk is full from step 2 to step 4: steps 2 to 4 are not saved, and nothing else is different."""
    name = f"full-disk-{background}"
    display = Notes()
    settings = ["train.checkpoint.every=1", "train.checkpoint.keep=2", f"train.checkpoint.background={background}"]
    with files_no_larger_than(20_000) as fill:
        empty = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (-1, -1))
        display.at_step = {2: after_what_is_being_saved(fill), 5: after_what_is_being_saved(empty)}
        result = run(name, *settings, display=display)
    assert result.status == "finished"
    failures = [note for note in display.notes if "could not be saved" in note]
    assert len(failures) == 3
    assert "File too large; the run continues, step_00000001 stays" in failures[0]
    assert checkpoints(name) == ["step_00000005", "step_00000006"]
    run("disk-with-room", "train.checkpoint.every=1") if not Path("runs/disk-with-room").exists() else None
    assert largest_difference(Path("runs/disk-with-room"), Path("runs", name)) == 0


def test_a_folder_that_takes_nothing_costs_a_checkpoint_and_not_the_run(here: Path) -> None:
    """As where a disk is remounted read-only: no folder can be made from step 2 to step 4."""
    folder, away = Path("runs/read-only/checkpoints"), Path("runs/read-only/away")
    display = Notes()

    def no_folder() -> None:
        folder.rename(away)
        folder.touch()

    def folder_again() -> None:
        folder.unlink()
        away.rename(folder)

    display.at_step = {2: no_folder, 5: folder_again}
    assert run("read-only", "train.checkpoint.every=1", display=display).status == "finished"
    failures = [note for note in display.notes if "could not be saved" in note]
    assert len(failures) == 3
    assert failures[0].endswith("the run continues, step_00000001 stays")
    assert checkpoints("read-only") == ["step_00000001", "step_00000005", "step_00000006"]


@pytest.mark.parametrize("background", [False, True])
def test_an_old_checkpoint_that_cannot_be_removed_does_not_cost_the_new_one(here: Path, background: bool) -> None:
    name = f"stuck-{background}"
    old = Path("runs", name, "checkpoints/step_00000001")
    display = Notes()

    def stick() -> None:
        shutil.rmtree(old)
        old.touch()  # which is no folder to remove

    display.at_step = {2: after_what_is_being_saved(stick), STEPS: after_what_is_being_saved(old.unlink)}
    settings = ["train.checkpoint.every=1", "train.checkpoint.keep=1", f"train.checkpoint.background={background}"]
    result = run(name, *settings, display=display)
    assert (result.status, result.checkpoint) == ("finished", old.with_name("step_00000006"))
    said = [note for note in display.notes if "could not be removed" in note]
    assert len(said) == 4
    assert "step_00000002 is saved, but what it replaces could not be removed" in said[0]
    assert not any("could not be saved" in note for note in display.notes)
    assert checkpoints(name) == ["step_00000006"]


def test_a_folder_that_is_removed_is_there_again_with_the_next_checkpoint(here: Path) -> None:
    folder = Path("runs/removed")
    display = Notes()
    display.at_step = {4: partial(shutil.rmtree, folder)}
    settings = ["train.checkpoint.every=2", "train.schedule=constant"]
    assert run("removed", *settings, "train.steps=7", display=display).status == "finished"
    again = "runs/removed was removed: it is created again, with this checkpoint"
    assert display.notes.count(again) == 1
    assert checkpoints("removed") == [f"step_{step:08d}" for step in (4, 6, 7)]
    assert [line[0] for line in curve(folder)] == [5, 6, 7]
    assert run("removed", *settings, "train.steps=8").status == "finished"
    run("never-removed", *settings, "train.steps=8")
    for name, weight in final_weights(Path("runs/never-removed")).items():
        np.testing.assert_array_equal(final_weights(folder)[name], weight)


@pytest.mark.parametrize("background", [False, True])
def test_checkpoints_that_others_put_there_do_not_cost_the_runs_own(here: Path, background: bool) -> None:
    name = f"visited-{background}"

    def visit() -> None:
        for step in (100, 200):
            Path("runs", name, f"checkpoints/step_{step:08d}").mkdir()

    display = Notes()
    display.at_step = {2: visit}
    settings = ["train.checkpoint.every=1", "train.checkpoint.keep=2", f"train.checkpoint.background={background}"]
    assert run(name, *settings, display=display).status == "finished"
    assert checkpoints(name) == [f"step_{step:08d}" for step in (5, 6, 100, 200)]


def test_the_last_step_must_be_saved_and_the_run_can_be_finished_later(here: Path) -> None:
    display = Notes()
    with files_no_larger_than(20_000) as fill:
        display.at_step = {STEPS: fill}
        with pytest.raises(
            TrainingError, match=r"step 6 could not be saved in .*: make room, and give the same command"
        ):
            run("full-at-the-end", display=display)
    assert checkpoints("full-at-the-end") == ["step_00000003"]
    assert run("full-at-the-end").status == "finished"
    assert [line[0] for line in curve(Path("runs/full-at-the-end"))] == list(range(1, STEPS + 1))


@pytest.mark.parametrize("optimizer", ["adafactor", "adamw8bit", "muon"])
def test_every_optimizer_goes_on_from_a_checkpoint_with_the_same_numbers(here: Path, optimizer: str) -> None:
    if optimizer == "adamw8bit":
        pytest.importorskip("bitsandbytes", reason="the extra adamw8bit is not installed")
    chosen = f"train.optimizer={optimizer}"
    first = run(optimizer, chosen).run
    again = rewind(first, Path("runs") / f"{optimizer}-again", 3)
    run(again.name, chosen)
    for name, weight in final_weights(first).items():
        np.testing.assert_array_equal(final_weights(again)[name], weight)


def test_frozen_parameters_stay_and_the_others_move(here: Path) -> None:
    from safetensors.numpy import load_file

    before = load_file("models/base/model.safetensors")
    result = run("frozen", "train.freeze=[contextualizer.*, denoiser.norm.weight]", "train.ema.decay=null")
    after = final_weights(result.run)
    frozen = {
        name for name in before if name.startswith(("contextualizer.", "normalizer.")) or name == "denoiser.norm.weight"
    }
    for name, weight in before.items():
        assert np.array_equal(weight, after[name]) == (name in frozen), name
    saved = load_file(result.checkpoint / "weights.safetensors")
    assert saved.keys() == before.keys() - frozen


def test_a_checkpoint_becomes_a_model(here: Path) -> None:
    from safetensors.numpy import load_file

    from lexalcm.errors import UserError
    from lexalcm.train.bootstrap import bootstrap_from_checkpoint

    result = run("to-model")
    checkpoint = result.run / "checkpoints/step_00000003"
    bootstrap_from_checkpoint(checkpoint, Path("models/at-3"))
    made, averaged = load_file("models/at-3/model.safetensors"), load_file(checkpoint / "ema.safetensors")
    for name, weight in averaged.items():
        np.testing.assert_array_equal(made[name], weight)
    bootstrap_from_checkpoint(result.run, Path("models/newest"))
    exported = final_weights(result.run)
    for name, weight in load_file("models/newest/model.safetensors").items():
        np.testing.assert_array_equal(exported[name], weight)
    with pytest.raises(UserError, match="--from-checkpoint models/base: neither the folder of a run nor one of its"):
        bootstrap_from_checkpoint(Path("models/base"), Path("models/none"))
