"""A linear layer whose weights do not change any more, multiplied in the order that suits the number of positions.

In float32 on a CPU the usual way reads a weight at a fraction of the memory's speed when positions are few, and
computes at a fraction of the cores' when they are more. GFLOP/s of two Zen 4 cores, torch 2.13, with a weight of
1536 x 512 out of 24:

| positions | 1 | 2 | 4 | 8 | 16 | 64 |
|---|---|---|---|---|---|---|
| `nn.functional.linear` | 5 | 8 | 17 | 40 | 68 | 137 |
| the weight on the left, two columns at a time | 18 | 37 | 49 | 58 | 81 | 140 |
| packed by oneDNN | 11 | 22 | 53 | 91 | 128 | 200 |

So one or two positions are two columns, and from three on the weight is packed, once: a copy of it in memory.

Shapes: N positions, I inputs, O outputs.
"""

import torch
from torch import Tensor, nn

COLUMNS = 2
"""Up to this many positions stand as columns at the weight's right."""


class FixedLinear:
    """x W^T + b.

    Args:
        weight_OI: must not change afterwards; is not copied before it is packed.
        bias_O: the same.
    """

    def __init__(self, weight_OI: Tensor, bias_O: Tensor) -> None:
        self.weight = weight_OI
        self.bias = bias_O
        self._on_cpu = weight_OI.device.type == "cpu" and weight_OI.dtype == torch.float32
        self._packed: Tensor | None = None

    @classmethod
    def of(cls, linear: nn.Linear) -> "FixedLinear":
        """The same map as a layer's."""
        return cls(linear.weight, linear.bias)

    def __call__(self, x_NI: Tensor) -> Tensor:
        """[N, I] to [N, O]."""
        positions = len(x_NI)
        if self._on_cpu and positions <= COLUMNS:
            return times_columns(x_NI, self.weight, self.bias)
        if not self._on_cpu or not torch.backends.mkldnn.is_available():
            return nn.functional.linear(x_NI, self.weight, self.bias)
        if self._packed is None:
            self._packed = torch.ops.mkldnn._reorder_linear_weight(self.weight, positions)
        return torch.ops.mkldnn._linear_pointwise(x_NI, self._packed, self.bias, "none", [], "")


def times_columns(x_NI: Tensor, weight_OI: Tensor, bias_O: Tensor) -> Tensor:
    """x W^T + b, [N, O], for one or two positions: MKL reads the weight twice as fast for two columns as for one."""
    pair_2I = x_NI if len(x_NI) == COLUMNS else x_NI.repeat(COLUMNS, 1)
    product_NO = torch.mm(weight_OI, pair_2I.t()).t()[: len(x_NI)]
    return torch.add(product_NO, bias_O, out=torch.empty_like(product_NO, memory_format=torch.contiguous_format))
