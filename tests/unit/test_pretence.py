"""The GPU that tests pretend stops what a real one would stop."""

import os
import subprocess
import sys
from pathlib import Path

import pretended_gpu
import pytest

MEETINGS = """
import numpy as np
import torch

def stops(work, message):
    try:
        work()
    except (RuntimeError, ImportError) as error:
        assert message in str(error), error
    else:
        raise AssertionError(f"{message}: not stopped")

gpu, cpu = torch.ones(2, device="cuda"), torch.ones(2)
layer = torch.nn.Linear(2, 2).cuda()
assert (gpu.device.type, gpu.is_cuda, layer.weight.device.type, cpu.device.type) == ("cuda", True, "cuda", "cpu")
assert (gpu + layer(gpu) * 2 + torch.tensor(1.0)).device.type == "cuda"
assert (gpu.cpu() + cpu).numpy().tolist() == [2, 2]
assert cpu.copy_(gpu).device.type == cpu.pin_memory().device.type == "cpu"
stops(lambda: gpu + cpu, "tensors of CPU and GPU meet")
stops(lambda: torch.cat([gpu, cpu]), "tensors of CPU and GPU meet")
stops(lambda: layer(cpu), "tensors of CPU and GPU meet")
stops(lambda: gpu.numpy(), "numpy of a GPU's tensor")
stops(lambda: np.asarray(gpu), "__array__ of a GPU's tensor")
stops(lambda: torch.ones(2, device="cuda:2"), "invalid device ordinal")
stops(torch.cuda.CUDAGraph, "captures no graphs")
stops(lambda: __import__("triton"), "triton")
with torch.cuda.stream(torch.cuda.Stream()):
    gpu.record_stream(torch.cuda.current_stream())
assert torch.cuda.device_count() == 2
"""


def pretended(line: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"GPUS": "2", "OMP_NUM_THREADS": "1"} | variables
    return subprocess.run([sys.executable, *line], env=environment, capture_output=True, text=True, check=False)


def test_tensors_of_gpu_and_cpu_do_not_meet() -> None:
    done = pretended(["-c", MEETINGS], **pretended_gpu.pretending(gpus=2, places=True))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("gpus", [0, 2])
def test_a_command_line_has_the_gpus_that_are_asked_for(gpus: int) -> None:
    done = pretended([str(Path(pretended_gpu.__file__)), "verify", "env"], GPUS=str(gpus), GPU_GB="12")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("NVIDIA H100 80GB HBM3, 12.0 GiB") == gpus
