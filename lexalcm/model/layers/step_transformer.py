"""A Transformer made ready for one new position of each row at a time, in few kernels: what a GPU runs in generation.

So few positions leave a GPU nothing to multiply; the time goes into reading the weights and into starting kernels.
Hence queries, keys and values come from one product, the feed-forward's gate and inner part from another, and rotary
positions turn queries and keys together as complex numbers. Keys and values are written where they stay, all slots are
looked at, and a mask says which count: nothing depends on how many there are but numbers on the device, so that the
work can be captured once and replayed.

The joined weights are copies: seven parts in ten of the layers' size in memory again.

Shapes: B rows, L positions of each, K slots, W width, H heads, E size of a head, F feed-forward size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lexalcm.model.layers.attention import rotary_angles
from lexalcm.model.layers.cache import LayerCache
from lexalcm.model.layers.transformer import SwiGLU, Transformer, TransformerLayer


class JoinedFFN:
    """`SwiGLU` with its first two matrices in one.

    Args:
        ffn: its weights must not change afterwards.
    """

    def __init__(self, ffn: SwiGLU) -> None:
        self.weight = torch.cat([ffn.gate_proj.weight, ffn.inner_proj.weight])
        self.bias = torch.cat([ffn.gate_proj.bias, ffn.inner_proj.bias])
        self.output = ffn.output_proj

    def __call__(self, x: Tensor, bias: Tensor) -> Tensor:
        """[..., W] to [..., W], with the bias [2 F] of the joined matrix, or another in its place."""
        gate, inner = nn.functional.linear(x, self.weight, bias).chunk(2, dim=-1)
        return self.output(nn.functional.silu(gate).mul_(inner))


class StepTransformer:
    """The layers and the final norm of a Transformer.

    Args:
        transformer: its weights must not change afterwards.
    """

    def __init__(self, transformer: Transformer) -> None:
        self.head_size = transformer.head_size
        self.rope_theta = transformer.rope_theta
        self.layers = [_StepLayer(layer) for layer in transformer.layers]
        self.norm = transformer.norm

    def rotations(self, positions_BL: Tensor) -> Tensor:
        """Rotations of queries and keys at these positions: complex numbers, [B, L, 1, 1, E / 2]."""
        cos_B1LE, sin_B1LE = rotary_angles(positions_BL, self.head_size, self.rope_theta)
        return torch.complex(cos_B1LE, sin_B1LE).transpose(1, 2).unsqueeze(2)

    def __call__(
        self, x_BLW: Tensor, rotations: Tensor, slots_BL: Tensor, mask_B1LK: Tensor, cache: Sequence[LayerCache]
    ) -> Tensor:
        """Hidden states of new inputs, which see themselves and what the mask says of all slots, [B, L, W].

        Args:
            x_BLW: inputs, already projected.
            rotations: from `rotations`, of their positions.
            slots_BL: where their keys and values go.
            mask_B1LK: added to scores; see `additive`.
            cache: of each layer, with K slots.
        """
        for layer, layer_cache in zip(self.layers, cache, strict=True):
            x_BLW = layer(x_BLW, rotations, slots_BL, mask_B1LK, layer_cache)
        return nn.functional.rms_norm(x_BLW, x_BLW.shape[-1:], self.norm.weight, self.norm.eps)


class _StepLayer:
    def __init__(self, layer: TransformerLayer) -> None:
        attention = layer.attention
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        self.weight = torch.cat([projection.weight for projection in projections])
        self.bias = torch.cat([projection.bias for projection in projections])
        self.num_heads = attention.num_heads
        self.output = attention.output_proj
        self.ffn = JoinedFFN(layer.ffn)
        self.norm, self.ffn_norm = layer.attention_norm, layer.ffn_norm

    def __call__(
        self, x_BLW: Tensor, rotations: Tensor, slots_BL: Tensor, mask_B1LK: Tensor, cache: LayerCache
    ) -> Tensor:
        shape = x_BLW.shape[-1:]
        hidden_BLW = nn.functional.rms_norm(x_BLW, shape, self.norm.weight, self.norm.eps)
        projected_BL3HE = nn.functional.linear(hidden_BLW, self.weight, self.bias).unflatten(
            -1, (3, self.num_heads, -1)
        )
        pairs = torch.view_as_complex(projected_BL3HE[:, :, :2].float().unflatten(-1, (-1, 2)))
        rotated_BL2HE = torch.view_as_real(pairs * rotations).flatten(-2).type_as(x_BLW)
        q_BHLE, k_BHLE = rotated_BL2HE.permute(2, 0, 3, 1, 4).unbind()
        cache.write(k_BHLE, projected_BL3HE[:, :, 2].transpose(1, 2), slots_BL)
        mixed_BHLE = nn.functional.scaled_dot_product_attention(q_BHLE, cache.keys, cache.values, mask_B1LK)
        x_BLW = x_BLW + self.output(mixed_BHLE.transpose(1, 2).flatten(2))
        hidden_BLW = nn.functional.rms_norm(x_BLW, shape, self.ffn_norm.weight, self.ffn_norm.eps)
        return x_BLW + self.ffn(hidden_BLW, self.ffn.bias)


def additive(sees: Tensor, keys: Tensor) -> Tensor:
    """A boolean mask as what is added to scores, 0 or minus infinity: attention would make it so in every layer."""
    return torch.zeros(sees.shape, dtype=keys.dtype, device=keys.device).masked_fill_(~sees, -torch.inf)


def causal_step_mask(positions_BL: Tensor, keys_BHKE: Tensor) -> Tensor:
    """Each position sees the slots up to its own, additive, [B, 1, L, K]."""
    slot_K = torch.arange(keys_BHKE.shape[2], device=keys_BHKE.device)
    return additive((slot_K <= positions_BL[..., None]).unsqueeze(1), keys_BHKE)
