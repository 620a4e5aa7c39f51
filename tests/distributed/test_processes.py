"""What the processes of a run owe each other and their user: nobody waits for ever, and an error is said once."""

import json
import shutil
import signal
import socket
from pathlib import Path

import pytest
from forked_runs import ForkServer, wait_until
from training_workspace import curve

LONG = ["train.steps=1000", "train.checkpoint.every=1000", "train.validate_every=1000"]
TWO = [*LONG, "train.engine=ddp"]


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_process_that_hangs_is_named_and_the_others_end(forks: ForkServer, stopped: int) -> None:
    """Stopped by SIGSTOP, it keeps its connections and says nothing, as on a machine without power."""
    run = forks.train(f"hangs{stopped}", [*TWO, "train.timeout=4"], 2)
    assert wait_until(lambda: (run.folder / "metrics.jsonl").exists() and len(curve(run.folder)) > 2)
    run.send(signal.SIGSTOP, [stopped])
    other = 1 - stopped
    assert wait_until(lambda: run.codes()[other] is not None), run.output
    run.send(signal.SIGKILL, [stopped])
    assert run.wait()[other] == 1
    said = [line for line in run.output.splitlines() if line.startswith("lcm:")]
    assert len(said) == 1
    assert f"process {stopped} (host " in said[0]
    assert "has not answered for 4 s" in said[0]
    assert "Traceback" not in run.output


def test_two_trainings_of_one_name_do_not_disturb_each_other(forks: ForkServer) -> None:
    first = forks.train("taken", LONG)
    assert wait_until(lambda: (first.folder / "metrics.jsonl").exists())
    second = forks.train("taken", LONG, options=["--resume", "never", "--overwrite"])
    assert second.wait() == [2]
    holder = f"another lcm train (process {first.ids[0]} on {socket.gethostname()})"
    assert f"lcm: {holder} is running in runs/taken: wait for its end, or choose another --name\n" in first.output
    steps = len(curve(first.folder))
    assert wait_until(lambda: len(curve(first.folder)) > steps)
    first.send(signal.SIGKILL)
    assert first.wait() == [-signal.SIGKILL]
    third = forks.train("taken", [*LONG, "train.steps=3"], options=["--resume", "never", "--overwrite"])
    assert third.wait() == [0], third.output


def test_an_error_of_all_processes_is_said_once(forks: ForkServer) -> None:
    run = forks.train("wrong", [*TWO, "train.lr=1.0"], 2, options=["--stop-code", "99"])
    assert wait_until(lambda: (run.folder / "config.yaml").exists())
    run.send(signal.SIGTERM)
    assert run.wait() == [99, 99], run.output
    again = forks.train("wrong", [*TWO, "train.lr=2.0"], 2)
    assert again.wait() == [2, 2]
    assert run.output.count("was started with train.lr = 1.0, not 2.0") == 1


def test_an_error_of_one_process_is_said_by_it_and_ends_the_others(forks: ForkServer, workspace: Path) -> None:
    """The second process reads every other micro-batch, and its first is damaged."""
    broken = workspace / "broken"
    shutil.copytree(workspace / "data", broken)
    shard = next(broken.glob("train-*.tar"))
    data = bytearray(shard.read_bytes())
    shard.write_bytes(data[: len(data) // 2])
    run = forks.train("broken", [*TWO, "data.path=broken", "data.check_hashes=false"], 2)
    codes = run.wait()
    assert 2 in codes
    said = [line for line in run.output.splitlines() if line.startswith("lcm:")]
    assert json.dumps(said).count(shard.name) >= 1
    assert "Traceback" not in run.output
    assert not any("has lost another process" in line for line in said)
