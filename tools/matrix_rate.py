"""The rate at which this machine multiplies matrices: the measure that benchmarks of different machines share."""

import time

import torch


def matrix_rate(device: torch.device, dtype: torch.dtype, size: int = 1024, products: int = 10) -> float:
    """Floating-point operations a second (two per multiplication) of `size` x `size` x `size` products."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    a @ b
    began = now(device)
    for _ in range(products):
        a @ b
    return products * 2 * size**3 / (now(device) - began)


def now(device: torch.device) -> float:
    """Seconds, after everything that was begun on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
