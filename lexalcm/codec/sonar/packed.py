"""SONAR's encoder over tokens without padding, made of the modules that Transformers loads.

It is the same function as `M2M100Encoder.forward`, in another arrangement:

- A batch is one sequence of tokens. Linear layers and norms never see padding; attention stays inside sentences, on a
  GPU by FlashAttention's kernel for sequences of several lengths (arXiv 2307.08691), elsewhere on groups of sentences
  of about the same length, padded to the longest of each.
- Queries, keys and values are one matrix product.
- ReLU is applied where the product before it writes its result: the widest tensor is not read and written once more.
- On a GPU, once it has paid to compile them, the sum of the residual stream and the norm behind it are one kernel.

Tensors: N tokens, S sentences, W width, H heads, E = W / H, L tokens of a group's longest sentence.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.m2m_100.modeling_m2m_100 import M2M100Encoder

from lexalcm.codec.sonar.model import POSITION_OFFSET
from lexalcm.codec.sonar.token_rows import TokenBatch, length_groups
from lexalcm.device import can_compile

COMPILE_AFTER = 40_000_000
"""Tokens that are embedded before kernels are compiled.

On an H200 compiling takes 6.4 s and makes it 7% faster. That pays after 90 s, in which about 40 million tokens are
embedded (470,000 a second); work that has gone on for so long is taken to go on for as long again.
"""

FLASH_CAPABILITY = (8, 0)
HALF = (torch.float16, torch.bfloat16)

FP16_BOUND = 64504.0
"""What Transformers bounds the residual stream to in float16: its largest number, 65504, less a thousand."""


class PackedEncoder:
    """The encoder of a module that is on its device; it shares the module's weights.

    Attributes:
        compile_after: tokens embedded before kernels are compiled, where they can be.
    """

    def __init__(self, module: M2M100Encoder, compile_after: int = COMPILE_AFTER) -> None:
        """Arrange the module's weights: its query, key and value projections become views of one matrix."""
        self.module = module
        self.compile_after = compile_after
        self._tokens = 0
        norm = module.layer_norm
        self.device, self.dtype = norm.weight.device, norm.weight.dtype
        modules: list[Any] = list(module.layers)
        norms: list[nn.LayerNorm] = [*(layer.self_attn_layer_norm for layer in modules), module.layer_norm]
        self._first_norm = norms[0]
        self._layers = [_layer(layer, behind) for layer, behind in zip(modules, norms[1:], strict=True)]

    @torch.inference_mode()
    def __call__(self, batch: "DeviceBatch") -> Tensor:
        """Embeddings of sentences, the mean over each one's tokens: float32 [S, W]."""
        module = self.module
        add_norm = self._add_norm(len(batch.tokens))
        states_NW = module.embed_tokens(batch.tokens) + module.embed_positions.weights[batch.position + POSITION_OFFSET]
        normed_NW = self._first_norm(states_NW)
        for layer in self._layers:
            qkv_N3HE = functional.linear(normed_NW, layer.weight, layer.bias).unflatten(1, (3, layer.heads, -1))
            update_NW = layer.out(batch.attend(qkv_N3HE).flatten(1))
            states_NW, normed_NW = add_norm(states_NW, update_NW, *layer.middle)
            update_NW = layer.fc2(torch._addmm_activation(layer.fc1.bias, normed_NW, layer.fc1.weight.t()))
            states_NW, normed_NW = add_norm(states_NW, update_NW, *layer.behind)
        return torch.segment_reduce(normed_NW.float(), "mean", offsets=batch.offsets, axis=0, unsafe=True)

    def _add_norm(self, tokens: int) -> Callable[..., tuple[Tensor, Tensor]]:
        self._tokens += tokens
        compiled = self._tokens > self.compile_after and can_compile(self.device)
        return _compiled_add_norm() if compiled else add_and_norm

    @cached_property
    def flash(self) -> bool:
        """Whether FlashAttention's kernel can be used."""
        return (
            self.device.type == "cuda"
            and self.dtype in HALF
            and torch.cuda.get_device_capability(self.device) >= FLASH_CAPABILITY
            and find_spec("torch.nn.attention.varlen") is not None
        )

    def prepare(self, batch: TokenBatch) -> "DeviceBatch":
        """A batch on its way to the device; nothing waits for it."""
        return (FlashBatch if self.flash else GroupedBatch)(batch, self.device)


class DeviceBatch:
    """A batch of tokens on a device.

    Attributes:
        tokens: int32 [N].
        position: int32 [N].
        offsets: int32 [S + 1].
    """

    def __init__(self, batch: TokenBatch, device: torch.device) -> None:
        self.longest = int(batch.lengths.max())
        self.tokens, self.position, self.offsets = (
            moved(array, device) for array in (batch.tokens, batch.position, batch.offsets)
        )

    def attend(self, qkv_N3HE: Tensor) -> Tensor:
        """Softmax attention inside each sentence, [N, H, E]."""
        raise NotImplementedError


class FlashBatch(DeviceBatch):
    """One whose attention is a kernel for sequences of several lengths."""

    def attend(self, qkv_N3HE: Tensor) -> Tensor:
        """Softmax attention inside each sentence, [N, H, E]."""
        from torch.nn.attention.varlen import varlen_attn

        query, key, value = qkv_N3HE.unbind(1)
        mixed = varlen_attn(query, key, value, self.offsets, self.offsets, self.longest, self.longest)
        return cast(Tensor, mixed)


@dataclass(frozen=True)
class Group:
    """Sentences of about the same length; their tokens are beside each other."""

    tokens: slice
    shape: tuple[int, int]
    """S, L"""
    padded: Tensor | None = None
    """Which of the slice's tokens stands where in the padded group, int64 [S x L]; None: all are equally long."""
    mask: Tensor | None = None
    """Which of those places are not padding, bool [S, 1, 1, L]."""
    real: Tensor | None = None
    """Where the slice's tokens are in the padded group, int64 [tokens]."""


class GroupedBatch(DeviceBatch):
    """One whose attention pads sentences of about the same length to the longest of them."""

    def __init__(self, batch: TokenBatch, device: torch.device) -> None:
        super().__init__(batch, device)
        self.groups = [_group(batch, part, device) for part in length_groups(batch.lengths)]

    def attend(self, qkv_N3HE: Tensor) -> Tensor:
        """Softmax attention inside each sentence, [N, H, E]."""
        return torch.cat([_attend_padded(qkv_N3HE[group.tokens], group) for group in self.groups])


def _group(batch: TokenBatch, part: slice, device: torch.device) -> Group:
    lengths = batch.lengths[part]
    longest = int(lengths[0])
    tokens = slice(int(batch.offsets[part.start]), int(batch.offsets[part.stop]))
    shape = (len(lengths), longest)
    if lengths[-1] == longest:
        return Group(tokens, shape)
    there = np.arange(longest) < lengths[:, None]
    padded = np.where(there.ravel(), np.cumsum(there) - 1, 0)
    real = np.flatnonzero(there)
    return Group(tokens, shape, *(moved(array, device) for array in (padded, there[:, None, None], real)))


def _attend_padded(qkv_N3HE: Tensor, group: Group) -> Tensor:
    padded = qkv_N3HE if group.padded is None else qkv_N3HE.index_select(0, group.padded)
    query, key, value = padded.unflatten(0, group.shape).permute(2, 0, 3, 1, 4)  # each [S, H, L, E]
    mixed_SLHE = functional.scaled_dot_product_attention(query, key, value, group.mask).transpose(1, 2)
    mixed_NHE = mixed_SLHE.flatten(0, 1)
    return mixed_NHE if group.real is None else mixed_NHE.index_select(0, group.real)


def moved(array: np.ndarray, device: torch.device) -> Tensor:
    """An array on a device; a GPU fetches it from pinned memory when its turn comes, and nobody waits for it."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def add_and_norm(
    states_NW: Tensor, update_NW: Tensor, weight_W: Tensor, bias_W: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """The residual stream with an update added, and its layer norm: [N, W] both."""
    states_NW = states_NW + update_NW
    if states_NW.dtype == torch.float16:
        states_NW = states_NW.clamp(-FP16_BOUND, FP16_BOUND)
    return states_NW, functional.layer_norm(states_NW, weight_W.shape, weight_W, bias_W, eps)


_Norm = tuple[Tensor, Tensor, float]
"""Weight, bias and epsilon of a layer norm."""


@dataclass(frozen=True)
class _Layer:
    """A layer's weights as they are used."""

    heads: int
    weight: Tensor
    """Of queries, keys and values together, [3W, W]."""
    bias: Tensor
    out: nn.Linear
    middle: _Norm
    """Behind attention."""
    fc1: nn.Linear
    fc2: nn.Linear
    behind: _Norm
    """The next layer's first norm, or the encoder's last."""


def _layer(layer: Any, behind: nn.LayerNorm) -> _Layer:
    """The weights of a layer, whose query, key and value projections become views of one matrix."""
    attention = layer.self_attn
    parts = [attention.q_proj, attention.k_proj, attention.v_proj]
    weight, bias = torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts])
    for part, rows, numbers in zip(parts, weight.chunk(3), bias.chunk(3), strict=True):
        part.weight.data, part.bias.data = rows, numbers
    middle, last = ((norm.weight, norm.bias, norm.eps) for norm in (layer.final_layer_norm, behind))
    return _Layer(attention.num_heads, weight, bias, attention.out_proj, middle, layer.fc1, layer.fc2, last)


@cache
def _compiled_add_norm() -> Callable[..., tuple[Tensor, Tensor]]:
    """Compiled twice at most: for the number of tokens that it meets first, then for any number."""
    compiled: Callable[..., tuple[Tensor, Tensor]] = torch.compile(add_and_norm)
    return compiled
