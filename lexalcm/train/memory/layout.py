"""What a training's memory follows from, whatever the engine: the sizes of its model, and who holds what where.

Every engine has one or more layouts, which say the latter in numbers; they are defined beside it, see `Engine.layouts`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, prod
from typing import Literal, get_args

from torch import nn

from lexalcm.model.config import ModelConfig
from lexalcm.model.create import meta_model
from lexalcm.model.lcm import LCM
from lexalcm.train.layers import freeze
from lexalcm.train.optimizer import BITSANDBYTES_MINIMUM
from lexalcm.train.settings import TrainSettings

OffloadsTo = Literal["", "cpu", "nvme"]
OFFLOADS_TO: tuple[OffloadsTo, ...] = get_args(OffloadsTo)
"""Where a layout may move what a GPU would hold, the quickest first."""


@dataclass(frozen=True)
class Sizes:
    """Numbers in the parts of a model."""

    parameters: int
    trained: int
    state: int  # bytes of the optimizer's state, unsharded
    largest_layer: int
    outside_layers: int
    largest: int  # parameter
    width: int


@dataclass(frozen=True)
class MemoryInputs:
    """What the memory of a training depends on."""

    sizes: Sizes
    settings: TrainSettings
    processes: int
    number: int  # bytes of one in the run's precision
    once: bool  # each process has one micro-batch a step

    def average(self, shares: int) -> int:
        """Bytes of one of so many shares of the weights' moving average."""
        return 0 if self.settings.ema.decay is None else 4 * ceil(self.sizes.trained / shares)


@dataclass(frozen=True)
class PlannedMemory:
    """Bytes that an engine will hold for each process."""

    weights: int
    gradients: int
    optimizer: int
    average: int
    buffers: int = 0  # while a micro-batch is computed, beyond its activations
    step_buffers: int = 0  # while the optimizer updates, when there are no activations
    cpu: int = 0
    nvme: int = 0


@dataclass(frozen=True)
class Layout:
    """Who holds what where: a way to train that an engine has."""

    options: str  # what to say to `lcm train` for it
    memory: Callable[[MemoryInputs], PlannedMemory]
    shards: int = 0  # over processes, by ZeRO's stages: 1 the optimizer's state, 2 gradients too, 3 weights too
    offloads_to: OffloadsTo = ""
    casts_weights: bool = True  # in bf16, weights are bf16 when they multiply; else autocast makes copies
    gradients_appear: bool = False  # one by one in a step's only backward pass; else all have their place before
    compiles: bool = True  # the layers, where they are to be compiled
    listed_from: int | None = 1  # processes from which a plan lists it; none: never

    @property
    def complexity(self) -> tuple[int, int]:
        """How much it does to save memory: what does less is tried first."""
        return OFFLOADS_TO.index(self.offloads_to), self.shards


def model_sizes(model: ModelConfig, settings: TrainSettings) -> Sizes:
    """Count a model's parameters without allocating them."""
    lcm = meta_model(model)
    freeze(lcm, settings.freeze)
    every = list(lcm.parameters())
    layers = [sum(p.numel() for p in layer.parameters()) for layer in lcm.blocks()]
    parameters = sum(p.numel() for p in every)
    return Sizes(
        parameters=parameters,
        trained=sum(p.numel() for p in every if p.requires_grad),
        state=_state_bytes(lcm, settings.optimizer),
        largest_layer=max(layers),
        outside_layers=parameters - sum(layers),
        largest=max(p.numel() for p in every),
        width=model.width,
    )


def _state_bytes(model: LCM, optimizer: str) -> int:
    """Bytes of an optimizer's state; see `lexalcm.train.optimizer`."""
    in_layers = {id(p) for layer in model.blocks() for p in layer.parameters()}

    def of(parameter: nn.Parameter) -> int:
        size = parameter.numel()
        if optimizer == "adafactor":
            rows, columns = prod(parameter.shape[:-1]), prod((*parameter.shape[:-2], *parameter.shape[-1:]))
            return 4 * (rows + columns) if parameter.ndim >= 2 else 4 * size
        if optimizer == "adamw8bit" and size >= BITSANDBYTES_MINIMUM:
            return 2 * size + 2 * 4 * ceil(size / 256)  # and the largest number of each 256
        if optimizer == "muon" and parameter.ndim == 2 and id(parameter) in in_layers:
            return 4 * size
        return 8 * size

    return sum(of(parameter) for parameter in model.parameters() if parameter.requires_grad)
