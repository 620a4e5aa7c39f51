"""What is done to a model from outside before an engine takes it: layers recomputed or compiled, parameters frozen.

A layer's `forward` is replaced, not the layer: parameters keep their names, and the hooks that engines put around a
layer's call stay outside, where they gather its weights once for forward and once for backward pass.
"""

import fnmatch
from collections.abc import Iterable
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lexalcm.device import can_compile
from lexalcm.errors import ConfigError
from lexalcm.model.config import ModelConfig
from lexalcm.model.create import count_parameters
from lexalcm.model.lcm import LCM
from lexalcm.train.settings import TrainSettings

EVERY = "every-"
COMPILED_FROM = 50_000_000
"""Parameters from which `train.compile=auto` compiles: smaller models have trained in the time that it takes."""


def compiles(settings: TrainSettings, model: ModelConfig, device: torch.device) -> bool:
    """Whether a training on a device compiles a model's layers, where the engine allows it."""
    if settings.compile == "auto":
        return can_compile(device) and _is_large(model)
    return settings.compile


def would_compile(settings: TrainSettings, model: ModelConfig, device_type: str) -> bool:
    """The same for a GPU that need not be here, and is then taken to have a compiler."""
    if settings.compile != "auto":
        return settings.compile
    here = torch.cuda.is_available()
    return device_type == "cuda" and _is_large(model) and (not here or can_compile(torch.device("cuda")))


def _is_large(model: ModelConfig) -> bool:
    return sum(count_parameters(model).values()) >= COMPILED_FROM


def prepare_layers(model: LCM, *, compiled: bool, checkpointing: str) -> None:
    """Compile the layers if they are to be, and recompute their activations as `is_recomputed` says."""
    for number, layer in enumerate(model.blocks()):
        if compiled:
            layer.forward = torch.compile(layer.forward, dynamic=False)
        if is_recomputed(checkpointing, number):
            # Dropout draws the same numbers again: torch's generator is put back to where it was.
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)


def is_recomputed(choice: str, layer: int) -> bool:
    """Whether activation checkpointing `none`, `full` or `every-N` recomputes a layer; every-2: layers 0, 2, 4, ..."""
    if choice.startswith(EVERY):
        return layer % int(choice.removeprefix(EVERY)) == 0
    return choice == "full"


def freeze(model: nn.Module, patterns: Iterable[str]) -> None:
    """Keep the parameters whose names match a pattern, e.g. `contextualizer.*`, as they are.

    Raises:
        ConfigError: a pattern that matches none, or nothing left to train.
    """
    parameters = dict(model.named_parameters())
    for pattern in patterns:
        names = fnmatch.filter(parameters, pattern)
        if not names:
            parts = ", ".join(
                f"{name}.*" for name, part in model.named_children() if any(True for _ in part.parameters())
            )
            raise ConfigError(f"train.freeze: {pattern} matches no parameter; there are {parts}")
        for name in names:
            parameters[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise ConfigError("train.freeze leaves no parameter to train: remove a pattern")
