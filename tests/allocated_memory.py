"""What steps allocate, by what the CPU's allocator tells the profiler, and a micro-batch to step on."""

import gc
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from lexalcm.data.batches.batch import Batch

DIM, LENGTH = 64, 32


def batch(rows: int) -> Batch:
    return Batch(
        embeddings=torch.randn(rows, LENGTH, DIM),
        documents=torch.zeros(rows, LENGTH, dtype=torch.int64),
        positions=torch.arange(LENGTH).expand(rows, LENGTH).contiguous(),
        targets=torch.ones(rows, LENGTH, dtype=torch.bool),
        number=0,
    )


def allocated_at_most(work: Callable[[], None]) -> int:
    """The most bytes of tensors at a time."""
    gc.collect()  # models of other tests, whose end would count as this work's
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    results = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = sorted((event.start_ns(), event.nbytes()) for event in results if event.name() == "[memory]")
    alive = most = 0
    for _, change in changes:
        alive += change
        most = max(most, alive)
    return most
