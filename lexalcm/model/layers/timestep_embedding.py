"""From timesteps to vectors.

Shapes: T timesteps, W width.
"""

import math

import torch
from torch import Tensor, nn

from lexalcm.model.layers.linear import Linear

FREQUENCIES = 256
MAX_PERIOD = 10_000.0


class TimestepEmbedding(nn.Module):
    """Sinusoids of the timestep through two linear layers with a SiLU between (arXiv 2212.09748).

    Initialised as published: weights normal with standard deviation 0.02, biases zero.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = Linear(FREQUENCIES, width)
        self.fc2 = Linear(width, width)
        for layer in (self.fc1, self.fc2):
            if not layer.weight.is_meta:  # there is nothing to draw, and torch would load its compiler for it: 2 s
                nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, timesteps_T: Tensor) -> Tensor:
        """Embeddings of timesteps, [T, W]."""
        half = FREQUENCIES // 2
        exponents = torch.arange(half, dtype=torch.float32, device=timesteps_T.device) / half
        angles = timesteps_T[:, None].float() * torch.exp(-math.log(MAX_PERIOD) * exponents)
        sinusoids = torch.cat([angles.cos(), angles.sin()], dim=-1)
        return self.fc2(nn.functional.silu(self.fc1(sinusoids.to(self.fc1.weight.dtype))))
