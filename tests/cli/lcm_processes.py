"""Real `lcm` processes that are there in milliseconds, to be killed: see `tests/distributed/fork_server.py`."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

FORK_SERVER = Path(__file__).parents[1] / "distributed" / "fork_server.py"
PATIENCE = 120.0


class Processes:
    """Starts `lcm` command lines in a folder."""

    def __init__(self, folder: Path, imports: Sequence[str]) -> None:
        self.log = folder / "log"
        self.server = subprocess.Popen(
            [sys.executable, str(FORK_SERVER), *imports],
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **request: object) -> int | None:
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    def start(self, line: list[str]) -> int:
        return self.ask(arguments=line, environment={}, output=str(self.log))

    def wait(self, process: int) -> int:
        ends = time.monotonic() + PATIENCE
        while (code := self.ask(poll=process)) is None:
            assert time.monotonic() < ends, self.log.read_text()
            time.sleep(0.005)
        return code


@contextmanager
def lcm_processes(folder: Path, imports: Sequence[str]) -> Iterator[Processes]:
    """With modules imported already, which the commands will need."""
    made = Processes(folder, imports)
    try:
        yield made
    finally:
        made.server.stdin.close()
        made.server.wait(PATIENCE)
