"""The folded denoiser for the next concept of each row, in few kernels: what a GPU runs in generation.

As `StepTransformer`, of which see why, with three differences from `FoldedDenoiser` at equal results:

- A shift before a matrix is a bias behind it: W (x + shift) + b = W x + (W shift + b), made once for each timestep.
- Both halves of guidance go through cross-attention, as two queries of a row: the unconditional one sees the zero
  vector alone. A GPU does not notice the positions, but would the kernels that keep them apart.
- The feed-forward's first two matrices are one.

Shapes: B rows, P = 2 halves with guidance (conditional, unconditional) or 1, N = B P, K slots, S timesteps, D embedding
dimension, W width, H heads, E size of a head.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lexalcm.model.layers.cache import LayerCache
from lexalcm.model.layers.step_transformer import JoinedFFN, additive
from lexalcm.model.two_tower.denoiser import Denoiser, DenoiserLayer
from lexalcm.model.two_tower.folded_denoiser import FoldedDenoiser, FoldedLayer


class StepVectors(NamedTuple):
    """What a timestep does to a layer: gains and gates as in `StepModulation`, [W]; biases with the shifts in them."""

    gain: Tensor
    bias: Tensor
    gate: Tensor
    cross_gain: Tensor
    cross_bias: Tensor
    cross_gate: Tensor
    ffn_gain: Tensor
    ffn_bias: Tensor
    ffn_gate: Tensor


class StepDenoiser:
    """The denoiser for the timesteps of a folded one.

    Args:
        denoiser: the model's; its weights must not change afterwards.
        folded: made from it; its products are used, not copied.
    """

    def __init__(self, denoiser: Denoiser, folded: FoldedDenoiser) -> None:
        self.input_proj = denoiser.input_proj
        self.output_proj = denoiser.output_proj
        self.norm = denoiser.norm
        self.layers = [
            _StepLayer(layer, folded_layer) for layer, folded_layer in zip(denoiser.layers, folded.layers, strict=True)
        ]

    def __call__(
        self, noisy_B1D: Tensor, timestep: int, memory: Sequence[LayerCache], mask_B1PK: Tensor
    ) -> tuple[Tensor, ...]:
        """The network's prediction of each half, float32 [B, 1, D].

        Args:
            noisy_B1D: normalized concepts with noise.
            timestep: one of the folded denoiser's.
            memory: keys and values of the contexts in each layer, [B, H, K, E].
            mask_B1PK: which of them each half sees; see `next_context_mask`.
        """
        rows, halves = len(noisy_B1D), mask_B1PK.shape[2]
        x_B1W = self.input_proj(noisy_B1D.to(self.input_proj.weight.dtype))
        x_NW = x_B1W.expand(-1, halves, -1).reshape(rows * halves, -1)
        for layer, cache in zip(self.layers, memory, strict=True):
            x_NW = layer(x_NW, timestep, cache, mask_B1PK)
        output_ND = self.output_proj(nn.functional.rms_norm(x_NW, x_NW.shape[-1:], self.norm.weight, self.norm.eps))
        return output_ND.float().view(rows, halves, -1).split(1, dim=1)


class _StepLayer:
    def __init__(self, layer: DenoiserLayer, folded: FoldedLayer) -> None:
        self.self_weight = folded.self_projection.weight
        self.query_weight = layer.cross_attention.q_proj.weight
        self.attended = layer.cross_attention.output_proj
        self.num_heads = layer.cross_attention.num_heads
        self.ffn = JoinedFFN(layer.ffn)
        self.eps = folded.eps
        linear = nn.functional.linear

        def stacked(name: str) -> Tensor:
            return torch.stack([getattr(at, name) for at in folded.modulations.values()])

        biases_S = linear(stacked("shift"), self.self_weight, folded.self_projection.bias)
        cross_biases_S = linear(stacked("cross_shift"), self.query_weight, layer.cross_attention.q_proj.bias)
        ffn_biases_S = linear(stacked("ffn_shift"), self.ffn.weight, self.ffn.bias)
        self.vectors = {
            timestep: StepVectors(
                gain=at.gain,
                bias=bias,
                gate=at.gate,
                cross_gain=at.cross_gain,
                cross_bias=cross_bias,
                cross_gate=at.cross_gate,
                ffn_gain=at.ffn_gain,
                ffn_bias=ffn_bias,
                ffn_gate=at.ffn_gate,
            )
            for (timestep, at), bias, cross_bias, ffn_bias in zip(
                folded.modulations.items(), biases_S, cross_biases_S, ffn_biases_S, strict=True
            )
        }

    def __call__(self, x_NW: Tensor, timestep: int, cache: LayerCache, mask_B1PK: Tensor) -> Tensor:
        at = self.vectors[timestep]
        shape, linear, normalize = x_NW.shape[-1:], nn.functional.linear, nn.functional.rms_norm

        hidden_NW = normalize(x_NW, shape, at.gain, self.eps)
        x_NW = torch.addcmul(x_NW, at.gate, linear(hidden_NW, self.self_weight, at.bias))

        hidden_NW = normalize(x_NW, shape, at.cross_gain, self.eps)
        queries_NW = linear(hidden_NW, self.query_weight, at.cross_bias)
        q_BHPE = queries_NW.view(*mask_B1PK.shape[::2], self.num_heads, -1).transpose(1, 2)
        mixed_BHPE = nn.functional.scaled_dot_product_attention(q_BHPE, cache.keys, cache.values, mask_B1PK)
        mixed_NW = mixed_BHPE.transpose(1, 2).reshape(len(x_NW), -1)
        x_NW = torch.addcmul(x_NW, at.cross_gate, self.attended(mixed_NW))

        hidden_NW = normalize(x_NW, shape, at.ffn_gain, self.eps)
        return torch.addcmul(x_NW, at.ffn_gate, self.ffn(hidden_NW, at.ffn_bias))


def next_context_mask(positions_B: Tensor, halves: int, keys_BHKE: Tensor) -> Tensor:
    """For the concepts after the given positions, additive, [B, 1, P, K].

    The conditional half sees the zero vector in slot 0 and the contexts in the slots up to position + 1; the
    unconditional one sees slot 0 alone.
    """
    slot_K = torch.arange(keys_BHKE.shape[2], device=keys_BHKE.device)
    last_BP = torch.stack([positions_B + 1, torch.zeros_like(positions_B)], dim=1)[:, :halves]
    return additive((slot_K <= last_BP[..., None]).unsqueeze(1), keys_BHKE)
