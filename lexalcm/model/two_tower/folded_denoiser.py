"""A two-tower denoiser made ready for generation: what no concept changes is computed once, here.

In generation all positions share a timestep and few of them are computed at once, so that reading the weights is the
work, not multiplying by them. Hence:

- Shift, scale and gate of every timestep are made once, the scale multiplied into the norm's own.
- Self-projection's two matrices become their product: one matrix fewer of seven to read.
- The unconditional half of guidance sees the zero vector alone: what its cross-attention adds is the same for all
  concepts, and made once. Both halves go through the other matrices together, which are read once for both.

Shapes: B rows, Q positions, P = 2 halves with guidance (conditional, unconditional) or 1, N = P B Q, S timesteps,
D embedding dimension, W width.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lexalcm.model.layers.cache import KeysValues
from lexalcm.model.layers.masks import Mask
from lexalcm.model.layers.norm import inverse_rms
from lexalcm.model.two_tower.cross_attention import CrossAttention, cross_attention
from lexalcm.model.two_tower.denoiser import Denoiser, DenoiserLayer
from lexalcm.model.two_tower.fixed_linear import FixedLinear


class StepModulation(NamedTuple):
    """What one timestep does to one layer, [W] each; a gain is the norm's scale times the modulation's."""

    shift: Tensor
    gain: Tensor
    gate: Tensor
    cross_shift: Tensor
    cross_gain: Tensor
    cross_gate: Tensor
    ffn_shift: Tensor
    ffn_gain: Tensor
    ffn_gate: Tensor
    unconditional: Tensor  # what cross-attention, gated, adds to a position that sees the zero vector alone


class FoldedDenoiser:
    """The denoiser for a list of timesteps.

    Args:
        denoiser: the model's; its weights must not change afterwards. They are used, not copied, unless `FixedLinear`
            packs them.
        timesteps: those that it will be asked for, S of them.
    """

    def __init__(self, denoiser: Denoiser, timesteps: Sequence[int]) -> None:
        device = denoiser.norm.weight.device
        time_SW = denoiser.time_embedding(torch.tensor(timesteps, device=device))
        self.norm = denoiser.norm
        self.dtype = denoiser.input_proj.weight.dtype
        self.input_proj = FixedLinear.of(denoiser.input_proj)
        self.output_proj = FixedLinear.of(denoiser.output_proj)
        self.layers = [FoldedLayer(layer, timesteps, time_SW) for layer in denoiser.layers]

    def attend(self, keys_values: Sequence[KeysValues], mask: Mask, positions: int) -> list[CrossAttention]:
        """Each layer's cross-attention over contexts, for all steps of Q concepts in each of B rows.

        Args:
            keys_values: of the contexts in each layer.
            mask: which contexts each position sees.
            positions: Q.
        """
        return [
            cross_attention(layer.queries, layer.attended, layer_keys_values, mask, positions)
            for layer, layer_keys_values in zip(self.layers, keys_values, strict=True)
        ]

    def __call__(
        self, noisy_BQD: Tensor, timestep: int, attentions: Sequence[CrossAttention], *, guided: bool
    ) -> tuple[Tensor, ...]:
        """The network's prediction with conditioning and, if `guided`, without, float32 [B, Q, D] each.

        Args:
            noisy_BQD: normalized concepts with noise.
            timestep: one of the list.
            attentions: from `attend`, for B rows of Q positions.
            guided: whether the unconditional prediction is wanted too.
        """
        rows, positions, dim = noisy_BQD.shape
        x_NW = self.input_proj(noisy_BQD.reshape(-1, dim).to(self.dtype))
        if guided:
            x_NW = x_NW.repeat(2, 1)
        for layer, attention in zip(self.layers, attentions, strict=True):
            x_NW = layer(x_NW, timestep, attention, conditional=rows * positions)
        output_ND = self.output_proj(self.norm(x_NW)).float()
        return output_ND.view(-1, rows, positions, dim).unbind()


class FoldedLayer:
    """One layer, with what each timestep does to it."""

    def __init__(self, layer: DenoiserLayer, timesteps: Sequence[int], time_SW: Tensor) -> None:
        self.self_projection = FixedLinear(*layer.self_projection.product())
        self.queries = FixedLinear.of(layer.cross_attention.q_proj)
        self.attended = FixedLinear.of(layer.cross_attention.output_proj)
        self.gate_proj = FixedLinear.of(layer.ffn.gate_proj)
        self.inner_proj = FixedLinear.of(layer.ffn.inner_proj)
        self.ffn_output = FixedLinear.of(layer.ffn.output_proj)
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
        unconditional_SW = cross_gate_SW * layer.cross_attention.output_proj(zero_value_W)
        self.modulations = {
            timestep: StepModulation._make([*modulation_9W.unbind(), unconditional_W])
            for timestep, modulation_9W, unconditional_W in zip(
                timesteps, modulation_S9W, unconditional_SW, strict=True
            )
        }

    def __call__(self, x_NW: Tensor, timestep: int, attention: CrossAttention, *, conditional: int) -> Tensor:
        """Its output at one timestep; the first `conditional` positions attend, the others see only the zero vector."""
        at = self.modulations[timestep]

        hidden_NW = modulate(x_NW, at.gain, at.shift, self.eps)
        x_NW = torch.addcmul(x_NW, at.gate, self.self_projection(hidden_NW))

        hidden_NW = modulate(x_NW[:conditional], at.cross_gain, at.cross_shift, self.eps)
        x_NW[:conditional].addcmul_(at.cross_gate, attention(hidden_NW))
        x_NW[conditional:] += at.unconditional

        hidden_NW = modulate(x_NW, at.ffn_gain, at.ffn_shift, self.eps)
        hidden_NF = nn.functional.silu(self.gate_proj(hidden_NW)).mul_(self.inner_proj(hidden_NW))
        return torch.addcmul(x_NW, at.ffn_gate, self.ffn_output(hidden_NF))


def modulate(x_NW: Tensor, gain_W: Tensor, shift_W: Tensor, eps: float) -> Tensor:
    """Root mean square normalization, gain and shift, [N, W]; the norm in float32."""
    x_float_NW = x_NW.float()
    if x_NW.device.type != "cpu":
        return nn.functional.rms_norm(x_float_NW, gain_W.shape, gain_W.float(), eps).type_as(x_NW) + shift_W
    return torch.addcmul(shift_W, (x_float_NW * inverse_rms(x_float_NW, eps)).type_as(x_NW), gain_W)
