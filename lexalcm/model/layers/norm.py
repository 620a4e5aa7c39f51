"""Root mean square normalization (arXiv 1910.07467).

Torch has a fused kernel for it on GPUs. On a CPU it is made of many small operations, and its gradient of more: in a
training step of `tools/bench_train_step.py` they took 5% of the time. There, the gradient here takes a third of that.

Shapes: B rows, L positions, N vectors, T timesteps, W width.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lexalcm.model.layers.lookup import lookup


class _LearnedNorm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def normalize(self, x: Tensor) -> Tensor:
        """x / rms(x) times the learned scale, over the last dimension."""
        return _normalize(x, self.weight, self.eps)


class RMSNorm(_LearnedNorm):
    """Root mean square normalization with a learned scale, computed in float32 whatever the input's type."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the last dimension."""
        return self.normalize(x)


class ModulatedRMSNorm(_LearnedNorm):
    """Root mean square normalization that the timestep scales and shifts further (adaLN, arXiv 2212.09748)."""

    def forward(self, x_BLW: Tensor, timesteps_BL: Tensor, scale_TW: Tensor, shift_TW: Tensor) -> Tensor:
        """norm(x) * scale + shift, each position at its own timestep, [B, L, W].

        The learned scale goes into those of the timesteps first: T products of vectors instead of one a position.
        """
        scale_BLW = lookup((scale_TW * self.weight).type_as(x_BLW), timesteps_BL)
        return _normalize(x_BLW, scale_BLW, self.eps) + lookup(shift_TW, timesteps_BL)


def _normalize(x: Tensor, scale: Tensor, eps: float) -> Tensor:
    """x / rms(x) * scale over the last dimension; the scale is [W] or has the shape of x."""
    if x.device.type == "cpu" and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return _NormalizeOnCPU.apply(x.float(), scale.float(), eps).type_as(x)
    if scale.ndim == 1:
        return nn.functional.rms_norm(x.float(), scale.shape, scale.float(), eps).type_as(x)
    return nn.functional.rms_norm(x, x.shape[-1:], eps=eps) * scale  # whose sums are float32 whatever x is


def inverse_rms(x_NW: Tensor, eps: float) -> Tensor:
    """1 / sqrt(mean(x^2) + eps) of each vector, [N, 1]; the mean is a matrix product, the quickest sum on a CPU."""
    mean_W1, eps_11 = _mean(x_NW.shape[-1], eps)
    return torch.addmm(eps_11, x_NW.square(), mean_W1).rsqrt_()


@cache
def _mean(width: int, eps: float) -> tuple[Tensor, Tensor]:
    """What takes the mean of a vector of that width, [W, 1], and eps, [1, 1]."""
    with torch.inference_mode(False):
        return torch.full((width, 1), 1 / width), torch.full((1, 1), eps)


class _NormalizeOnCPU(torch.autograd.Function):
    """y = n s with n = x / rms(x); dx = (g s - n mean(g s n)) / rms(x), ds = g n, summed where s is one for all."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, eps: float) -> Tensor:
        x_NW = x.reshape(-1, x.shape[-1])
        scale = scale if scale.ndim == 1 else scale.reshape(x_NW.shape)
        inverse_N1 = inverse_rms(x_NW, eps)
        normed_NW = x_NW * inverse_N1
        ctx.save_for_backward(normed_NW, inverse_N1, scale)
        return (normed_NW * scale).view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        normed_NW, inverse_N1, scale = ctx.saved_tensors
        g_NW = gradient.reshape(normed_NW.shape)
        along_NW = g_NW * normed_NW
        if scale.ndim == 1:
            mean_N1 = along_NW @ (scale / len(scale))[:, None]
            scale_gradient = along_NW.sum(0)
        else:
            mean_N1 = (along_NW * scale).mean(1, keepdim=True)
            scale_gradient = along_NW.view(gradient.shape)
        x_gradient_NW = torch.addcmul(g_NW * scale, normed_NW, mean_N1, value=-1).mul_(inverse_N1)
        return x_gradient_NW.view(gradient.shape), scale_gradient, None
