"""Each process writes its share of a checkpoint, under every engine the same numbers as are gathered whole."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from forked_runs import free_port
from training_workspace import zero

PROCESSES = 3
JOBS = {
    "ddp": ["train.engine=ddp"],
    "fsdp": ["train.engine=fsdp"],
    "ddp-adafactor": ["train.engine=ddp", "train.optimizer=adafactor"],
    **{f"zero{stage}": [zero(stage)] for stage in range(4)},
}


def places(processes: int) -> list[dict[str, str]]:
    """What srun tells each of some processes."""
    port = str(free_port())
    return [
        os.environ
        | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_STEP_NUM_TASKS": str(processes)}
        | {"SLURM_STEP_NODELIST": "localhost", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        for rank in range(processes)
    ]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("saved")
    jobs = [{"name": name, "port": free_port(), "set": settings} for name, settings in JOBS.items()]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    command = [sys.executable, str(Path(__file__).with_name("checkpoint_worker.py")), "jobs.json", "out.json"]
    tests = str(Path(__file__).parents[1])
    workers = [
        subprocess.Popen(
            command,
            cwd=folder,
            env=place | {"PYTHONPATH": os.pathsep.join([tests, place.get("PYTHONPATH", "")])},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for place in places(PROCESSES)
    ]
    outputs = [worker.communicate(timeout=400)[0] for worker in workers]
    assert all(worker.returncode == 0 for worker in workers), "\n".join(outputs)
    return json.loads((folder / "out.json").read_text())


@pytest.mark.parametrize("job", JOBS)
def test_files_of_all_processes_hold_every_tensor_once_and_bit_for_bit(
    saved: dict[str, dict[str, Any]], job: str
) -> None:
    found = saved[job]
    assert found["names"]
    assert found["numbers"]
    assert found["differ"]  # the average is not the weights
    assert found["background"]


@pytest.mark.parametrize("job", JOBS)
def test_no_process_writes_much_more_than_its_share(saved: dict[str, dict[str, Any]], job: str) -> None:
    files = saved[job]["files"]
    of_rank = [f"-{rank:05d}-of-{PROCESSES:05d}.safetensors" for rank in range(1, PROCESSES + 1)]
    assert sorted(files) == sorted(
        ["state.json", *(kind + end for kind in ("weights", "optimizer", "ema") for end in of_rank)]
    )
    written = [sum(size for name, size in files.items() if name.endswith(end)) for end in of_rank]
    headers = 3 * 8192
    assert max(written) - min(written) <= 3 * saved[job]["largest"] + headers
    assert max(written) < 0.4 * sum(written)


def test_machines_that_do_not_share_the_folder_are_refused_before_the_first_step(
    workspace: Path, tmp_path: Path
) -> None:
    shutil.copytree(workspace, tmp_path / "other", ignore=shutil.ignore_patterns("runs", "*.log"))
    command = [sys.executable, "-m", "lexalcm", "train", "--config", "config.yaml", "--name", "apart"]
    runs = [
        subprocess.Popen(
            [*command, "--set", "train.engine=ddp"],
            cwd=folder,
            env=place,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for folder, place in zip((workspace, tmp_path / "other"), places(2), strict=True)
    ]
    outputs = [run.communicate(timeout=300)[0] for run in runs]
    assert [run.returncode for run in runs] == [2, 2], outputs
    (line,) = re.findall(r"^lcm: .*$", "".join(outputs), re.MULTILINE)
    assert "process 1 on " in line
    assert "does not see what process 0 on " in line
    assert "a file system which all machines share" in line
    assert not (workspace / "runs/apart").exists()
    assert not list((workspace / "runs").glob(".apart*"))
