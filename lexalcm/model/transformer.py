"""The causal pre-norm Transformer: base LCM's whole body and two-tower's contextualizer.

RMSNorm, rotary positions, SwiGLU, biases on every linear layer, dropout on the output of each block (before it joins
the residual stream) and nowhere else. In training a row holds several documents and the mask keeps them apart; in
generation `TransformerCache` holds the keys and values of the concepts so far: a new concept costs one position.

Shapes: B rows, L positions, S slots of a cache, W width, F feed-forward size, H heads, E size of a head.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from typing_extensions import Self

from lexalcm.model.attention import Attention, causal_mask, mix_values, rotary_angles, rotate
from lexalcm.model.config import ModelConfig


class RMSNorm(nn.Module):
    """Root mean square normalization with a learned scale, computed in float32 whatever the input's type."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the last dimension."""
        return nn.functional.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps).type_as(x)


class SwiGLU(nn.Module):
    """Gated feed-forward network: output(silu(gate(x)) * inner(x)) (arXiv 2002.05202).

    Initialised as published, which is PyTorch's default: uniform within 1 / sqrt(inputs), weights and biases.
    """

    def __init__(self, width: int, ffn_dim: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, ffn_dim)
        self.inner_proj = nn.Linear(width, ffn_dim)
        self.output_proj = nn.Linear(ffn_dim, width)

    def forward(self, x: Tensor) -> Tensor:
        """[..., W] to [..., W]."""
        return self.output_proj(nn.functional.silu(self.gate_proj(x)) * self.inner_proj(x))


@dataclass
class LayerCache:
    """Keys and values of one layer, [B, H, S, E] each; a slot is a position of the document."""

    keys: Tensor
    values: Tensor

    @classmethod
    def empty(cls, rows: int, slots: int, attention: Attention) -> Self:
        """Zeros, of the attention's device and type."""
        weight = attention.k_proj.weight
        shape = (rows, attention.num_heads, slots, weight.shape[0] // attention.num_heads)
        return cls(weight.new_zeros(shape), weight.new_zeros(shape))

    def first(self, slots: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the first slots."""
        return self.keys[:, :, :slots], self.values[:, :, :slots]

    def write(self, k_BHLE: Tensor, v_BHLE: Tensor, slots_BL: Tensor) -> None:
        """Store keys and values in each row's slots."""
        index_BHLE = slots_BL[:, None, :, None].expand_as(k_BHLE)
        self.keys.scatter_(2, index_BHLE, k_BHLE.to(self.keys.dtype))
        self.values.scatter_(2, index_BHLE, v_BHLE.to(self.values.dtype))


class TransformerLayer(nn.Module):
    """Self-attention and feed-forward, each normalized before and added to the residual stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.width, config.norm_eps)
        self.attention = Attention(config.width, config.num_heads)
        self.ffn_norm = RMSNorm(config.width, config.norm_eps)
        self.ffn = SwiGLU(config.width, config.ffn_dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BLW: Tensor, rotary: tuple[Tensor, Tensor], mask_B1LL: Tensor) -> Tensor:
        """One layer over whole rows."""
        q_BHLE, k_BHLE, v_BHLE = self._project(x_BLW, rotary)
        return self._finish(x_BLW, mix_values(q_BHLE, k_BHLE, v_BHLE, mask_B1LL))

    def extend(
        self, x_BLW: Tensor, rotary: tuple[Tensor, Tensor], mask_B1LS: Tensor, cache: LayerCache, slots_BL: Tensor
    ) -> Tensor:
        """One layer over new positions, which see what the cache holds; their keys and values are added to it."""
        q_BHLE, k_BHLE, v_BHLE = self._project(x_BLW, rotary)
        cache.write(k_BHLE, v_BHLE, slots_BL)
        return self._finish(x_BLW, mix_values(q_BHLE, *cache.first(mask_B1LS.shape[-1]), mask_B1LS))

    def _project(self, x_BLW: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        normed_BLW = self.attention_norm(x_BLW)
        k_BHLE, v_BHLE = self.attention.keys_values(normed_BLW)
        return rotate(self.attention.queries(normed_BLW), rotary), rotate(k_BHLE, rotary), v_BHLE

    def _finish(self, x_BLW: Tensor, mixed_BHLE: Tensor) -> Tensor:
        x_BLW = x_BLW + self.dropout(self.attention.output(mixed_BHLE))
        return x_BLW + self.dropout(self.ffn(self.ffn_norm(x_BLW)))


@dataclass
class TransformerCache:
    """The caches of all layers of a Transformer."""

    layers: list[LayerCache]


class Transformer(nn.Module):
    """Input projection from concepts, causal layers, final norm.

    Args:
        config: sizes.
        num_layers: how many layers, since a config names those of two towers.
    """

    def __init__(self, config: ModelConfig, num_layers: int) -> None:
        super().__init__()
        self.head_size = config.width // config.num_heads
        self.rope_theta = config.rope_theta
        self.input_proj = nn.Linear(config.dim, config.width)
        layers = nn.ModuleList(TransformerLayer(config) for _ in range(num_layers))
        self.layers = cast("Sequence[TransformerLayer]", layers)
        self.norm = RMSNorm(config.width, config.norm_eps)

    def forward(self, concepts_BLD: Tensor, documents_BL: Tensor, positions_BL: Tensor) -> Tensor:
        """Contexts of packed rows of normalized concepts: position i holds what is known after concept i, [B, L, W]."""
        rotary = rotary_angles(positions_BL, self.head_size, self.rope_theta)
        mask_B1LL = causal_mask(documents_BL)
        x_BLW = self.input_proj(concepts_BLD.to(self.input_proj.weight.dtype))
        for layer in self.layers:
            x_BLW = layer(x_BLW, rotary, mask_B1LL)
        return self.norm(x_BLW)

    def new_cache(self, rows: int, slots: int) -> TransformerCache:
        """An empty cache for `rows` documents of up to `slots` concepts."""
        return TransformerCache([LayerCache.empty(rows, slots, layer.attention) for layer in self.layers])

    def extend(self, concepts_BLD: Tensor, positions_BL: Tensor, cache: TransformerCache, used: int) -> Tensor:
        """Contexts of new concepts at the given positions, one document a row; the cache takes them in, [B, L, W].

        Positions beyond a row's end may be written (padding of shorter prompts): no position sees a later one, and each
        slot is written anew before its turn comes.

        Args:
            concepts_BLD: normalized.
            positions_BL: of the concepts in their documents, which are also their slots.
            cache: what came before.
            used: how many slots are in use with the new concepts, at most: those that are looked at.
        """
        rotary = rotary_angles(positions_BL, self.head_size, self.rope_theta)
        mask_B1LS = (torch.arange(used, device=positions_BL.device) <= positions_BL[..., None]).unsqueeze(1)
        x_BLW = self.input_proj(concepts_BLD.to(self.input_proj.weight.dtype))
        for layer, layer_cache in zip(self.layers, cache.layers, strict=True):
            x_BLW = layer.extend(x_BLW, rotary, mask_B1LS, layer_cache, positions_BL)
        return self.norm(x_BLW)
