"""A two-tower denoiser made ready for generation: what no concept changes is computed once, here.

In generation all positions share a timestep and few of them are computed at once, so that reading the weights is the
work, not multiplying by them. Hence:

- Shift, scale and gate of every step are made once, the scale multiplied into the norm's own.
- Self-projection's two matrices become their product: one matrix fewer of seven to read.
- The unconditional half of guidance sees the zero vector alone: what its cross-attention adds is the same for all
  concepts, and made once. Both halves go through the other matrices together, which are read once for both.

Shapes: B rows, Q positions, P = 2 halves with guidance (conditional, unconditional) or 1, N = P B Q, S steps,
D embedding dimension, W width.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lexalcm.generate.cross_attention import CrossAttention, cross_attention
from lexalcm.generate.few_positions import linear, modulate
from lexalcm.model.cache import KeysValues
from lexalcm.model.denoiser import Denoiser, DenoiserLayer
from lexalcm.model.masks import Mask


class StepModulation(NamedTuple):
    """What one step does to one layer, [W] each; a gain is the norm's scale times the modulation's."""

    shift: Tensor
    gain: Tensor
    gate: Tensor
    cross_shift: Tensor
    cross_gain: Tensor
    cross_gate: Tensor
    ffn_shift: Tensor
    ffn_gain: Tensor
    ffn_gate: Tensor
    unseeing: Tensor  # what cross-attention, gated, adds to a position that sees the zero vector alone


class FoldedDenoiser:
    """The denoiser for a list of timesteps.

    Args:
        denoiser: the model's; its weights are used, not copied, and must not change afterwards.
        timesteps: S of them.
    """

    def __init__(self, denoiser: Denoiser, timesteps: Sequence[int]) -> None:
        device = denoiser.norm.weight.device
        time_SW = denoiser.time_embedding(torch.tensor(timesteps, device=device))
        self.denoiser = denoiser
        self.layers = [_FoldedLayer(layer, time_SW) for layer in denoiser.layers]

    def attend(self, keys_values: Sequence[KeysValues], mask: Mask, positions: int) -> list[CrossAttention]:
        """Each layer's cross-attention over contexts, for all steps of Q concepts in each of B rows.

        Args:
            keys_values: of the contexts in each layer.
            mask: which contexts each position sees.
            positions: Q.
        """
        return [
            cross_attention(layer.cross_attention, layer_keys_values, mask, positions)
            for layer, layer_keys_values in zip(self.denoiser.layers, keys_values, strict=True)
        ]

    def __call__(
        self, noisy_BQD: Tensor, step: int, attentions: Sequence[CrossAttention], *, guided: bool
    ) -> tuple[Tensor, ...]:
        """The network's prediction with conditioning and, if `guided`, without, float32 [B, Q, D] each.

        Args:
            noisy_BQD: normalized concepts with noise.
            step: number of the timestep in the list.
            attentions: from `attend`, for B rows of Q positions.
            guided: whether the unconditional prediction is wanted too.
        """
        rows, positions, dim = noisy_BQD.shape
        input_proj, output_proj = self.denoiser.input_proj, self.denoiser.output_proj
        noisy_ND = noisy_BQD.reshape(-1, dim).to(input_proj.weight.dtype)
        x_NW = linear(noisy_ND, input_proj.weight, input_proj.bias)
        if guided:
            x_NW = x_NW.repeat(2, 1)
        for layer, attention in zip(self.layers, attentions, strict=True):
            x_NW = layer(x_NW, step, attention, seeing=rows * positions)
        output_ND = linear(self.denoiser.norm(x_NW), output_proj.weight, output_proj.bias).float()
        return output_ND.view(-1, rows, positions, dim).unbind()


class _FoldedLayer:
    def __init__(self, layer: DenoiserLayer, time_SW: Tensor) -> None:
        self.self_projection = layer.self_projection.product()
        self.ffn = layer.ffn
        self.eps = layer.self_norm.eps
        modulation_S9W = layer.modulation(time_SW)
        for gain, norm in (
            ("gain", layer.self_norm),
            ("cross_gain", layer.cross_attention_norm),
            ("ffn_gain", layer.ffn_norm),
        ):
            modulation_S9W[:, StepModulation._fields.index(gain)] *= norm.weight
        cross_gate_SW = modulation_S9W[:, StepModulation._fields.index("cross_gate")]
        zero_value_W = layer.cross_attention.v_proj.bias
        unseeing_SW = cross_gate_SW * layer.cross_attention.output_proj(zero_value_W)
        self.steps = [
            StepModulation._make([*modulation_9W.unbind(), unseeing_W])
            for modulation_9W, unseeing_W in zip(modulation_S9W, unseeing_SW, strict=True)
        ]

    def __call__(self, x_NW: Tensor, step: int, attention: CrossAttention, *, seeing: int) -> Tensor:
        at, ffn = self.steps[step], self.ffn

        hidden_NW = modulate(x_NW, at.gain, at.shift, self.eps)
        x_NW = torch.addcmul(x_NW, at.gate, linear(hidden_NW, *self.self_projection))

        hidden_NW = modulate(x_NW[:seeing], at.cross_gain, at.cross_shift, self.eps)
        x_NW[:seeing].addcmul_(at.cross_gate, attention(hidden_NW))
        x_NW[seeing:] += at.unseeing

        hidden_NW = modulate(x_NW, at.ffn_gain, at.ffn_shift, self.eps)
        gate_NF = linear(hidden_NW, ffn.gate_proj.weight, ffn.gate_proj.bias)
        inner_NF = linear(hidden_NW, ffn.inner_proj.weight, ffn.inner_proj.bias)
        hidden_NF = nn.functional.silu(gate_NF) * inner_NF
        return torch.addcmul(x_NW, at.ffn_gate, linear(hidden_NF, ffn.output_proj.weight, ffn.output_proj.bias))
