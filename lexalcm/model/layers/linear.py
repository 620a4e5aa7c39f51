"""Linear layers whose products oneDNN makes in training on a CPU.

Torch leaves float32 products to MKL. oneDNN makes the output and the input's gradient quicker, bias included: 3% of a
training step in `tools/bench_train_step.py`. The weight's gradient, whose both factors would have to be turned first,
stays with MKL. Everywhere else (GPUs, other types, compiled code, no gradients asked for) it is torch's own way.

Shapes: N positions, I inputs, O outputs, ... any leading shape.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class Linear(nn.Linear):
    """`nn.Linear`, quicker in training on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] to [..., O]."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    """x W^T + b, [..., O]: `nn.functional.linear`, quicker in training on a CPU."""
    if (
        x.device.type == "cpu"
        and x.dtype == weight_OI.dtype == torch.float32
        and torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
    ):
        return _OneDNNLinear.apply(x, weight_OI, bias_O)
    return nn.functional.linear(x, weight_OI, bias_O)


def _product(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight_OI, bias_O, "none", [], "")


class _OneDNNLinear(torch.autograd.Function):
    """y = x W^T + b; dx = g W, dW = g^T x, db = sum(g)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight_OI)
        return _product(x, weight_OI, bias_O)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight_OI = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        g_NO = gradient.reshape(-1, len(weight_OI))
        return (
            _product(g_NO, weight_OI.t()).view(x.shape) if for_x else None,
            g_NO.t() @ x.reshape(-1, x.shape[-1]) if for_weight else None,
            g_NO.sum(0) if for_bias else None,
        )
