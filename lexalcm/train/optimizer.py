"""The optimizer: AdamW (Loshchilov & Hutter, arXiv 1711.05101), its fused kernel, two groups of parameters.

Matrices decay; norms, biases and other vectors do not: shrinking a gain or a bias regularizes nothing and
fights what the norm layers do.
"""

from typing import Any

import torch
from torch import nn

from lexalcm.config import TrainSettings

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's state of a parameter, by torch's names: the running means of gradient and squared gradient."""


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The trained parameters in two groups: those with two dimensions or more decay, the others do not."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim >= 2], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_adamw(model: nn.Module, settings: TrainSettings) -> torch.optim.AdamW:
    """AdamW over the model's parameters; its learning rate is set before every update."""
    groups = parameter_groups(model, settings.weight_decay)
    return torch.optim.AdamW(groups, lr=0.0, betas=settings.betas, eps=settings.eps, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of the next update."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def create_state(optimizer: torch.optim.AdamW, parameters: list[torch.Tensor], updates: int) -> None:
    """Make AdamW's state of parameters as it is before the first update, but counting `updates` made.

    AdamW makes its state at the first update; a checkpoint must be readable into it before.
    """
    for parameter in parameters:
        optimizer.state[parameter] = {
            "step": torch.full((), float(updates), dtype=torch.float32, device=parameter.device),
            **{moment: torch.zeros_like(parameter) for moment in MOMENTS},
        }
