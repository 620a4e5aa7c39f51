"""The optimizers, and their state as named tensors, which is what a checkpoint keeps of them.

| setting | what | state of a matrix of n numbers |
|---|---|---|
| adamw | AdamW (arXiv 1711.05101), torch's fused kernel | two tensors like it, float32: 8 n bytes |
| adafactor | Adafactor (arXiv 1804.04235), torch's | its rows' and columns' mean squares: almost nothing |
| adamw8bit | AdamW with state in 8 bits (arXiv 2110.02861), of bitsandbytes (extra `adamw8bit`) | 2 n bytes |
| muon | Muon (Newton-Schulz momentum) for the layers' matrices, torch's, beside AdamW for the rest | 4 n bytes |

Matrices decay; norms, biases and other vectors do not: shrinking a gain or a bias regularizes nothing and
fights what the norm layers do.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lexalcm.errors import ConfigError, import_extra
from lexalcm.train.settings import TrainSettings

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's state of a parameter, by torch's names: the running means of gradient and squared gradient."""

BITSANDBYTES_MINIMUM = 4096
"""Numbers in a parameter from which bitsandbytes keeps its state in 8 bits; its own default."""


def parameter_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """The trained parameters in two groups: those with two dimensions or more decay, the others do not."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim >= 2], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_optimizers(model: nn.Module, layers: Sequence[nn.Module], settings: TrainSettings) -> list[Optimizer]:
    """The optimizers that together train a model; their learning rate is set before every update.

    Args:
        model: whose parameters are trained, but for those that need no gradient.
        layers: its repeated layers, whose matrices are Muon's.
        settings: which optimizer, and its numbers.

    Raises:
        MissingExtraError: bitsandbytes is not installed.
        ConfigError: this torch has no Muon.
    """
    if settings.optimizer == "adafactor":
        return [torch.optim.Adafactor(parameter_groups(model.parameters(), settings.weight_decay), lr=0.0)]
    if settings.optimizer == "adamw8bit":
        bitsandbytes = import_extra("bitsandbytes", "adamw8bit", "train.optimizer=adamw8bit")
        groups = parameter_groups(model.parameters(), settings.weight_decay)
        adamw8bit = bitsandbytes.optim.AdamW8bit
        return [
            adamw8bit(groups, 0.0, settings.betas, settings.eps, min_8bit_size=BITSANDBYTES_MINIMUM),
        ]
    if settings.optimizer == "muon":
        return _muon_beside_adamw(model, layers, settings)
    return [make_adamw(model.parameters(), settings)]


def make_adamw(parameters: Iterable[nn.Parameter], settings: TrainSettings) -> torch.optim.AdamW:
    """Torch's fused AdamW."""
    groups = parameter_groups(parameters, settings.weight_decay)
    return torch.optim.AdamW(groups, lr=0.0, betas=settings.betas, eps=settings.eps, fused=True)


def _muon_beside_adamw(model: nn.Module, layers: Sequence[nn.Module], settings: TrainSettings) -> list[Optimizer]:
    muon = getattr(torch.optim, "Muon", None)
    if muon is None:
        raise ConfigError(
            f"train.optimizer is muon, which torch {torch.__version__} does not have: install 2.9 or newer"
        )
    matrices = [p for layer in layers for p in layer.parameters() if p.requires_grad and p.ndim == 2]
    theirs = {id(parameter) for parameter in matrices}
    others = [parameter for parameter in model.parameters() if parameter.requires_grad and id(parameter) not in theirs]
    optimizers: list[Optimizer] = []
    if matrices:
        # Updates of the size that AdamW's have (arXiv 2502.16982), so that one learning rate suits both.
        optimizers.append(muon(matrices, lr=0.0, weight_decay=settings.weight_decay, adjust_lr_fn="match_rms_adamw"))
    if others:
        optimizers.append(make_adamw(others, settings))
    return optimizers


def set_learning_rate(optimizer: Optimizer, lr: float) -> None:
    """Set the learning rate of the next update."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def create_state(optimizers: Iterable[Optimizer], updates: int) -> None:
    """Make optimizers' state as it is before the first update, but counting `updates` made.

    An optimizer makes its state at its first update, and a checkpoint must be readable into it before. So an update is
    made that changes nothing: its gradient is zero, and its learning rate too. Gradients are gone afterwards.
    """
    for optimizer in optimizers:
        optimizer.state.clear()
        for parameter in _parameters(optimizer):
            parameter.grad = torch.zeros_like(parameter)
        set_learning_rate(optimizer, 0.0)
        optimizer.step()
        optimizer.zero_grad()
        for state in optimizer.state.values():
            if isinstance(state.get("step"), Tensor):
                state["step"].fill_(updates)
            elif "step" in state:
                state["step"] = updates


def state_tensors(optimizers: Iterable[Optimizer]) -> dict[nn.Parameter, dict[str, Tensor]]:
    """The tensors that optimizers keep of each parameter, by their names there.

    Left out are the number of updates, which the train state holds, and bitsandbytes' code table, a constant.
    """
    return {
        parameter: {
            name: value
            for name, value in optimizer.state[parameter].items()
            if isinstance(value, Tensor) and name != "step" and not name.startswith("qmap")
        }
        for optimizer in optimizers
        for parameter in _parameters(optimizer)
    }


def _parameters(optimizer: Optimizer) -> Iterator[nn.Parameter]:
    for group in optimizer.param_groups:
        yield from group["params"]
