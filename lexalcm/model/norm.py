"""Root mean square normalization (arXiv 1910.07467).

Torch has a fused kernel for it on GPUs. On a CPU it is made of many small operations, and its gradient of more: in a
training step of `tools/bench_train_step.py` they took 5% of the time. There, the gradient here takes a third of that.

Shapes: N vectors, W their width, ... any leading shape.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class RMSNorm(nn.Module):
    """Root mean square normalization with a learned scale, computed in float32 whatever the input's type."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the last dimension."""
        if x.device.type == "cpu" and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return _RMSNormOnCPU.apply(x.float(), self.weight.float(), self.eps).type_as(x)
        return nn.functional.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps).type_as(x)


def inverse_rms(x_NW: Tensor, eps: float) -> Tensor:
    """1 / sqrt(mean(x^2) + eps) of each vector, [N, 1]; the mean is a matrix product, the quickest sum on a CPU."""
    mean_W1, eps_11 = _mean(x_NW.shape[-1], eps)
    return torch.addmm(eps_11, x_NW.square(), mean_W1).rsqrt_()


@cache
def _mean(width: int, eps: float) -> tuple[Tensor, Tensor]:
    """What takes the mean of a vector of that width, [W, 1], and eps, [1, 1]."""
    with torch.inference_mode(False):
        return torch.full((width, 1), 1 / width), torch.full((1, 1), eps)


class _RMSNormOnCPU(torch.autograd.Function):
    """y = n w with n = x / rms(x); dx = (g w - n mean(g w n)) / rms(x), dw = sum(g n)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_W: Tensor, eps: float) -> Tensor:
        x_NW = x.reshape(-1, x.shape[-1])
        inverse_N1 = inverse_rms(x_NW, eps)
        normed_NW = x_NW * inverse_N1
        ctx.save_for_backward(normed_NW, inverse_N1, weight_W)
        return (normed_NW * weight_W).view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        normed_NW, inverse_N1, weight_W = ctx.saved_tensors
        g_NW = gradient.reshape(normed_NW.shape)
        along_NW = g_NW * normed_NW
        mean_N1 = along_NW @ (weight_W / weight_W.numel())[:, None]
        x_gradient_NW = torch.addcmul(g_NW * weight_W, normed_NW, mean_N1, value=-1).mul_(inverse_N1)
        return x_gradient_NW.view(gradient.shape), along_NW.sum(0), None
