"""Runs that are killed, stopped, or find a damaged checkpoint go on with the curve of a run never disturbed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from training_workspace import curve, largest_difference, rewind

from lexalcm.train.run import read_run_config, train

LONG = ["train.steps=100", "train.checkpoint.every=10", "train.validate_every=50"]
FIRST_CHECKPOINT = "step_00000010"


@pytest.fixture
def here(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(workspace)
    return workspace


@pytest.fixture(scope="module")
def undisturbed(workspace: Path) -> Path:
    before = Path.cwd()
    os.chdir(workspace)
    try:
        train(read_run_config(Path("config.yaml"), [*LONG, "name=undisturbed"], "auto"))
    finally:
        os.chdir(before)
    return workspace / "runs/undisturbed"


def start(workspace: Path, name: str) -> subprocess.Popen:
    sets = [argument for setting in LONG for argument in ("--set", setting)]
    command = [sys.executable, "-m", "lexalcm", "train", "--config", "config.yaml", "--name", name, *sets]
    return subprocess.Popen(
        command,
        cwd=workspace,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def disturb(workspace: Path, name: str, number: signal.Signals) -> subprocess.CompletedProcess:
    """Begin the long run in a process of its own and send it a signal once it has saved a checkpoint."""
    process = start(workspace, name)
    checkpoint = workspace / "runs" / name / "checkpoints" / FIRST_CHECKPOINT
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def test_a_killed_run_goes_on_as_if_nothing_had_happened(here: Path, undisturbed: Path) -> None:
    killed = disturb(here, "killed", signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    assert not Path("runs/killed/model").exists()
    result = train(read_run_config(Path("config.yaml"), [*LONG, "name=killed"], "auto"))
    assert result.status == "finished"
    assert largest_difference(undisturbed, Path("runs/killed")) < 1e-6
    assert [line[0] for line in curve(Path("runs/killed"))] == list(range(1, 101))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_finishes_the_step_saves_and_ends_well(here: Path, undisturbed: Path, number: signal.Signals) -> None:
    name = number.name.lower()
    stopped = disturb(here, name, number)
    assert stopped.returncode == 0, stopped.stderr
    step = curve(Path("runs") / name)[-1][0]
    assert step < 100
    assert f"stopped at step {step}" in stopped.stderr
    assert (Path("runs") / name / "latest").read_text().strip() == f"step_{step:08d}"
    train(read_run_config(Path("config.yaml"), [*LONG, f"name={name}"], "auto"))
    assert largest_difference(undisturbed, Path("runs") / name) < 1e-6


def notes_of(settings: list[str], resume: str = "auto") -> list[str]:
    """Run with a display that only remembers what it is told."""
    from lexalcm.train.monitor import Silent

    class Notes(Silent):
        def __init__(self) -> None:
            self.notes: list[str] = []

        def note(self, text: str) -> None:
            self.notes.append(text)

    display = Notes()
    train(read_run_config(Path("config.yaml"), settings, resume), resume=resume, display=display)
    return display.notes


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-8])


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
    assert "passing over the checkpoint step_00000006" in notes[0]
    assert file in notes[0]
    assert "going on from step 3" in notes[1]
    assert largest_difference(first, again) < 1e-6


def test_what_a_killed_writer_left_is_cleared_away(here: Path) -> None:
    train(read_run_config(Path("config.yaml"), ["name=leftover"], "auto"))
    again = rewind(Path("runs/leftover"), Path("runs/leftover-again"), 3)
    (again / "checkpoints/.step_00000006.123.tmp").mkdir()
    (again / "metrics.jsonl").open("a").write('{"step": 6, "lo')
    train(read_run_config(Path("config.yaml"), ["name=leftover-again"], "auto"))
    assert sorted(path.name for path in (again / "checkpoints").iterdir()) == ["step_00000003", "step_00000006"]
    assert [line[0] for line in curve(again)] == [1, 2, 3, 4, 5, 6]


def test_resume_from_a_given_checkpoint_forgets_what_came_after(here: Path) -> None:
    train(read_run_config(Path("config.yaml"), ["name=back"], "auto"))
    before = [json.loads(line)["loss"] for line in Path("runs/back/metrics.jsonl").read_text().splitlines()]
    assert notes_of([], resume="runs/back/checkpoints/step_00000003") == [
        "going on from step 3 (runs/back/checkpoints/step_00000003)"
    ]
    assert [json.loads(line)["loss"] for line in Path("runs/back/metrics.jsonl").read_text().splitlines()] == before


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
