"""Dropout whose random numbers cost a third of torch's on a CPU."""

import torch
from torch import Tensor, nn

LEVELS = 2**16


class Dropout(nn.Dropout):
    """`nn.Dropout`, from a quarter of the random numbers on a CPU: 7% of a training step there.

    Torch draws 64 bits for each number that it may drop; 16 decide as well. The probability is rounded to a multiple of
    1/65536. On other devices and in compiled code, where a fused kernel does it all, it is torch's own.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Zero each number of `x` with probability `p` in training mode, and scale the others by 1 / (1 - p)."""
        if not self.training or self.p == 0 or x.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(x)
        dropped_levels = round(self.p * LEVELS)
        bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        levels = bits.view(torch.int16)[: x.numel()].view(x.shape)
        kept = torch.ge(levels, dropped_levels - LEVELS // 2, out=torch.empty_like(x, requires_grad=False))
        return x * kept.mul_(LEVELS / (LEVELS - dropped_levels))
