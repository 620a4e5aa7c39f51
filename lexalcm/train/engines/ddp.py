"""The whole model on every process, gradients averaged as they come (DistributedDataParallel, arXiv 2006.15704)."""

import inspect
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lexalcm.objective import Objective
from lexalcm.train.engines.single import SingleEngine
from lexalcm.train.settings import TrainSettings

BUFFERS_SENT_AROUND = (
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    else "broadcast_buffers"  # its name before torch 2.13
)


class DDPEngine(SingleEngine):
    """`SingleEngine` on several processes; the process group must be there."""

    name = "ddp"
    _replica: DistributedDataParallel | None = None

    def __init__(self, objective: Objective, settings: TrainSettings, device: torch.device, precision: str) -> None:
        try:
            super().__init__(objective, settings, device, precision)
        except BaseException:
            self._let_go_of_the_group()
            raise

    def _wrap(self, objective: Objective) -> nn.Module:
        # Every process has loaded the same weights and buffers, so none are sent around.
        options: dict[str, Any] = {BUFFERS_SENT_AROUND: False}
        self._replica = DistributedDataParallel(
            super()._wrap(objective), init_sync=False, gradient_as_bucket_view=True, **options
        )
        return self._replica

    def _before_the_last(self) -> AbstractContextManager[None]:
        assert self._replica is not None
        return self._replica.no_sync()

    def close(self) -> None:
        """See `Engine.close`."""
        self._let_go_of_the_group()
        del self._replica, self._objective

    def _let_go_of_the_group(self) -> None:
        """Let go of what holds the process group, also where the replica lives on.

        It may: it is in a cycle, and a traceback that comes out of it holds it too. Were it the last to hold the group,
        the garbage collector would end the group, which waits for threads that wait for the collector.
        """
        if self._replica is not None:
            self._replica.reducer = self._replica.logger = None
