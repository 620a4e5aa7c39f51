"""The loss by timestep: where between a clean concept and pure noise a diffusion model is good, and where it is not.

The mean over all timesteps hides it: the loss at high noise is many times that at low noise. The T timesteps fall into
ten buckets of neighbours; sums and counts travel, so that means can be taken over any number of steps and processes.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lexalcm.objective import Loss

BUCKETS = 10


class TimestepBuckets:
    """Buckets of a model's timesteps, of equal width as far as that goes."""

    def __init__(self, timesteps: int) -> None:
        """Divide so many timesteps; fewer than ten are a bucket each."""
        self.timesteps = timesteps
        self.count = min(BUCKETS, timesteps)

    @property
    def names(self) -> list[str]:
        """First and last timestep of each bucket, e.g. `00-09`, `10-19`, ... of 100."""
        digits = len(str(self.timesteps - 1))
        first = [math.ceil(number * self.timesteps / self.count) for number in range(self.count + 1)]
        return [f"{first[k]:0{digits}d}-{first[k + 1] - 1:0{digits}d}" for k in range(self.count)]

    def add_up(self, loss: Loss, targets: Tensor) -> Tensor:
        """Each bucket's summed loss, then each bucket's targets, of one micro-batch; does not wait for the device.

        Args:
            loss: of the micro-batch, with timesteps.
            targets: where the loss counts, bool [B, L], on any device.

        Returns:
            float64 [2, buckets], on the loss's device.
        """
        assert loss.timesteps is not None
        targets = targets.to(loss.per_target.device, non_blocking=True)
        buckets = loss.timesteps.flatten() * self.count // self.timesteps
        # No scatter: on a GPU its order of additions, and so its sum, is another each time.
        member = targets.flatten() & (buckets == torch.arange(self.count, device=buckets.device)[:, None])
        summed = torch.where(member, loss.per_target.flatten(), 0.0).sum(1, dtype=torch.float64)
        return torch.stack([summed, member.sum(1).double()])


def means(sums: Sequence[float], counts: Sequence[float]) -> list[float]:
    """The mean loss of each bucket; NaN where it had no target."""
    return [total / count if count else math.nan for total, count in zip(sums, counts, strict=True)]
