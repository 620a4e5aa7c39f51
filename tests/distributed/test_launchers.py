"""The command under a launcher, on a machine without a compiler: one process speaks, and says only our own words."""

import os
import re
import subprocess
import sys
from pathlib import Path

from training_workspace import curve, zero


def test_torchrun_with_two_processes_and_no_compiler(workspace: Path, tmp_path: Path) -> None:
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PATH": str(tmp_path),  # no g++, no ninja, nothing
        "TORCH_EXTENSIONS_DIR": str(tmp_path / "extensions"),  # where compiled operators would be found, or put
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    command += ["--rdzv-endpoint", "127.0.0.1:0", "-m", "lexalcm", "train", "--config", "config.yaml"]
    command += ["--name", "torchrun", "--set", zero(2)]
    done = subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"train loss [\d.]+, validation loss [\d.]+\n", done.stdout)
    lines = done.stderr.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("step")] == [f"{step}/6" for step in range(1, 7)]
    assert len(lines) == 6 + 3  # the steps, then what was done, what was written, what is next
    assert len(curve(workspace / "runs/torchrun")) == 6
    assert not (tmp_path / "extensions").exists()
