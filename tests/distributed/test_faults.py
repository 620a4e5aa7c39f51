"""Faults under engines that shard: one process is killed or cannot write, and the curve stays as it would have been.

And faults that are no death: a process that loops, a loader process that dies or stands still.
"""

import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from forked_runs import ForkServer, Run, wait_until
from training_workspace import curve, largest_difference, zero

STEPS = 16
EVERY = 4
SETTINGS = [f"train.steps={STEPS}", f"train.checkpoint.every={EVERY}", "train.validate_every=8"]
ENGINES = {"fsdp": "train.engine=fsdp", "zero2": zero(2)}
ENDLESS = ["train.steps=100000", "train.checkpoint.every=100000", "train.validate_every=100000", "train.engine=ddp"]
SOON = 20.0  # seconds in which the others must have ended, on a busy machine


@pytest.fixture(scope="module")
def forks(workspace: Path) -> Iterator[ForkServer]:
    server = ForkServer(workspace, ["faults"])
    yield server
    server.close()


@pytest.fixture(scope="module")
def undisturbed(forks: ForkServer) -> Callable[[str], Path]:
    """A run of two processes under an engine, from its beginning to its end."""
    made: dict[str, Run] = {}

    def run(engine: str) -> Path:
        if engine not in made:
            made[engine] = forks.train(f"undisturbed-{engine}", [*SETTINGS, ENGINES[engine]], 2)
            assert made[engine].wait() == [0, 0], made[engine].output
        return made[engine].folder

    return run


def steps_done(run: Run) -> int:
    return len(curve(run.folder)) if (run.folder / "metrics.jsonl").exists() else 0


def said(run: Run, since: str = "") -> list[str]:
    """The lines of errors that have come since."""
    return [line for line in run.output[len(since) :].splitlines() if line.startswith("lcm:")]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_process_that_is_killed_ends_the_other_and_costs_nothing(
    forks: ForkServer, undisturbed: Callable[[str], Path], engine: str
) -> None:
    """Each of the two, while a checkpoint is written and between two of them."""
    name = f"killed-{engine}"
    for victim, saved, saving in ((1, 0, True), (0, EVERY, False), (0, EVERY, True), (1, 2 * EVERY, False)):
        run = forks.train(name, [*SETTINGS, ENGINES[engine]], 2)
        before = run.output
        shown = f"\nstep {saved + 2}/{STEPS} "
        assert wait_until(lambda: run.step() == saved)  # noqa: B023
        assert wait_until(run.is_saving if saving else lambda: shown in run.output[len(before) :])  # noqa: B023
        run.send(signal.SIGKILL, [victim])
        killed = time.monotonic()
        codes = run.wait()
        assert time.monotonic() - killed < SOON
        assert (codes[victim], codes[1 - victim]) == (-signal.SIGKILL, 1)
        (line,) = said(run, before)
        assert line.startswith(f"lcm: process {1 - victim} has lost another process of this run")
        assert run.step() == saved
        if saving and victim == 0:
            assert run.is_saving()  # half a checkpoint is left
        elif saving:
            assert "in write_checkpoint" in (run.folder / "logs/rank_00000.log").read_text()
    last = forks.train(name, [*SETTINGS, ENGINES[engine]], 2)
    assert last.wait() == [0, 0], last.output
    assert f"resuming from step {2 * EVERY} " in last.output
    assert "Traceback" not in last.output
    assert largest_difference(undisturbed(engine), last.folder) < 1e-6
    assert [line[0] for line in curve(last.folder)] == list(range(1, STEPS + 1))


@pytest.mark.parametrize("full", [0, 1])
@pytest.mark.parametrize("background", [False, True])
def test_shards_are_gathered_to_their_end_where_they_cannot_be_written(
    forks: ForkServer, undisturbed: Callable[[str], Path], full: int, background: bool
) -> None:
    """The disk is full, for one process, until a save has failed."""
    settings = [*SETTINGS, ENGINES["fsdp"], f"train.checkpoint.background={background}"]
    run = forks.train(f"full-fsdp-{full}-{background}", settings, 2)
    resource.prlimit(run.ids[full], resource.RLIMIT_FSIZE, (10_000, -1))
    assert wait_until(lambda: "could not be saved" in run.output), run.output
    resource.prlimit(run.ids[full], resource.RLIMIT_FSIZE, (-1, -1))
    assert run.wait() == [0, 0], run.output
    assert f"process {full} on " in run.output
    assert "File too large; the run continues, there is no checkpoint yet" in run.output
    assert largest_difference(undisturbed("fsdp"), run.folder) < 1e-6


def test_a_process_that_is_killed_while_both_write_in_the_background_costs_nothing(
    forks: ForkServer, undisturbed: Callable[[str], Path]
) -> None:
    settings = [*SETTINGS, ENGINES["fsdp"], "train.checkpoint.every=1", "train.checkpoint.background=true"]
    for kill in range(6):
        run = forks.train("killed-background", settings, 2)
        goal = run.step() + 1
        assert wait_until(lambda: run.step() >= goal and run.is_saving())  # noqa: B023
        run.send(signal.SIGKILL, [kill % 2])
        codes = run.wait()
        assert (codes[kill % 2], codes[1 - kill % 2]) == (-signal.SIGKILL, 1), run.output
    assert "Traceback" not in run.output
    assert run.step() < STEPS
    last = forks.train("killed-background", settings, 2)
    assert last.wait() == [0, 0], last.output
    assert largest_difference(undisturbed("fsdp"), last.folder) < 1e-6
    assert [line[0] for line in curve(last.folder)] == list(range(1, STEPS + 1))


def test_a_process_that_loops_is_named_with_the_line_where_it_is(forks: ForkServer) -> None:
    run = forks.train("loops", [*ENDLESS, "train.timeout=3"], 2)
    assert wait_until(lambda: steps_done(run) > 2), run.output
    run.send(signal.SIGUSR2, [1])
    assert run.wait() == [1, 1], run.output
    (line,) = said(run)
    assert "progress for 3 s" in line
    assert "process 1 (host " in line
    assert "faults.py:" in line
    assert "(loop_for_ever)" in line
    for rank, place in ((0, "trainer.py"), (1, "in loop_for_ever")):
        log = (run.folder / f"logs/rank_{rank:05d}.log").read_text()
        assert place in log[log.index("threads are at") :]


def loader_of(process: int) -> int:
    """The one process that loads data for another."""
    children = Path(f"/proc/{process}/task/{process}/children")
    assert wait_until(lambda: children.read_text() != "")
    return int(children.read_text().split()[0])


@pytest.mark.parametrize("processes", [1, 2])
def test_a_loader_process_that_is_killed_ends_the_run_with_one_line(forks: ForkServer, processes: int) -> None:
    settings = [*ENDLESS, "data.num_workers=1", *(["train.engine=single"] if processes == 1 else [])]
    run = forks.train(f"loader-killed{processes}", settings, processes)
    assert wait_until(lambda: steps_done(run) > 2), run.output
    os.kill(loader_of(run.ids[-1]), signal.SIGKILL)
    assert run.wait() == [1] * processes, run.output
    (line,) = said(run)
    assert line == (
        f"lcm: a loader process of process {processes - 1} was ended (Killed); where memory was full, lower "
        "data.num_workers; the same command resumes from the last checkpoint"
    )
    assert "Traceback" not in run.output


def test_a_loader_process_that_stands_still_is_found_out(forks: ForkServer) -> None:
    run = forks.train("loader-stopped", [*ENDLESS, "data.num_workers=1", "train.timeout=3"], 2)
    assert wait_until(lambda: steps_done(run) > 2), run.output
    os.kill(loader := loader_of(run.ids[1]), signal.SIGSTOP)
    assert run.wait() == [1, 1], run.output
    os.kill(loader, signal.SIGKILL)
    (line,) = said(run)
    assert line.startswith("lcm: process 1 (host ")
    assert "has made no progress for 3 s: it was reading data" in line
