"""Runs in processes of their own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from forked_runs import ForkServer, free_port
from training_workspace import make_workspace


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable[..., Any]) -> Path:
    """A folder with data sets, a model, and settings that use them."""
    return make_workspace(tmp_path_factory.mktemp("workspace"), make_dataset)


@pytest.fixture(scope="session")
def launch(workspace: Path) -> Callable[[int, Sequence[dict[str, Any]]], None]:
    """Runs a list of jobs one after the other in some processes, as srun starts them, which import everything once."""

    def run(processes: int, jobs: Sequence[dict[str, Any]]) -> None:
        file = workspace / f"jobs-{processes}-{jobs[0]['name']}.json"
        file.write_text(json.dumps([{"port": free_port(), **job} for job in jobs]))
        workers = []
        for rank in range(processes):
            place = {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_STEP_NUM_TASKS": str(processes)}
            command = [sys.executable, str(Path(__file__).with_name("worker.py")), str(file)]
            environment = os.environ | place | {"OMP_NUM_THREADS": "1", "SLURM_STEP_NODELIST": "localhost"}
            workers.append(
                subprocess.Popen(
                    command, cwd=workspace, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
                )
            )
        outputs = [worker.communicate(timeout=300)[0] for worker in workers]
        assert all(worker.returncode == 0 for worker in workers), "\n".join(outputs)

    return run


@pytest.fixture(scope="session")
def forks(workspace: Path) -> Iterator[ForkServer]:
    """Starts `lcm` command lines in the workspace, in milliseconds."""
    server = ForkServer(workspace)
    yield server
    server.close()
