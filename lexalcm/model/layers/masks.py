"""Who sees whom in a packed row: masks made once per forward pass and shared by all layers and heads.

A mask is a rule, "may query q of row b see key k", over document ids. On a CPU the rule is evaluated for all pairs into
a boolean tensor [B, 1, Q, K] for `scaled_dot_product_attention`: B x L^2 bytes, 256 KiB for a row of 512. On a GPU it
becomes a FlexAttention block mask (arXiv 2412.05496) in training in half precision: the kernel evaluates the rule
itself, skips blocks in which nothing is seen, and nothing quadratic in the row's length is stored. In float32 its
kernels have no tensor cores and take long to compile; there, where kernels cannot be compiled, outside training, and
with `model.attention=sdpa`, a GPU gets the boolean tensor.

Shapes: B rows, L positions, Q queries, K keys.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import flex_attention as flex
from torch.nn.attention.flex_attention import BlockMask

from lexalcm.device import can_compile
from lexalcm.model.config import AttentionKernel

Mask = Tensor | BlockMask
"""Either form of a mask."""

Rule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""From indices of row, head, query and key to whether the query sees the key."""


def causal_mask(documents_BL: Tensor, kernel: AttentionKernel) -> Mask:
    """Each position sees itself and the earlier positions of its document."""

    def sees(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (documents_BL[b, q] == documents_BL[b, k]) & (k <= q)

    rows, length = documents_BL.shape
    return _make_mask(sees, rows, length, length, documents_BL.device, kernel)


def clean_noisy_mask(documents_BL: Tensor, dropped_BL: Tensor, kernel: AttentionKernel) -> Mask:
    """L clean positions, then L noisy ones: clean i sees the clean j <= i, noisy i the clean j < i and itself.

    All within one document; a noisy position whose conditioning is dropped sees itself alone.
    """
    rows, length = documents_BL.shape

    def sees(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        query, key = q % length, k % length
        noisy = q >= length
        earlier = (documents_BL[b, query] == documents_BL[b, key]) & (key < query) & (k < length)
        return (q == k) | (earlier & ~(noisy & dropped_BL[b, query]))

    return _make_mask(sees, rows, 2 * length, 2 * length, documents_BL.device, kernel)


def noisy_beside_clean_mask(documents_BL: Tensor, copies: int, kernel: AttentionKernel) -> Mask:
    """`copies` times L noisy positions over L clean ones and behind them themselves.

    Each sees itself; those of the first copy also the clean ones before them in their document.
    """
    rows, length = documents_BL.shape

    def sees(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        query, key = q % length, k % length
        earlier = (documents_BL[b, query] == documents_BL[b, key]) & (key < query)
        return (earlier & (q < length) & (k < length)) | (k - length == q)

    return _make_mask(sees, rows, copies * length, (1 + copies) * length, documents_BL.device, kernel)


def next_concept_mask(last_B: Tensor, slots: int, copies: int) -> Tensor:
    """The same for one noisy concept a row, behind clean ones in slots 0 to `last`: [B, 1, copies, slots + copies]."""
    copy = torch.arange(copies, device=last_B.device)
    before_B1PS = (torch.arange(slots, device=last_B.device) <= last_B[:, None, None, None]) & (copy == 0)[:, None]
    itself_PP = copy[:, None] == copy
    return torch.cat([before_B1PS, itself_PP.expand(len(last_B), 1, -1, -1)], dim=-1)


def flex_attention(q_BHQE: Tensor, k_BHKE: Tensor, v_BHKE: Tensor, mask: BlockMask) -> Tensor:
    """Softmax attention under a block mask, [B, H, Q, E]; compiled at the first use, or with the caller."""
    if torch.compiler.is_compiling():
        return flex.flex_attention(q_BHQE, k_BHKE, v_BHKE, block_mask=mask)
    return _compiled()[0](q_BHQE, k_BHKE, v_BHKE, block_mask=mask)


def takes_flex(kernel: AttentionKernel, device: torch.device, precision: str) -> bool:
    """Whether training in a precision, `fp32` or `bf16`, has FlexAttention over packed rows on a device."""
    return kernel == "flex" or (kernel == "auto" and precision == "bf16" and can_compile(device))


def _make_mask(rule: Rule, rows: int, queries: int, keys: int, device: torch.device, kernel: AttentionKernel) -> Mask:
    if kernel != "sdpa" and takes_flex(kernel, device, "bf16" if torch.is_autocast_enabled(device.type) else "fp32"):
        return _compiled()[1](rule, rows, None, queries, keys, device=device)
    b, h, q, k = (torch.arange(n, device=device) for n in (rows, 1, queries, keys))
    return rule(b[:, None, None, None], h[:, None, None], q[:, None], k)


@cache
def _compiled() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """FlexAttention and its maker of block masks, which without the compiler would store all pairs after all."""
    return torch.compile(flex.flex_attention, dynamic=False), torch.compile(flex.create_block_mask, dynamic=False)
