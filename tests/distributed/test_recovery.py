"""Runs that are killed, stopped, or find a damaged checkpoint go on with the curve of a run never disturbed."""

import json
import signal
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from forked_runs import ForkServer, Run, wait_until
from safetensors.numpy import load_file
from training_workspace import curve, final_weights, largest_difference, rewind

import lexalcm.train.run.main
from lexalcm.errors import UserError
from lexalcm.train.run.main import read_run_config, train

STEPS = 60
LONG = [f"train.steps={STEPS}", "train.checkpoint.every=1", "train.checkpoint.keep=2", "train.validate_every=20"]
KILLS = 20


@pytest.fixture
def here(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(workspace)
    return workspace


@pytest.fixture(scope="module")
def undisturbed(forks: ForkServer) -> Callable[[int], Path]:
    """The long run in so many processes, from its beginning to its end."""
    made: dict[int, Run] = {}

    def run(processes: int) -> Path:
        if processes not in made:
            made[processes] = forks.train(f"undisturbed{processes}", settings_of(processes), processes)
            assert made[processes].wait() == [0] * processes, made[processes].output
        return made[processes].folder

    return run


def settings_of(processes: int) -> list[str]:
    return LONG if processes == 1 else [*LONG, "train.engine=ddp"]


def until_random_moment(run: Run, rng: np.random.Generator, *, saving: bool, joined: bool) -> None:
    """Wait for some more steps, or none, and then for a part of a step; or for the beginning of a save.

    One that is killed before the processes have met cannot be missed by the others; then there is at least one step.
    """
    goal = run.step() + int(rng.integers(joined, 4))
    assert wait_until(lambda: run.step() >= goal or None not in run.codes())
    if saving:
        wait_until(lambda: run.is_saving() or None not in run.codes())
    time.sleep(rng.uniform(0, 0.004 if saving else 0.1))


@pytest.mark.parametrize(
    ("processes", "victims"), [(1, [[0]]), (2, [[0], [1], [0, 1]])], ids=["the-run", "one-process-or-both-of-two"]
)
def test_killed_at_20_random_moments_a_run_ends_with_the_same_weights(
    forks: ForkServer, undisturbed: Callable[[int], Path], processes: int, victims: list[list[int]]
) -> None:
    rng = np.random.default_rng(processes)
    name, half_written = f"killed{processes}", 0
    for kill in range(KILLS):
        run = forks.train(name, settings_of(processes), processes)
        killed = victims[kill % len(victims)]
        until_random_moment(run, rng, saving=kill % 2 == 1, joined=len(killed) < processes)
        run.send(signal.SIGKILL, killed)
        codes = run.wait()
        assert [codes[rank] for rank in killed] == [-signal.SIGKILL] * len(killed)
        assert all(code == 1 for rank, code in enumerate(codes) if rank not in killed), run.output  # they notice
        half_written += run.is_saving()
    assert 0 < run.step() < STEPS
    assert half_written >= 3
    last = forks.train(name, settings_of(processes), processes)
    assert last.wait() == [0] * processes, last.output
    assert largest_difference(undisturbed(processes), last.folder) < 1e-6
    assert [line[0] for line in curve(last.folder)] == list(range(1, STEPS + 1))
    assert "Traceback" not in last.output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.parametrize("processes", [1, 2])
def test_a_signal_finishes_the_step_saves_and_ends_well(
    forks: ForkServer, undisturbed: Callable[[int], Path], number: signal.Signals, processes: int
) -> None:
    """With two processes one alone gets it: the other learns it in the same step.

    At most two steps end after the signal: one whose processes had already told each other that nobody is to stop, and
    the next.
    """
    name, settings = f"{number.name.lower()}{processes}", [*settings_of(processes), "train.checkpoint.every=1000"]
    run = forks.train(name, settings, processes)
    assert wait_until(lambda: (run.folder / "metrics.jsonl").exists() and len(curve(run.folder)) > 5)
    asked = datetime.now()
    run.send(number, [processes - 1])
    assert run.wait() == [0] * processes, run.output
    step = curve(run.folder)[-1][0]
    assert step < STEPS
    assert len([time for time in times_of_steps(run.folder) if time > asked]) <= 2
    assert f"stopped at step {step}" in run.output
    assert (run.folder / "latest").read_text().strip() == f"step_{step:08d}"
    last = forks.train(name, settings, processes)
    assert last.wait() == [0] * processes, last.output
    assert largest_difference(undisturbed(processes), last.folder) < 1e-6


def test_two_processes_go_on_where_a_checkpoint_cannot_be_saved(
    forks: ForkServer, undisturbed: Callable[[int], Path]
) -> None:
    """For a while there is a file where checkpoints should go, put there while the main process stands still."""
    run = forks.train("nowhere", settings_of(2), 2)
    folder = run.folder / "checkpoints"
    assert wait_until(lambda: run.step() >= 3)
    run.send(signal.SIGSTOP, [0])
    folder.rename(run.folder / "away")
    folder.touch()
    run.send(signal.SIGCONT, [0])
    assert wait_until(lambda: run.output.count("could not be saved") >= 2)
    run.send(signal.SIGSTOP, [0])
    folder.unlink()
    (run.folder / "away").rename(folder)
    run.send(signal.SIGCONT, [0])
    assert run.wait() == [0, 0], run.output
    assert run.step() == STEPS
    assert largest_difference(undisturbed(2), run.folder) < 1e-6


def times_of_steps(folder: Path) -> list[datetime]:
    """When the main process had done each step, by its log."""
    lines = (folder / "logs/rank_00000.log").read_text().splitlines()
    return [datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f") for line in lines if '{"step": ' in line]


def notes_of(settings: list[str], resume: str = "auto") -> list[str]:
    """Run with a display that only remembers what it is told."""
    from lexalcm.train.monitor.run_monitor import NullDisplay

    class Notes(NullDisplay):
        def __init__(self) -> None:
            self.notes: list[str] = []

        def note(self, text: str) -> None:
            self.notes.append(text)

    display = Notes()
    train(read_run_config(Path("config.yaml"), settings, resume), resume=resume, display=display)
    return display.notes


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-8])


def put_on_a_failing_disk(file: Path) -> None:
    """The system gives EIO to whoever reads it, and its size is as expected."""
    state = file.with_name("state.json")
    record = json.loads(state.read_text())
    record["files"][file.name]["bytes"] = 0
    state.write_text(json.dumps(record))
    file.unlink()
    file.symlink_to("/proc/self/mem")
    with pytest.raises(OSError, match="Input/output error"):
        file.read_bytes()


def flip_a_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "file"),
    [
        (truncate, "weights.safetensors"),
        (flip_a_bit, "optimizer.safetensors"),
        (Path.unlink, "weights.safetensors"),
        (put_on_a_failing_disk, "weights.safetensors"),
        (truncate, "state.json"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over(here: Path, damage: Callable, file: str) -> None:
    name = f"damaged-{damage.__name__}-{file}"
    train(read_run_config(Path("config.yaml"), [f"name={name}"], "auto"))
    first = Path("runs") / name
    again = rewind(first, Path("runs") / f"{name}-again", 6)
    copied = again / "checkpoints/step_00000003"
    (first / "checkpoints/step_00000003").rename(copied)
    damage(again / "checkpoints/step_00000006" / file)
    notes = notes_of([f"name={name}-again"])
    assert "skipping the checkpoint step_00000006" in notes[0]
    assert file in notes[0]
    assert "resuming from step 3" in notes[1]
    assert largest_difference(first, again) < 1e-6


def test_what_a_killed_writer_left_is_cleared_away(here: Path) -> None:
    train(read_run_config(Path("config.yaml"), ["name=leftover"], "auto"))
    again = rewind(Path("runs/leftover"), Path("runs/leftover-again"), 3)
    (again / "checkpoints/.step_00000006.123.tmp").mkdir()
    (again / "checkpoints/.nfs0000123").write_text("a file")
    (again / "metrics.jsonl").open("a").write('{"step": 6, "lo')
    train(read_run_config(Path("config.yaml"), ["name=leftover-again"], "auto"))
    assert sorted(path.name for path in (again / "checkpoints").iterdir()) == ["step_00000003", "step_00000006"]
    assert [line[0] for line in curve(again)] == [1, 2, 3, 4, 5, 6]


def test_resume_from_a_given_checkpoint_sets_aside_what_came_after(here: Path) -> None:
    first = train(read_run_config(Path("config.yaml"), ["name=back", "train.checkpoint.every=1"], "auto")).run
    before = [json.loads(line)["loss"] for line in (first / "metrics.jsonl").read_text().splitlines()]
    weights = {path.name: (path / "weights.safetensors").read_bytes() for path in (first / "checkpoints").iterdir()}
    assert notes_of([], resume="runs/back/checkpoints/step_00000003") == [
        "resuming from step 3 (runs/back/checkpoints/step_00000003)",
        "checkpoints after step_00000003 were moved to runs/back/set_aside/1",
    ]
    assert [json.loads(line)["loss"] for line in (first / "metrics.jsonl").read_text().splitlines()] == before
    aside = first / "set_aside/1"
    assert [json.loads(line)["loss"] for line in (aside / "metrics.jsonl").read_text().splitlines()] == before
    kept = {path.name: (path / "weights.safetensors").read_bytes() for path in (aside / "checkpoints").iterdir()}
    assert kept == {f"step_{step:08d}": weights[f"step_{step:08d}"] for step in (4, 5, 6)}
    train(read_run_config(None, [], str(aside)), resume=str(aside))  # it is a run that can be resumed
    assert final_weights(aside).keys() == final_weights(first).keys()
    notes_of([], resume="runs/back/checkpoints/step_00000003")
    assert (first / "set_aside/2/checkpoints/step_00000006").is_dir()


def test_a_given_checkpoint_that_is_damaged_is_the_one_that_is_named(here: Path) -> None:
    train(read_run_config(Path("config.yaml"), ["name=given"], "auto"))
    given = "runs/given/checkpoints/step_00000003"
    truncate(Path(given, "optimizer.safetensors"))
    with pytest.raises(
        UserError, match=rf"^{given} cannot be used .*truncated.* or --resume runs/given to resume"
    ) as raised:
        notes_of([], resume=given)
    assert "start over" not in str(raised.value)
    assert sorted(path.name for path in Path("runs/given/checkpoints").iterdir()) == ["step_00000003", "step_00000006"]


def test_a_longer_run_that_is_killed_before_its_model_is_written_is_not_complete(here: Path) -> None:
    settings = ["name=unwritten", "train.schedule=constant"]
    first = train(read_run_config(Path("config.yaml"), settings, "auto")).run
    shorter = final_weights(first)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lexalcm.train.run.main, "export_model", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(read_run_config(Path("config.yaml"), [*settings, "train.steps=8"], "auto"))
    assert train(read_run_config(Path("config.yaml"), [*settings, "train.steps=8"], "auto")).status == "finished"
    average = load_file(first / "checkpoints/step_00000008/ema.safetensors")
    longer = final_weights(first)
    assert all(np.array_equal(longer[name], weight) for name, weight in average.items())
    assert any(not np.array_equal(shorter[name], weight) for name, weight in longer.items())
    assert train(read_run_config(Path("config.yaml"), [*settings, "train.steps=8"], "auto")).status == "complete"


def test_only_the_newest_checkpoints_are_kept(here: Path) -> None:
    settings = ["name=few", "train.checkpoint.every=1", "train.checkpoint.keep=2"]
    train(read_run_config(Path("config.yaml"), settings, "auto"))
    assert sorted(path.name for path in Path("runs/few/checkpoints").iterdir()) == ["step_00000005", "step_00000006"]
    assert Path("runs/few/latest").read_text() == "step_00000006\n"


def test_a_finished_run_may_be_made_longer(here: Path) -> None:
    settings = ["name=longer", "train.schedule=constant"]
    train(read_run_config(Path("config.yaml"), settings, "auto"))
    longer = read_run_config(None, ["train.steps=8"], "runs/longer")
    assert train(longer, resume="runs/longer").step == 8
    train(read_run_config(Path("config.yaml"), ["name=long", "train.schedule=constant", "train.steps=8"], "auto"))
    long, grown = curve(Path("runs/long")), curve(Path("runs/longer"))
    assert [line[:2] for line in grown] == [line[:2] for line in long]
