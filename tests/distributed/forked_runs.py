"""Runs of `lcm train` in processes that the fork server starts."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

PATIENCE = 120.0  # seconds that anything may take on a busy machine


class ForkServer:
    """Starts `lcm` command lines in a folder, in milliseconds."""

    def __init__(self, folder: Path, imports: Sequence[str] = ()) -> None:
        self.folder = folder
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("fork_server.py")), *imports],
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"},  # as `lcm` sets it
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def train(self, name: str, settings: Sequence[str], processes: int = 1, options: Sequence[str] = ()) -> "Run":
        """Start `lcm train --name NAME` in so many processes, as if srun had done it."""
        sets = [argument for setting in settings for argument in ("--set", setting)]
        arguments = ["train", "--config", "config.yaml", "--name", name, *sets, *options]
        output = self.folder / f"{name}.log"
        port = str(free_port())
        ids = []
        for rank in range(processes):
            environment = {
                "SLURM_PROCID": str(rank),
                "SLURM_LOCALID": str(rank),
                "SLURM_STEP_NUM_TASKS": str(processes),
            }
            environment |= {"SLURM_STEP_NODELIST": "localhost", "MASTER_PORT": port}
            ids.append(self._ask({"arguments": arguments, "environment": environment, "output": str(output)}))
        return Run(self, self.folder / "runs" / name, output, ids)

    def poll(self, process: int) -> int | None:
        """A process's exit code, or none while it runs."""
        return self._ask({"poll": process})

    def close(self) -> None:
        """End it."""
        self._process.stdin.close()
        self._process.wait(PATIENCE)

    def _ask(self, request: dict) -> int | None:
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


class Run:
    """One run's processes."""

    def __init__(self, server: ForkServer, folder: Path, output: Path, ids: list[int]) -> None:
        self.folder = folder
        self.ids = ids
        self._server = server
        self._output = output
        self._codes: list[int | None] = [None] * len(ids)

    @property
    def output(self) -> str:
        """What all runs of this name have written to stdout and stderr."""
        return self._output.read_text()

    def codes(self) -> list[int | None]:
        """The exit codes by rank, none for those that run."""
        self._codes = [
            self._server.poll(process) if code is None else code
            for process, code in zip(self.ids, self._codes, strict=True)
        ]
        return self._codes

    def wait(self) -> list[int | None]:
        """Wait until all have ended; gives their exit codes."""
        assert wait_until(lambda: None not in self.codes()), f"{self.codes()}\n{self.output}"
        return self._codes

    def send(self, number: signal.Signals, ranks: Sequence[int] | None = None) -> None:
        """Send a signal to processes that run: to some, or to all."""
        for rank in range(len(self.ids)) if ranks is None else ranks:
            if self._codes[rank] is None:
                os.kill(self.ids[rank], number)

    def step(self) -> int:
        """The newest checkpoint's step."""
        return max((int(name[5:]) for name in self._checkpoints() if name.startswith("step_")), default=0)

    def is_saving(self) -> bool:
        """Whether a checkpoint is being written."""
        return any(name.startswith(".step_") for name in self._checkpoints())

    def _checkpoints(self) -> list[str]:
        folder = self.folder / "checkpoints"
        return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def wait_until(condition: Callable[[], bool], patience: float = PATIENCE) -> bool:
    """Wait for something to become true; whether it did."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
