"""The most memory that this process has had."""

import resource
import sys

import torch


def peak_bytes(device: torch.device) -> int:
    """Peak of the tensors on the process's GPU, or of its whole memory on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
