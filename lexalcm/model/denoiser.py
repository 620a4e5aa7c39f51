"""The denoiser of a two-tower LCM: from noisy concepts, their timesteps and the contexts to the network's prediction.

Three decisions make it cheaper than the published code at equal results:

- Its self-attention attends one position only, itself, whose attention weight is one whatever queries and keys are: it
  is value and output projection, and query and key projections do not exist.
- The timestep takes only `diffusion.steps` values. Each layer computes its modulation (nine vectors) once per value and
  looks up rows of that table, instead of once per position: the modulation is 9 W^2 of a layer's 15 W^2 + 3 W F
  multiplications per position, and here costs that of `steps` positions whatever the batch.
- In generation, keys and values of the contexts are computed once per concept and not once per denoising step.

It has no positions of its own: the contexts carry them.

Shapes: B rows, L positions, Q of them that see contexts, K keys, T timesteps, D embedding dimension, W width, M = 9 W
modulation, H heads, E size of a head.
"""

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from lexalcm.model.attention import Attention, initialize_attention_input, initialize_attention_output, mix_values
from lexalcm.model.config import ModelConfig
from lexalcm.model.transformer import RMSNorm, SwiGLU

FREQUENCIES = 256
MAX_PERIOD = 10_000.0


class TimestepEmbedding(nn.Module):
    """Sinusoids of the timestep through two linear layers with a SiLU between (arXiv 2212.09748).

    Initialised as published: weights normal with standard deviation 0.02, biases zero.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(FREQUENCIES, width)
        self.fc2 = nn.Linear(width, width)
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


class SelfProjection(nn.Module):
    """Self-attention of a position to itself alone: value and output projection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.v_proj = nn.Linear(width, width)
        self.output_proj = nn.Linear(width, width)
        initialize_attention_input(self.v_proj)
        initialize_attention_output(self.output_proj)

    def forward(self, x: Tensor) -> Tensor:
        """[..., W] to [..., W]."""
        return self.output_proj(self.v_proj(x))


class DenoiserLayer(nn.Module):
    """Self-projection, cross-attention and feed-forward, each shifted, scaled and gated by the timestep (adaLN-zero).

    The modulator starts at zero, so that every gate is closed and a new layer passes its input on unchanged.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.width
        self.modulator = nn.Linear(width, 9 * width)
        nn.init.zeros_(self.modulator.weight)
        nn.init.zeros_(self.modulator.bias)
        self.self_norm = RMSNorm(width, config.norm_eps)
        self.self_projection = SelfProjection(width)
        self.cross_attention_norm = RMSNorm(width, config.norm_eps)
        self.cross_attention = Attention(width, config.num_heads)
        self.ffn_norm = RMSNorm(width, config.norm_eps)
        self.ffn = SwiGLU(width, config.ffn_dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x_BLW: Tensor, time_TW: Tensor, timesteps_BL: Tensor, memory_BKW: Tensor, mask_B1LK: Tensor
    ) -> Tensor:
        """One layer in training: each position at its own timestep."""
        modulation_BLM = nn.functional.embedding(timesteps_BL, self.modulation(time_TW))
        k_BHKE, v_BHKE = self.cross_attention.keys_values(memory_BKW)
        return self.denoise(x_BLW, modulation_BLM, k_BHKE, v_BHKE, mask_B1LK)

    def modulation(self, time_TW: Tensor) -> Tensor:
        """Shift, scale and gate of the three parts for each timestep, [T, M]."""
        return self.modulator(nn.functional.silu(time_TW))

    def denoise(
        self, x_BLW: Tensor, modulation_BLM: Tensor, k_BHKE: Tensor, v_BHKE: Tensor, mask_B1QK: Tensor
    ) -> Tensor:
        """One layer, given modulations and the keys and values of the contexts.

        The mask is of the first Q positions. Any further ones see the zero vector alone, whose value they take whole.
        """
        shift, scale, gate, cross_shift, cross_scale, cross_gate, ffn_shift, ffn_scale, ffn_gate = modulation_BLM.chunk(
            9, dim=-1
        )
        modulated = self.self_norm(x_BLW) * (1 + scale) + shift
        x_BLW = x_BLW + gate * self.dropout(self.self_projection(modulated))
        modulated = self.cross_attention_norm(x_BLW) * (1 + cross_scale) + cross_shift
        x_BLW = x_BLW + cross_gate * self.dropout(self._attend(modulated, k_BHKE, v_BHKE, mask_B1QK))
        modulated = self.ffn_norm(x_BLW) * (1 + ffn_scale) + ffn_shift
        return x_BLW + ffn_gate * self.dropout(self.ffn(modulated))

    def _attend(self, x_BLW: Tensor, k_BHKE: Tensor, v_BHKE: Tensor, mask_B1QK: Tensor) -> Tensor:
        seeing, blind = mask_B1QK.shape[2], x_BLW.shape[1] - mask_B1QK.shape[2]
        mixed_BHLE = mix_values(self.cross_attention.queries(x_BLW)[:, :, :seeing], k_BHKE, v_BHKE, mask_B1QK)
        if blind:
            mixed_BHLE = torch.cat([mixed_BHLE, v_BHKE[:, :, :1].expand(-1, -1, blind, -1)], dim=2)
        return self.cross_attention.output(mixed_BHLE)


class Denoiser(nn.Module):
    """Input projection, modulated layers, final norm and output projection.

    Input and output projection are initialised as published: uniform within 1 / sqrt(inputs), PyTorch's default.
    """

    def __init__(self, config: ModelConfig, timesteps: int) -> None:
        super().__init__()
        self.timesteps = timesteps
        self.time_embedding = TimestepEmbedding(config.width)
        self.input_proj = nn.Linear(config.dim, config.width)
        layers = nn.ModuleList(DenoiserLayer(config) for _ in range(config.num_layers))
        self.layers = cast("Sequence[DenoiserLayer]", layers)
        self.norm = RMSNorm(config.width, config.norm_eps)
        self.output_proj = nn.Linear(config.width, config.dim)

    def forward(self, noisy_BLD: Tensor, timesteps_BL: Tensor, memory_BKW: Tensor, mask_B1LK: Tensor) -> Tensor:
        """The network's prediction in training, [B, L, D].

        Args:
            noisy_BLD: normalized concepts with noise.
            timesteps_BL: the timestep of each position, 0 to T - 1.
            memory_BKW: what the positions may attend, the zero vector first.
            mask_B1LK: who attends what.
        """
        time_TW = self.time_embedding(torch.arange(self.timesteps, device=noisy_BLD.device))
        x_BLW = self.input_proj(noisy_BLD.to(self.input_proj.weight.dtype))
        for layer in self.layers:
            x_BLW = layer(x_BLW, time_TW, timesteps_BL, memory_BKW, mask_B1LK)
        return self.output_proj(self.norm(x_BLW))

    def modulations(self, timesteps_T: Tensor) -> list[Tensor]:
        """Each layer's modulation of the given timesteps, [T, M]; for generation, where all positions share one."""
        time_TW = self.time_embedding(timesteps_T)
        return [layer.modulation(time_TW) for layer in self.layers]

    def keys_values(self, memory_BKW: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Each layer's keys and values of what may be attended."""
        return [layer.cross_attention.keys_values(memory_BKW) for layer in self.layers]

    def denoise(
        self,
        noisy_BLD: Tensor,
        modulations: list[Tensor],
        keys_values: list[tuple[Tensor, Tensor]],
        mask_B1QK: Tensor,
    ) -> Tensor:
        """The network's prediction in generation, [B, L, D].

        Args:
            noisy_BLD: normalized concepts with noise.
            modulations: of the present timestep, for each layer [M].
            keys_values: of the contexts, for each layer.
            mask_B1QK: who attends what; positions after the first Q see the zero vector alone.
        """
        x_BLW = self.input_proj(noisy_BLD.to(self.input_proj.weight.dtype))
        for layer, modulation_M, (k_BHKE, v_BHKE) in zip(self.layers, modulations, keys_values, strict=True):
            x_BLW = layer.denoise(x_BLW, modulation_M, k_BHKE, v_BHKE, mask_B1QK)
        return self.output_proj(self.norm(x_BLW))
