"""The whole model on every process, gradients averaged as they come (DistributedDataParallel, arXiv 2006.15704)."""

import inspect
from contextlib import AbstractContextManager
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lexalcm.train.engines.single import SingleEngine
from lexalcm.train.engines.training_loss import TrainingLoss

BUFFERS_SENT_AROUND = (
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    else "broadcast_buffers"  # its name before torch 2.13
)


class DDPEngine(SingleEngine):
    """`SingleEngine` on several processes; the process group must be there."""

    name = "ddp"

    def _wrap(self, loss: TrainingLoss) -> nn.Module:
        # Every process has loaded the same weights and buffers, so none are sent around.
        options: dict[str, Any] = {BUFFERS_SENT_AROUND: False}
        self._replica = DistributedDataParallel(
            super()._wrap(loss), init_sync=False, gradient_as_bucket_view=True, **options
        )
        return self._replica

    def _before_the_last(self) -> AbstractContextManager[None]:
        return self._replica.no_sync()

    def close(self) -> None:
        """See `Engine.close`; what holds the process group must be gone before the group is."""
        del self._replica, self._loss
