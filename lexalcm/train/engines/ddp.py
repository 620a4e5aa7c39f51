"""The whole model on every process, gradients averaged as they come (DistributedDataParallel, arXiv 2006.15704)."""

import inspect
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lexalcm.objective import Objective
from lexalcm.train.engines.protocol import Setup
from lexalcm.train.engines.single import SingleEngine, whole
from lexalcm.train.memory.layout import Layout, MemoryInputs, PlannedMemory
from lexalcm.train.settings import TrainSettings

BUFFER_BROADCAST_OPTION = (
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    else "broadcast_buffers"  # its name before torch 2.13
)


def replicated(training: MemoryInputs) -> PlannedMemory:
    """As of one process; with several micro-batches a step, their sum beside the buckets: 4 bytes a gradient."""
    use = whole(training)
    # Buckets stay. A sum over micro-batches is beside them until the last one, as are the first gradients of all.
    buckets = 4 * training.sizes.trained
    return replace(use, buffers=0 if training.once else buckets, step_buffers=max(buckets, use.step_buffers))


class DDPEngine(SingleEngine):
    """`SingleEngine` on several processes; the process group must be there."""

    name = "ddp"
    one_process = False
    needs_process_group = True
    _replica: DistributedDataParallel | None = None

    @classmethod
    def layouts(cls) -> dict[str, Layout]:
        """See `Engine.layouts`."""
        return {cls.name: Layout(f"--engine {cls.name}", replicated, casts_weights=False, listed_from=2)}

    def __init__(self, objective: Objective, settings: TrainSettings, device: torch.device, setup: Setup) -> None:
        try:
            super().__init__(objective, settings, device, setup)
        except BaseException:
            self._release_process_group()
            raise

    def _wrap(self, objective: Objective) -> nn.Module:
        # Every process has loaded the same weights and buffers, so none are sent around.
        options: dict[str, Any] = {BUFFER_BROADCAST_OPTION: False}
        self._replica = DistributedDataParallel(
            super()._wrap(objective), init_sync=False, gradient_as_bucket_view=True, **options
        )
        return self._replica

    def _before_the_last(self) -> AbstractContextManager[None]:
        assert self._replica is not None
        return self._replica.no_sync()

    def close(self) -> None:
        """See `Engine.close`."""
        self._release_process_group()
        del self._replica, self._objective

    def _release_process_group(self) -> None:
        """Let go of what holds the process group, also where the replica lives on.

        It may: it is in a cycle, and a traceback that comes out of it holds it too. Were it the last to hold the group,
        the garbage collector would end the group, which waits for threads that wait for the collector.
        """
        if self._replica is not None:
            self._replica.reducer = self._replica.logger = None
