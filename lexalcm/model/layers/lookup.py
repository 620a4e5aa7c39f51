"""Rows of a small table, looked up for many positions: what its timestep does to each of them.

The gradient of a row is a sum over the positions that took it. On a GPU torch adds them up one by one, thousands of
positions on a hundred rows, which wait for each other and come in no fixed order. There, it is one matrix product with
the positions' one-hot vectors instead: as fast as the tensor cores, and the same numbers in every run.

Shapes: B rows of a batch, L positions, N = B L, T rows of the table, W width.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def lookup(table_TW: Tensor, index_BL: Tensor) -> Tensor:
    """The table's row for each position, [B, L, W]."""
    if table_TW.device.type == "cpu" and not torch.compiler.is_compiling():
        return nn.functional.embedding(index_BL, table_TW)
    return _OneHotLookup.apply(table_TW, index_BL)


class _OneHotLookup(torch.autograd.Function):
    """`table_TW[index_BL]` whose gradient is a matrix product, of the gradient's own type."""

    @staticmethod
    def forward(ctx: Any, table_TW: Tensor, index_BL: Tensor) -> Tensor:
        ctx.save_for_backward(index_BL, torch.arange(len(table_TW), device=table_TW.device))
        return table_TW[index_BL]  # which compiled code makes again for the backward pass; an embedding it would keep

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BLW: Tensor) -> tuple[Tensor, None]:
        index_BL, rows_T = ctx.saved_tensors
        one_hot_TN = (rows_T[:, None] == index_BL.flatten()).type_as(gradient_BLW)
        return one_hot_TN @ gradient_BLW.flatten(0, 1), None
