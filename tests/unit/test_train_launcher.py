"""Starting processes: what they are told, what their ends come to, which signals reach them."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lexalcm.distributed import launcher
from lexalcm.distributed.launcher import check_not_launched, run_processes, without_options
from lexalcm.distributed.signals import SIGNALS, StopRequest
from lexalcm.errors import ConfigError


def run(code: str, processes: int = 2, **options: int) -> int:
    return run_processes([sys.executable, "-c", "import os, signal, sys, time\n" + code], processes, **options)


def send_when_ready(number: signal.Signals, folder: Path, processes: int = 2) -> None:
    """Signal this process as soon as those that it starts have each made a file `ready*`."""

    def send() -> None:
        while len(list(folder.glob("ready*"))) < processes:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=send).start()


def test_each_process_is_told_its_place(tmp_path: Path) -> None:
    names = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"]
    assert run(f"open('{tmp_path}/' + os.environ['RANK'], 'w').write(' '.join(os.environ[n] for n in {names}))", 3) == 0
    told = [(tmp_path / str(rank)).read_text().split() for rank in range(3)]
    assert [place[:5] for place in told] == [[str(rank), str(rank), "3", "3", "127.0.0.1"] for rank in range(3)]
    assert len({place[5] for place in told}) == 1


@pytest.mark.parametrize(("codes", "code"), [("00", 0), ("01", 1), ("02", 2), ("12", 2), ("30", 1)])
def test_the_code_is_that_of_the_run(codes: str, code: int) -> None:
    assert run(f"sys.exit(int('{codes}'[int(os.environ['RANK'])]))") == code


def test_when_one_dies_the_others_are_ended(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(launcher, "GRACE", 0.2)
    began = time.monotonic()
    assert run("if os.environ['RANK'] == '1': os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(100)") == 1
    assert time.monotonic() - began < 50
    assert capfd.readouterr().err == "lcm: process 1 was ended by SIGKILL: out of memory?\n"


def test_all_are_started_again_as_often_as_allowed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    note = f"open('{tmp_path}/' + os.environ['RANK'], 'a').write('x')\n"
    attempt = note + "attempt = os.environ['TORCHELASTIC_RESTART_COUNT']\n"
    assert run(attempt + "sys.exit(0 if attempt == '2' else 1)", restarts=3) == 0
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["xxx", "xxx"]
    assert "(2 of 3 restarts)" in capfd.readouterr().err
    assert run(attempt + "sys.exit(1)", restarts=1) == 1
    assert (tmp_path / "0").read_text() == "xxxxx"


def test_a_mistake_of_the_user_is_not_tried_again(tmp_path: Path) -> None:
    assert run(f"open('{tmp_path}/' + os.environ['RANK'], 'a').write('x')\nsys.exit(2)", restarts=3) == 2
    assert (tmp_path / "0").read_text() == "x"


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_signals_are_passed_on_and_the_processes_have_the_time_to_save(tmp_path: Path, number: signal.Signals) -> None:
    code = f"""
def save(*_):
    time.sleep(0.3)
    open('{tmp_path}/saved' + os.environ['RANK'], 'a').write('x')
    sys.exit(0)
signal.signal({int(number)}, save)
open('{tmp_path}/ready' + os.environ['RANK'], 'w')
time.sleep(100)
"""
    send_when_ready(number, tmp_path)
    assert run(code, restarts=3) == 0
    assert [file.read_text() for file in sorted(tmp_path.glob("saved*"))] == ["x", "x"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_a_signal_that_the_processes_do_not_hear_yet_is_a_stop_too(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], number: signal.Signals, code: int
) -> None:
    """They end at once, and had nothing to save."""
    send_when_ready(number, tmp_path)
    ready = f"open('{tmp_path}/ready' + os.environ['RANK'], 'w')\ntime.sleep(100)"
    assert run(ready, restarts=3, stop_code=75) == code
    assert "lcm: stopped before all processes had started: nothing is lost" in capfd.readouterr().err


def test_a_signal_from_before_the_start_is_a_stop_too(tmp_path: Path) -> None:
    with StopRequest(signals=(signal.SIGUSR1,)) as stop:
        os.kill(os.getpid(), signal.SIGUSR1)
        command = [sys.executable, "-c", "import time; time.sleep(100)"]
        assert run_processes(command, 2, restarts=3, stop_code=75, stop=stop) == 75


def test_under_nohup_the_end_of_the_terminal_reaches_nobody(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        send_when_ready(signal.SIGHUP, tmp_path)
        code = f"open('{tmp_path}/ready' + os.environ['RANK'], 'w')\ntime.sleep(0.3)\n"
        assert run(code + "sys.exit(0 if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else 3)") == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_processes_are_asked_to_stop_when_their_launcher_is_killed(tmp_path: Path) -> None:
    child = f"""
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (open('{tmp_path}/saved', 'w'), os._exit(0)))
open('{tmp_path}/ready', 'w')
time.sleep(100)
"""
    parent = "import sys; from lexalcm.distributed.launcher import run_processes; run_processes(sys.argv[1:], 1)"
    started = subprocess.Popen([sys.executable, "-c", parent, sys.executable, "-c", child])
    deadline = time.monotonic() + 60
    while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    started.kill()
    while not (tmp_path / "saved").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (tmp_path / "saved").exists()


@pytest.mark.parametrize(
    ("environment", "launcher_name"),
    [({"RANK": "0"}, "torchrun or deepspeed"), ({"SLURM_STEP_NUM_TASKS": "4"}, "srun")],
)
def test_two_launchers_at_once_are_a_mistake(environment: dict[str, str], launcher_name: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"--nproc 2 starts .*{launcher_name} has started .*{next(iter(environment))}"
    ):
        check_not_launched(2, environment)


def test_a_lone_task_of_srun_may_start_processes() -> None:
    check_not_launched(8, {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"})


def test_options_of_the_launcher_are_left_out_of_the_command() -> None:
    line = ["--debug", "train", "--nproc", "2", "--name=a", "--max-restarts=4", "--set", "train.steps=3", "--nproc=3"]
    kept = ["--debug", "train", "--name=a", "--set", "train.steps=3"]
    assert without_options(line, ["--nproc", "--max-restarts"]) == kept
