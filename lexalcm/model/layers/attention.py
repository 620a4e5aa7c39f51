"""Multi-head attention and rotary positions.

Everything goes through `scaled_dot_product_attention`, whose softmax accumulates in float32, or on a GPU through
FlexAttention where a mask asks for it (`lexalcm.model.layers.masks`). Rotary positions turn neighbouring pairs of
coordinates, as the published code does, so that its weights load without a permutation.

Shapes: B rows, L positions in a row, Q queries, K keys, W width, H heads, E size of a head (W / H).
"""

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask

from lexalcm.model.layers.linear import Linear
from lexalcm.model.layers.masks import Mask, flex_attention


def rotary_angles(positions_BL: Tensor, head_size: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the angles position / theta^(2i / E), float32 [B, 1, L, E / 2] each (arXiv 2104.09864).

    Angles are float32 as in the published code; their cosines go through float64, because vectorized float32 ones are
    off by a unit in the last place, which a hundred guided denoising steps can turn into three times 1e-5.
    """
    exponents = torch.arange(0, head_size, 2, dtype=torch.float32, device=positions_BL.device) / head_size
    angles = (positions_BL[:, None, :, None].float() * (1.0 / theta**exponents)).double()
    return angles.cos().float(), angles.sin().float()


def rotate(x_BHLE: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair of neighbouring coordinates by its angle, in float32."""
    cos, sin = rotary
    even, odd = x_BHLE.float().unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return turned.flatten(-2).type_as(x_BHLE)


def mix_values(q_BHQE: Tensor, k_BHKE: Tensor, v_BHKE: Tensor, mask: Mask | None) -> Tensor:
    """Softmax attention: the values that each query sees, mixed, [B, H, Q, E]; no mask: query i sees keys 0 to i."""
    if isinstance(mask, BlockMask):
        return flex_attention(q_BHQE, k_BHKE, v_BHKE, mask)
    return nn.functional.scaled_dot_product_attention(q_BHQE, k_BHKE, v_BHKE, attn_mask=mask, is_causal=mask is None)


class Attention(nn.Module):
    """Multi-head attention with biases; queries of one sequence, keys and values of the same or of another.

    Initialised as published: queries, keys and values Xavier-uniform with gain 1/sqrt(2), output Xavier-uniform, biases
    zero.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = Linear(width, width)
        self.k_proj = Linear(width, width)
        self.v_proj = Linear(width, width)
        self.output_proj = Linear(width, width)
        for projection in (self.q_proj, self.k_proj, self.v_proj):
            initialize_attention_input(projection)
        initialize_attention_output(self.output_proj)

    def queries(self, x_BLW: Tensor) -> Tensor:
        """Queries, [B, H, L, E]."""
        return self._split(self.q_proj(x_BLW))

    def keys_values(self, x_BLW: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, [B, H, L, E] each."""
        return self._split(self.k_proj(x_BLW)), self._split(self.v_proj(x_BLW))

    def output(self, mixed_BHQE: Tensor) -> Tensor:
        """Join the heads' mixtures of values, [B, Q, W]."""
        return self.output_proj(mixed_BHQE.transpose(1, 2).flatten(2))

    def _split(self, x_BLW: Tensor) -> Tensor:
        return x_BLW.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def initialize_attention_input(projection: nn.Linear) -> None:
    """Xavier-uniform with gain 1/sqrt(2): queries, keys and values taken as one projection of three times the size."""
    nn.init.xavier_uniform_(projection.weight, gain=2**-0.5)
    nn.init.zeros_(projection.bias)


def initialize_attention_output(projection: nn.Linear) -> None:
    """Xavier-uniform."""
    nn.init.xavier_uniform_(projection.weight)
    nn.init.zeros_(projection.bias)
