"""A two-tower denoiser made ready for generation: what no concept changes is computed once, here.

In generation all positions share a timestep and few of them are computed at once, so that reading the weights is the
work, not multiplying by them. Hence:

- Shift, scale and gate of every step are made once.
- Self-projection's two matrices become their product: one matrix fewer of seven to read.
- On a CPU the weight stands on the left of the product (`linear`).
- The unconditional half of guidance sees the zero vector alone: what its cross-attention adds is the same for all
  concepts, and made once. Both halves go through the other matrices together, which are read once for both.

Shapes: B rows, Q positions, P = 2 halves with guidance (conditional, unconditional) or 1, N = P B Q, K keys, S steps,
D embedding dimension, W width, H heads, E size of a head, I inputs, O outputs.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lexalcm.model.attention import mix_values
from lexalcm.model.cache import KeysValues
from lexalcm.model.denoiser import Denoiser, DenoiserLayer
from lexalcm.model.masks import Mask

FEW = 16
"""Up to so many positions, a CPU multiplies faster with the weight on the left: twice as fast for two positions."""


class StepModulation(NamedTuple):
    """What one step does to one layer, [W] each."""

    shift: Tensor
    scale: Tensor
    gate: Tensor
    cross_shift: Tensor
    cross_scale: Tensor
    cross_gate: Tensor
    ffn_shift: Tensor
    ffn_scale: Tensor
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

    def __call__(
        self, noisy_BQD: Tensor, step: int, keys_values: Sequence[KeysValues], mask: Mask, *, guided: bool
    ) -> tuple[Tensor, ...]:
        """The network's prediction with conditioning and, if `guided`, without, float32 [B, Q, D] each.

        Args:
            noisy_BQD: normalized concepts with noise.
            step: number of the timestep in the list.
            keys_values: of the contexts in each layer.
            mask: which contexts each position sees.
            guided: whether the unconditional prediction is wanted too.
        """
        rows, positions, dim = noisy_BQD.shape
        input_proj, output_proj = self.denoiser.input_proj, self.denoiser.output_proj
        noisy_ND = noisy_BQD.reshape(-1, dim).to(input_proj.weight.dtype)
        x_NW = linear(noisy_ND, input_proj.weight, input_proj.bias)
        if guided:
            x_NW = x_NW.repeat(2, 1)
        for layer, layer_keys_values in zip(self.layers, keys_values, strict=True):
            x_NW = layer(x_NW, step, layer_keys_values, mask, rows=rows, positions=positions)
        output_ND = linear(self.denoiser.norm(x_NW), output_proj.weight, output_proj.bias).float()
        return output_ND.view(-1, rows, positions, dim).unbind()


class _FoldedLayer:
    def __init__(self, layer: DenoiserLayer, time_SW: Tensor) -> None:
        self.layer = layer
        projection, attention = layer.self_projection, layer.cross_attention
        self.self_projection = projection.product()
        modulation_S9W = layer.modulation(time_SW)
        cross_gate_SW = modulation_S9W[:, StepModulation._fields.index("cross_gate")]
        unseeing_SW = cross_gate_SW * attention.output_proj(
            attention.v_proj.bias
        )  # the zero vector's value is the bias
        self.steps = [
            StepModulation._make([*modulation_9W.unbind(), unseeing_W])
            for modulation_9W, unseeing_W in zip(modulation_S9W, unseeing_SW, strict=True)
        ]

    def __call__(
        self, x_NW: Tensor, step: int, keys_values: KeysValues, mask: Mask, *, rows: int, positions: int
    ) -> Tensor:
        at, layer, seeing = self.steps[step], self.layer, rows * positions
        attention, ffn = layer.cross_attention, layer.ffn

        hidden_NW = torch.addcmul(at.shift, layer.self_norm(x_NW), at.scale)
        x_NW = torch.addcmul(x_NW, at.gate, linear(hidden_NW, *self.self_projection))

        hidden_NW = torch.addcmul(at.cross_shift, layer.cross_attention_norm(x_NW[:seeing]), at.cross_scale)
        queries_NW = linear(hidden_NW, attention.q_proj.weight, attention.q_proj.bias)
        queries_BHQE = queries_NW.view(rows, positions, attention.num_heads, -1).transpose(1, 2)
        mixed_NW = mix_values(queries_BHQE, *keys_values, mask).transpose(1, 2).reshape(seeing, -1)
        attended_NW = linear(mixed_NW, attention.output_proj.weight, attention.output_proj.bias)
        x_NW[:seeing].addcmul_(at.cross_gate, attended_NW)
        x_NW[seeing:] += at.unseeing

        hidden_NW = torch.addcmul(at.ffn_shift, layer.ffn_norm(x_NW), at.ffn_scale)
        gate_NF = linear(hidden_NW, ffn.gate_proj.weight, ffn.gate_proj.bias)
        inner_NF = linear(hidden_NW, ffn.inner_proj.weight, ffn.inner_proj.bias)
        hidden_NF = nn.functional.silu(gate_NF) * inner_NF
        return torch.addcmul(x_NW, at.ffn_gate, linear(hidden_NF, ffn.output_proj.weight, ffn.output_proj.bias))


def linear(x_NI: Tensor, weight_OI: Tensor, bias_O: Tensor) -> Tensor:
    """`nn.functional.linear`, [N, O], in the order that suits few positions on a CPU."""
    if 1 < len(x_NI) <= FEW and x_NI.device.type == "cpu":
        return torch.addmm(bias_O[:, None], weight_OI, x_NI.t()).t().contiguous()
    return nn.functional.linear(x_NI, weight_OI, bias_O)
