"""An exponential moving average of the weights: smoother than the last step's, and what diffusion models are used with.

After every update, average += (1 - d) (weights - average), with d growing to the decay that was asked for,
d = min(decay, (1 + n) / (10 + n)) after n updates: at the start the average follows the weights instead of remembering
how they were initialised. It is kept in float32 over the same shards as the optimizer's weights, so that it costs 4
bytes a parameter divided by the processes that share them, and no communication.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


class MovingAverage:
    """The average of float32 tensors that an optimizer updates in place.

    Args:
        tensors: what is averaged; this process's shards, or whole parameters.
        decay: see the module's text.
    """

    def __init__(self, tensors: Sequence[Tensor], decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._tensors = [tensor.detach() for tensor in tensors]
        self._averages = [tensor.clone() for tensor in self._tensors]

    @property
    def nbytes(self) -> int:
        """Bytes held by this process."""
        return sum(average.nbytes for average in self._averages)

    @torch.no_grad()
    def update(self) -> None:
        """Take in the tensors after an update."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self._averages, self._tensors, 1 - decay)

    @torch.no_grad()
    def restart(self, updates: int) -> None:
        """Take the tensors as they are for the average after so many updates."""
        self.updates = updates
        torch._foreach_copy_(self._averages, self._tensors)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """For a while, let the tensors hold the average, so that what reads weights reads it."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for tensor, average in zip(self._tensors, self._averages, strict=True):
            kept = tensor.clone()
            tensor.copy_(average)
            average.copy_(kept)
