"""The pre-norm Transformer: base and one-tower LCM's whole body and two-tower's contextualizer.

RMSNorm, rotary positions, SwiGLU, biases on every linear layer, dropout on the output of each block (before it joins
the residual stream) and nowhere else. In training a row holds several documents and the mask keeps them apart; in
generation a `LayerCache` for each layer holds keys and values of the concepts so far: a new one costs one position.

Rows are computed whole (`forward`), extended by new positions that later ones will see (`extend`), or attended to by
queries that later positions will not see (`attend_cached`): a one-tower's noisy concepts.

Shapes: B rows, L positions, S slots of a cache, W width, F feed-forward size, H heads, E size of a head.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from lexalcm.model.config import ModelConfig
from lexalcm.model.layers.attention import Attention, mix_values, rotary_angles, rotate
from lexalcm.model.layers.cache import KeysValues, LayerCache
from lexalcm.model.layers.dropout import Dropout
from lexalcm.model.layers.linear import Linear
from lexalcm.model.layers.masks import Mask
from lexalcm.model.layers.norm import RMSNorm


class SwiGLU(nn.Module):
    """Gated feed-forward network: output(silu(gate(x)) * inner(x)) (arXiv 2002.05202).

    Initialised as published, which is PyTorch's default: uniform within 1 / sqrt(inputs), weights and biases.
    """

    def __init__(self, width: int, ffn_dim: int) -> None:
        super().__init__()
        self.gate_proj = Linear(width, ffn_dim)
        self.inner_proj = Linear(width, ffn_dim)
        self.output_proj = Linear(ffn_dim, width)

    def forward(self, x: Tensor) -> Tensor:
        """[..., W] to [..., W]."""
        return self.output_proj(nn.functional.silu(self.gate_proj(x)) * self.inner_proj(x))


Rotary = tuple[Tensor, Tensor]
"""Cosines and sines of rotary positions."""


class TransformerLayer(nn.Module):
    """Self-attention and feed-forward, each normalized before and added to the residual stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.width, config.norm_eps)
        self.attention = Attention(config.width, config.num_heads)
        self.ffn_norm = RMSNorm(config.width, config.norm_eps)
        self.ffn = SwiGLU(config.width, config.ffn_dim)
        self.dropout = Dropout(config.dropout)

    def forward(self, x_BLW: Tensor, rotary: Rotary, mask: Mask) -> Tensor:
        """One layer over whole rows."""
        q_BHLE, k_BHLE, v_BHLE = self._project(x_BLW, rotary)
        return self._finish(x_BLW, mix_values(q_BHLE, k_BHLE, v_BHLE, mask))

    def extend(
        self, x_BLW: Tensor, rotary: Rotary, mask: Mask | None, cache: LayerCache, slots_BL: Tensor, used: int
    ) -> Tensor:
        """One layer over new positions, which see the used slots of the cache; their keys and values go into it."""
        q_BHLE, k_BHLE, v_BHLE = self._project(x_BLW, rotary)
        cache.write(k_BHLE, v_BHLE, slots_BL)
        return self._finish(x_BLW, mix_values(q_BHLE, *cache.first(used), mask))

    def attend_cached(self, x_BLW: Tensor, rotary: Rotary, mask: Mask, k_BHSE: Tensor, v_BHSE: Tensor) -> Tensor:
        """One layer over positions that see S given keys and values, and behind them, keys S to S + L, their own."""
        q_BHLE, k_BHLE, v_BHLE = self._project(x_BLW, rotary)
        k_BHKE, v_BHKE = torch.cat([k_BHSE, k_BHLE], dim=2), torch.cat([v_BHSE, v_BHLE], dim=2)
        return self._finish(x_BLW, mix_values(q_BHLE, k_BHKE, v_BHKE, mask))

    def _project(self, x_BLW: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor, Tensor]:
        normed_BLW = self.attention_norm(x_BLW)
        k_BHLE, v_BHLE = self.attention.keys_values(normed_BLW)
        return rotate(self.attention.queries(normed_BLW), rotary), rotate(k_BHLE, rotary), v_BHLE

    def _finish(self, x_BLW: Tensor, mixed_BHLE: Tensor) -> Tensor:
        x_BLW = x_BLW + self.dropout(self.attention.output(mixed_BHLE))
        return x_BLW + self.dropout(self.ffn(self.ffn_norm(x_BLW)))


class Transformer(nn.Module):
    """Input projection from concepts, layers, final norm.

    Args:
        config: sizes.
        num_layers: how many layers, since a config names those of two towers.
    """

    def __init__(self, config: ModelConfig, num_layers: int) -> None:
        super().__init__()
        self.head_size = config.width // config.num_heads
        self.rope_theta = config.rope_theta
        self.input_proj = Linear(config.dim, config.width)
        layers = nn.ModuleList(TransformerLayer(config) for _ in range(num_layers))
        self.layers = cast("Sequence[TransformerLayer]", layers)
        self.norm = RMSNorm(config.width, config.norm_eps)

    def forward(self, x_BLW: Tensor, positions_BL: Tensor, mask: Mask) -> Tensor:
        """Packed rows of inputs, already projected, to the final hidden states, [B, L, W]."""
        rotary = self._rotary(positions_BL)
        for layer in self.layers:
            x_BLW = layer(x_BLW, rotary, mask)
        return self.norm(x_BLW)

    def project(self, concepts_BLD: Tensor) -> Tensor:
        """Normalized concepts to inputs, [B, L, W]."""
        return self.input_proj(concepts_BLD.to(self.input_proj.weight.dtype))

    def new_cache(self, rows: int, slots: int) -> list[LayerCache]:
        """An empty cache for `rows` documents of up to `slots` concepts."""
        return [LayerCache.empty(rows, slots, layer.attention) for layer in self.layers]

    def extend(self, x_BLW: Tensor, positions_BL: Tensor, cache: list[LayerCache], used: int) -> Tensor:
        """Hidden states of new inputs at the given positions, one document a row; the cache takes them in, [B, L, W].

        Positions beyond a row's end may be written (padding of shorter prompts): no position sees a later one, and each
        slot is written anew before its turn comes.

        Args:
            x_BLW: inputs, already projected.
            positions_BL: of the concepts in their documents, which are also their slots.
            cache: what came before.
            used: how many slots are in use with the new concepts, at most: those that are looked at.
        """
        rotary = self._rotary(positions_BL)
        mask_B1LS = None  # the first positions of documents: plain causal attention
        if used > x_BLW.shape[1]:
            mask_B1LS = (torch.arange(used, device=positions_BL.device) <= positions_BL[..., None]).unsqueeze(1)
        for layer, layer_cache in zip(self.layers, cache, strict=True):
            x_BLW = layer.extend(x_BLW, rotary, mask_B1LS, layer_cache, positions_BL, used)
        return self.norm(x_BLW)

    def keys_values(self, x_BLW: Tensor, positions_BL: Tensor, mask: Mask) -> list[KeysValues]:
        """Each layer's keys and values of packed rows; arguments as for `forward`."""
        rotary, length = self._rotary(positions_BL), x_BLW.shape[1]
        slots_BL = torch.arange(length, device=x_BLW.device).expand_as(positions_BL)
        cache = self.new_cache(len(x_BLW), length)
        for layer, layer_cache in zip(self.layers, cache, strict=True):
            x_BLW = layer.extend(x_BLW, rotary, mask, layer_cache, slots_BL, length)
        return [layer.first(length) for layer in cache]

    def attend_cached(
        self, x_BLW: Tensor, positions_BL: Tensor, mask: Mask, keys_values: Sequence[KeysValues]
    ) -> Tensor:
        """Hidden states of inputs that see given keys and values and their own, and leave no trace, [B, L, W].

        Args:
            x_BLW: inputs, already projected.
            positions_BL: of the inputs in their documents.
            mask: who sees what: first the given keys, then those of the L inputs.
            keys_values: of each layer, [B, H, S, E].
        """
        rotary = self._rotary(positions_BL)
        for layer, (k_BHSE, v_BHSE) in zip(self.layers, keys_values, strict=True):
            x_BLW = layer.attend_cached(x_BLW, rotary, mask, k_BHSE, v_BHSE)
        return self.norm(x_BLW)

    def _rotary(self, positions_BL: Tensor) -> Rotary:
        return rotary_angles(positions_BL, self.head_size, self.rope_theta)
