"""The denoiser of a two-tower LCM: from noisy concepts, their timesteps and the contexts to the network's prediction.

Decisions that make it cheaper than the published code at equal results:

- Its self-attention attends one position only, itself, whose attention weight is one whatever queries and keys are: it
  is value and output projection, and query and key projections do not exist. Two matrices without anything between are
  one matrix: where there are many positions, their product is made first (`SelfProjection`).
- The timestep takes only `diffusion.steps` values. Each layer computes its modulation (nine vectors) once per value and
  looks up rows of that table, instead of once per position: the modulation is 9 W^2 of a layer's 15 W^2 + 3 W F
  multiplications per position, and here costs that of `steps` positions whatever the batch.
- A position sees the contexts of the positions before it in its document. Shifted by one, with the zero vector in the
  place of each document's first, that is the contextualizer's own causal mask (`shift_contexts`).

It has no positions of its own: the contexts carry them. Generation has its own form of it, `FoldedDenoiser`.

Shapes: B rows, L positions, T timesteps, D embedding dimension, W width, H heads, E size of a head.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from lexalcm.model.config import ModelConfig
from lexalcm.model.layers.attention import (
    Attention,
    initialize_attention_input,
    initialize_attention_output,
    mix_values,
)
from lexalcm.model.layers.dropout import Dropout
from lexalcm.model.layers.linear import Linear, linear
from lexalcm.model.layers.lookup import lookup
from lexalcm.model.layers.masks import Mask
from lexalcm.model.layers.norm import ModulatedRMSNorm, RMSNorm
from lexalcm.model.layers.timestep_embedding import TimestepEmbedding
from lexalcm.model.layers.transformer import SwiGLU

PARTS = 3
"""Of a layer, each with a shift, a scale and a gate: self-projection, cross-attention, feed-forward."""


class SelfProjection(nn.Module):
    """Self-attention of a position to itself alone: value and output projection, W_o (W_v x + b_v) + b_o.

    Applied one after the other they cost 2 W^2 a position; their product costs W^3 once and W^2 a position. It is made
    from twice as many positions as the width on, where it saves at least a quarter. The weights are parameters of this
    module and not of two linear layers in it, because engines that shard weights gather those of a module that runs.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        value, output = Linear(width, width), Linear(width, width)
        initialize_attention_input(value)
        initialize_attention_output(output)
        self.value_weight, self.value_bias = value.weight, value.bias
        self.output_weight, self.output_bias = output.weight, output.bias

    def forward(self, x_BLW: Tensor) -> Tensor:
        """[B, L, W] to [B, L, W]."""
        if self.is_product(x_BLW.shape[-1], x_BLW.shape[:-1].numel()):
            return linear(x_BLW, *self.product())
        values_BLW = linear(x_BLW, self.value_weight, self.value_bias)
        return linear(values_BLW, self.output_weight, self.output_bias)

    @staticmethod
    def is_product(width: int, positions: int) -> bool:
        """Whether the product is made for that many positions."""
        return positions >= 2 * width

    @classmethod
    def multiplications(cls, width: int, positions: int) -> int:
        """Multiplications in the forward pass."""
        return (positions + width) * width**2 if cls.is_product(width, positions) else 2 * positions * width**2

    def product(self) -> tuple[Tensor, Tensor]:
        """The weight [W, W] and the bias [W] of the one linear map that both are."""
        return (
            self.output_weight @ self.value_weight,
            nn.functional.linear(self.value_bias, self.output_weight, self.output_bias),
        )


class DenoiserLayer(nn.Module):
    """Self-projection, cross-attention and feed-forward, each shifted, scaled and gated by the timestep (adaLN-zero).

    The modulator starts at zero, so that every gate is closed and a new layer passes its input on unchanged.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.width
        self.modulator = Linear(width, 3 * PARTS * width)
        nn.init.zeros_(self.modulator.weight)
        nn.init.zeros_(self.modulator.bias)
        self.self_norm = ModulatedRMSNorm(width, config.norm_eps)
        self.self_projection = SelfProjection(width)
        self.cross_attention_norm = ModulatedRMSNorm(width, config.norm_eps)
        self.cross_attention = Attention(width, config.num_heads)
        self.ffn_norm = ModulatedRMSNorm(width, config.norm_eps)
        self.ffn = SwiGLU(width, config.ffn_dim)
        self.dropout = Dropout(config.dropout)

    def forward(
        self, x_BLW: Tensor, time_TW: Tensor, timesteps_BL: Tensor, memory_BLW: Tensor, mask: Mask, dropped_BL: Tensor
    ) -> Tensor:
        """One layer, each position at its own timestep; arguments as for `Denoiser.forward`."""
        shift, scale, gate, cross_shift, cross_scale, cross_gate, ffn_shift, ffn_scale, ffn_gate = self.modulation(
            time_TW
        ).unbind(dim=1)

        def open_gate(gate_TW: Tensor, output_BLW: Tensor) -> Tensor:
            return lookup(gate_TW, timesteps_BL) * self.dropout(output_BLW)

        hidden_BLW = self.self_norm(x_BLW, timesteps_BL, scale, shift)
        x_BLW = x_BLW + open_gate(gate, self.self_projection(hidden_BLW))
        hidden_BLW = self.cross_attention_norm(x_BLW, timesteps_BL, cross_scale, cross_shift)
        x_BLW = x_BLW + open_gate(cross_gate, self._attend(hidden_BLW, memory_BLW, mask, dropped_BL))
        hidden_BLW = self.ffn_norm(x_BLW, timesteps_BL, ffn_scale, ffn_shift)
        return x_BLW + open_gate(ffn_gate, self.ffn(hidden_BLW))

    def modulation(self, time_TW: Tensor) -> Tensor:
        """Shift, scale (one added) and gate of the parts for each timestep, [T, 3 PARTS, W]."""
        modulation_T9W = self.modulator(nn.functional.silu(time_TW)).unflatten(-1, (3 * PARTS, -1))
        ones_9 = torch.tensor([0, 1, 0] * PARTS, dtype=modulation_T9W.dtype, device=modulation_T9W.device)
        return modulation_T9W + ones_9[:, None]

    def _attend(self, x_BLW: Tensor, memory_BLW: Tensor, mask: Mask, dropped_BL: Tensor) -> Tensor:
        k_BHLE, v_BHLE = self.cross_attention.keys_values(memory_BLW)
        mixed_BHLE = mix_values(self.cross_attention.queries(x_BLW), k_BHLE, v_BHLE, mask)
        zero_BH1E = v_BHLE[:, :, :1]  # a row's first memory is the zero vector
        mixed_BHLE = torch.where(dropped_BL[:, None, :, None], zero_BH1E, mixed_BHLE)
        return self.cross_attention.output(mixed_BHLE)


class Denoiser(nn.Module):
    """Input projection, modulated layers, final norm and output projection.

    Input and output projection are initialised as published: uniform within 1 / sqrt(inputs), PyTorch's default.
    """

    def __init__(self, config: ModelConfig, timesteps: int) -> None:
        super().__init__()
        self.timesteps = timesteps
        self.time_embedding = TimestepEmbedding(config.width)
        self.input_proj = Linear(config.dim, config.width)
        layers = nn.ModuleList(DenoiserLayer(config) for _ in range(config.num_layers))
        self.layers = cast("Sequence[DenoiserLayer]", layers)
        self.norm = RMSNorm(config.width, config.norm_eps)
        self.output_proj = Linear(config.width, config.dim)

    def forward(
        self, noisy_BLD: Tensor, timesteps_BL: Tensor, memory_BLW: Tensor, mask: Mask, dropped_BL: Tensor
    ) -> Tensor:
        """The network's prediction in training, [B, L, D].

        Args:
            noisy_BLD: normalized concepts with noise.
            timesteps_BL: the timestep of each position, 0 to T - 1.
            memory_BLW: shifted contexts.
            mask: which of them each position sees; the same as between the contexts.
            dropped_BL: which positions see the zero vector alone.
        """
        time_TW = self.time_embedding(torch.arange(self.timesteps, device=noisy_BLD.device))
        x_BLW = self.input_proj(noisy_BLD.to(self.input_proj.weight.dtype))
        for layer in self.layers:
            x_BLW = layer(x_BLW, time_TW, timesteps_BL, memory_BLW, mask, dropped_BL)
        return self.output_proj(self.norm(x_BLW))


def shift_contexts(context_BLW: Tensor, documents_BL: Tensor) -> Tensor:
    """The context of the position before, or the zero vector where a document begins: what is known of a position."""
    first_BL = torch.cat([torch.ones_like(documents_BL[:, :1]), documents_BL.diff(dim=1)], dim=1) != 0
    return context_BLW.roll(1, dims=1).masked_fill(first_BL.unsqueeze(-1), 0.0)
