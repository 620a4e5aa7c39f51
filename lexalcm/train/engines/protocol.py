"""What an engine does for the trainer: it holds the model and its optimizer, on one process or on many.

The trainer knows no engine, and an engine knows no steps, schedules, data or files:

    for batch in the step's micro-batches of this process:
        engine.accumulate(batch, scale, last)
    engine.update(lr)

Every process of a run makes the same calls in the same order; each may be a meeting point of them all.
Weights and optimizer state leave and enter an engine whole, by parameter name, one at a time, each on the process that
wants it. That is what lets a run stop under one engine, sharding or number of processes and go on under another. Frozen
parameters neither leave nor enter: they are those of the model that the engine is made with.

What is known of an engine before it is made - its name, what it trains with, what it takes in memory - is said by its
class, which `lexalcm.registries.ENGINES` knows by name: settings, help, `auto` and the plan of memory read it there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, Protocol

import torch

from lexalcm.data.batches.batch import Batch
from lexalcm.distributed.world import World
from lexalcm.io.safetensors_writer import TensorSpec
from lexalcm.model.config import ModelConfig
from lexalcm.objective import Loss, Objective
from lexalcm.train.ema import MovingAverage
from lexalcm.train.memory.layout import Layout
from lexalcm.train.settings import RunConfig, TrainSettings

ReadTensor = Callable[[str], torch.Tensor]
"""Gives a stored tensor by its name."""

Gather = Callable[[int | None], torch.Tensor]
"""Brings a tensor together, whole, on the process of this rank, or on every one where none is given.

Every process must call it; on others than that one, what it gives has no meaning.
"""


class Update(NamedTuple):
    """What came of one optimizer update."""

    grad_norm: float  # of all gradients together, before clipping
    applied: bool  # False: the gradient was not finite, so weights and optimizer state are as before
    grad_norms: Mapping[str, float] = MappingProxyType({})  # of each parameter's, where it was not applied and is known


class MemoryUse(NamedTuple):
    """Bytes that this process holds for the model, by purpose."""

    parameters: int
    gradients: int
    optimizer: int  # its state, the float32 weights that a bf16 model is updated through, and the weights' average


@dataclass(frozen=True)
class Setup:
    """How an engine is to train, found out before anything is made; an engine may add to it what it is made with."""

    precision: str  # "fp32" or "bf16"
    layout: str  # one of the engine's `layouts`


class Engine(Protocol):
    """A model in training. See the module's text for how it is used."""

    name: str  # as in the registry
    optimizers: tuple[str, ...]  # values of `train.optimizer` that it trains with
    one_process: bool  # whether it is for a run of one process; else it is for any number
    needs_process_group: bool  # even for a single process

    @classmethod
    def layouts(cls) -> dict[str, Layout]:
        """What it takes in memory, for each way that it can be told to train, by a name that no other engine has."""

    @classmethod
    def auto_layout(cls, settings: TrainSettings) -> str | None:
        """The layout that these settings mean if `auto` takes this engine; none: it does not, it must be asked for."""

    @classmethod
    def requested_by(cls, config: RunConfig) -> str | None:
        """What of the settings beside `train.engine` asks for this engine, as it is typed; none: nothing."""

    @classmethod
    def prepare(cls, config: RunConfig, model: ModelConfig, world: World, best: str) -> Setup:
        """Check what this engine makes of the settings.

        Args:
            config: the settings; the optimizer and the number of processes suit the engine.
            model: the model's sizes.
            world: the processes of the run.
            best: the precision that `auto` means.

        Raises:
            ConfigError: settings that contradict each other.
            MissingExtraError: something is not installed.
        """

    def __init__(self, objective: Objective, settings: TrainSettings, device: torch.device, setup: Setup) -> None:
        """Take over the model; the process group must be there if the engine needs one."""

    precision: str  # "fp32" or "bf16"
    shapes: dict[str, torch.Size]  # of every trained parameter by name, in the model's order, as they are when whole
    average: MovingAverage | None  # of the weights, where one was asked for

    @property
    def state_layout(self) -> dict[str, TensorSpec]:
        """The optimizer state's tensors by `parameter.tensor`, whole."""

    def accumulate(self, batch: Batch, scale: float, last: bool) -> Loss:
        """Add the gradient of `scale` x the micro-batch's summed loss, averaged over processes, to the step's.

        Args:
            batch: the micro-batch, on the CPU.
            scale: processes / targets in the step, so that the average over processes becomes the mean over targets.
            last: whether this is the process's last micro-batch of the step.

        Returns:
            The loss, detached. Where its sum is not finite, neither is the step's gradient.
        """

    def update(self, lr: float) -> Update:
        """Clip the step's gradient by its global norm, update the weights, forget the gradient."""

    def loss(self, batch: Batch) -> Loss:
        """The loss of a micro-batch without dropout and without gradient."""

    def weights(self) -> Mapping[str, Gather]:
        """Every trained parameter, float32, in the order of `shapes`; their moving average while it is in place."""

    def state(self) -> Mapping[str, Gather]:
        """The optimizer's state, as `state_layout` says and in its order."""

    def restore(self, weights: ReadTensor, state: ReadTensor, average: ReadTensor | None, updates: int) -> None:
        """Take over weights, by name, and optimizer state, by `parameter.tensor`, as after so many updates.

        The model that the engine was made with must have held these weights already. The average, where there is one to
        be kept, is taken over too, or begins at the weights where none is given.
        """

    def memory(self) -> MemoryUse:
        """Bytes held by this process once gradients and optimizer state are there."""

    def close(self) -> None:
        """Let go of everything, the process group included; nothing may follow."""
