"""Starting the processes of a run on this machine: `lcm train --nproc N`.

torchrun does this too, and more: several machines, one after the other joining. For one machine this is lighter (torch
is not loaded a second time to start others), exits with the code that the run ended with (torchrun always with 1, under
a traceback), and passes every signal on and then waits for as long as the processes need to save.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from types import FrameType

from lexalcm.distributed.signals import StopRequest, handled_signals
from lexalcm.errors import ConfigError

LAUNCHERS = {"RANK": "torchrun or deepspeed", "WORLD_SIZE": "torchrun or deepspeed", "SLURM_STEP_NUM_TASKS": "srun"}
"""Who has started a process that finds this in its environment."""

GRACE = 10.0  # seconds that processes have to end by themselves when one of them has failed
POLL = 0.05
USER_ERROR = ConfigError.exit_code
INTERRUPTED = 128 + signal.SIGINT
PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def count_processes(nproc: str) -> int:
    """How many processes `--nproc` asks for: a number, or `gpu`, one for each GPU that torch sees.

    Raises:
        ConfigError: neither, or there is no GPU.
    """
    if nproc == "gpu":
        import torch  # seconds, which a number does without

        gpus = torch.cuda.device_count()
        if gpus == 0:
            raise ConfigError("--nproc gpu: torch sees no GPU here (lcm verify env says why); give a number instead")
        return gpus
    if not nproc.isdecimal() or int(nproc) < 1:
        raise ConfigError(f"--nproc {nproc}: give a number of processes, at least 1, or gpu for one on each GPU")
    return int(nproc)


def check_not_launched(processes: int, environment: Mapping[str, str]) -> None:
    """Make sure that no other launcher has started this process already.

    Raises:
        ConfigError: one has; a lone task of `srun` may start processes itself.
    """
    for name, launcher in LAUNCHERS.items():
        if name in environment and not (launcher == "srun" and environment[name] == "1"):
            raise ConfigError(
                f"--nproc {processes} starts the processes itself, but {launcher} has started this one ({name} is "
                f"{environment[name]}): omit one of them"
            )


def without_options(arguments: Sequence[str], names: Sequence[str]) -> list[str]:
    """Command-line arguments without some options and their values, written as `--name value` or `--name=value`."""
    kept, skip = [], False
    for argument in arguments:
        if skip:
            skip = False
        elif argument in names:
            skip = True
        elif argument.partition("=")[0] not in names:
            kept.append(argument)
    return kept


def run_processes(
    command: Sequence[str],
    processes: int,
    *,
    restarts: int = 0,
    stop_code: int = 0,
    stop: StopRequest | None = None,
) -> int:
    """Run a command in several processes, each told its place as torchrun does it, until all have ended.

    SIGTERM, SIGUSR1, SIGINT and (not under `nohup`) SIGHUP are passed on; what `stop` has caught before counts too.
    Where one process fails, the others are ended and all are started again while `restarts` allow it, unless it was a
    mistake of the user (code 2) or a stop had been asked for.

    Returns:
        The exit code: 0 if all ended well; 2 for a mistake of the user; after a signal the processes' own, or
        `stop_code` where it ended one that did not listen yet, and so had nothing to save; after Ctrl-C 130 then;
        else 1.
    """
    with _Forwarding(None if stop is None else stop.signal) as forwarding:
        for attempt in range(restarts + 1):
            codes = _run_once(command, processes, attempt, restarts, forwarding)
            bad = {rank: code for rank, code in codes.items() if code != 0}
            if not bad:
                return 0
            if USER_ERROR in bad.values():
                return USER_ERROR
            if forwarding.last is not None:
                if -forwarding.last in bad.values():
                    _say("stopped before all processes had started: nothing is lost, the same command resumes")
                    return INTERRUPTED if forwarding.last == signal.SIGINT else stop_code
                return max(1, *bad.values())
            rank, code = next(iter(bad.items()))
            if code < 0:
                name = signal.Signals(-code).name
                hint = ": out of memory?" if name == "SIGKILL" else ""
                _say(f"process {rank} was ended by {name}{hint}")
            if attempt < restarts:
                _say(f"starting all {processes} processes again ({attempt + 1} of {restarts} restarts)")
    return 1


class _Forwarding:
    """Passes signals on to the processes of the moment."""

    def __init__(self, last: signal.Signals | None) -> None:
        self.last = last
        self.processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "_Forwarding":
        self._before = {number: signal.signal(number, self._forward) for number in handled_signals()}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        self.last = signal.Signals(number)
        for process in self.processes:
            process.send_signal(number)


def _run_once(
    command: Sequence[str], processes: int, attempt: int, restarts: int, forwarding: _Forwarding
) -> dict[int, int]:
    """Run until all have ended; gives the exit codes by rank, in the order in which the processes ended."""
    places = {
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "TORCHELASTIC_RESTART_COUNT": str(attempt),
        "TORCHELASTIC_MAX_RESTARTS": str(restarts),
    }
    threads = {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // processes))}
    codes: dict[int, int] = {}
    running: dict[int, subprocess.Popen[bytes]] = {}
    try:
        for rank in range(processes):
            environment = threads | dict(os.environ) | places | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            running[rank] = subprocess.Popen(
                command,
                env=environment,
                start_new_session=True,  # Ctrl-C in a terminal reaches them once, from here
                preexec_fn=_end_with_parent,
            )
        forwarding.processes = list(running.values())
        if forwarding.last is not None:  # it may have missed some of them, and none has anything to save yet
            return dict.fromkeys(running, -forwarding.last)
        deadline = float("inf")
        while running:
            time.sleep(POLL)
            for rank, process in list(running.items()):
                code = process.poll()
                if code is not None:
                    codes[rank] = code
                    del running[rank]
                    if code != 0:
                        deadline = min(deadline, time.monotonic() + GRACE)
            if time.monotonic() > deadline:
                for process in running.values():
                    process.kill()
        return codes
    finally:
        forwarding.processes = []
        for process in running.values():
            process.kill()
            process.wait()


def _end_with_parent() -> None:
    """In a new process: be asked to stop, so that it saves, when the one that started it is killed."""
    if _LIBC is not None:
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _say(text: str) -> None:
    sys.stderr.write(f"lcm: {text}\n")
    sys.stderr.flush()
