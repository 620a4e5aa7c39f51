"""What `lcm train --plan` says of engines that share the work, against what two processes allocate."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from forked_runs import free_port

CONFIGS = Path(__file__).parents[2] / "configs"
JOBS = {
    "ddp": ["train.engine=ddp", "data.global_batch=2"],
    "ddp, two micro-batches": ["train.engine=ddp", "data.global_batch=4"],
    "fsdp": ["train.engine=fsdp", "data.global_batch=2"],
    **{f"zero{stage}": [f"deepspeed={CONFIGS}/zero{stage}.json", "data.global_batch=2"] for stage in range(4)},
    "zero2, two micro-batches": [f"deepspeed={CONFIGS}/zero2.json", "data.global_batch=4"],
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, int]]:
    """For each job the bytes that were planned, and the most that a process allocated."""
    folder = tmp_path_factory.mktemp("memory")
    jobs = [
        {"name": name, "port": free_port(), "set": ["data.micro_batch=8", *overrides]}
        for name, overrides in JOBS.items()
    ]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    workers = []
    for rank in range(2):
        place = {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_STEP_NUM_TASKS": "2"}
        environment = os.environ | place | {"OMP_NUM_THREADS": "1", "SLURM_STEP_NODELIST": "localhost"}
        environment["PYTHONPATH"] = str(CONFIGS.parent / "tests")
        command = [sys.executable, str(Path(__file__).with_name("memory_worker.py")), "jobs.json", "out.json"]
        workers.append(
            subprocess.Popen(
                command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
    outputs = [worker.communicate(timeout=300)[0] for worker in workers]
    assert all(worker.returncode == 0 for worker in workers), "\n".join(outputs)
    return {job: (planned, most) for job, _, planned, most in json.loads((folder / "out.json").read_text())}


@pytest.mark.parametrize("job", JOBS)
def test_the_plan_is_within_a_tenth_of_what_each_of_two_processes_allocates(
    measured: dict[str, tuple[int, int]], job: str
) -> None:
    planned, most = measured[job]
    assert planned == pytest.approx(most, rel=0.1)
