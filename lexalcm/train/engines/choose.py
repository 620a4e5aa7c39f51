"""Which engine a run gets, and its start."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from lexalcm.distributed.world import World
from lexalcm.errors import ConfigError
from lexalcm.model.config import ModelConfig
from lexalcm.model.layers.masks import takes_flex
from lexalcm.objective import Objective
from lexalcm.registries import ENGINES
from lexalcm.train.engines.precision import best_precision, chosen_precision
from lexalcm.train.engines.protocol import Engine, Setup
from lexalcm.train.layers import compiles, prepare_layers
from lexalcm.train.memory.choice import choose_by_memory, warn_by_memory
from lexalcm.train.memory.plan import gpu_memory
from lexalcm.train.settings import RunConfig, TrainSettings


@dataclass(frozen=True)
class EngineChoice:
    """An engine that has been found possible, not started yet."""

    engine: type[Engine]
    setup: Setup
    note: str | None = None  # why, or that it may not fit into a GPU's memory
    checkpointing: str | None = None  # in place of `train.activation_checkpointing`, which changes no number
    compiled: bool = False  # the layers
    compiled_attention: bool = False  # by FlexAttention, alone or within the layers

    @property
    def compiled_parts(self) -> str | None:
        """What the first step compiles; none: nothing."""
        return "the layers" if self.compiled else "attention" if self.compiled_attention else None


class Limits(NamedTuple):
    """What a device can do, or the weakest of all devices of a run."""

    precision: str  # the best
    memory: int | None  # bytes; none: no GPU


def limits_of(device: torch.device) -> Limits:
    """What a device can do."""
    return Limits(best_precision(device), gpu_memory(device))


def weakest(limits: Sequence[Limits]) -> Limits:
    """What each of several devices can do."""
    memories = [one.memory for one in limits if one.memory is not None]
    precision = "bf16" if all(one.precision == "bf16" for one in limits) else "fp32"
    return Limits(precision, min(memories, default=None))


def choose_engine(config: RunConfig, world: World, model: ModelConfig, limits: Limits | None = None) -> EngineChoice:
    """The engine that the settings say; `auto`: one that another setting asks for, else what `choose_by_memory` says.

    All processes must choose the same, and so by the same limits: see `agreed_engine`.

    Args:
        config: the settings.
        world: the processes of the run.
        model: the model's sizes.
        limits: of the devices; none: those of this process's.

    Raises:
        ConfigError: the engine contradicts the number of processes, the optimizer or another setting.
        MissingExtraError: what the engine needs is not installed.
    """
    best, memory = limits or limits_of(world.device)
    named = _named_engine(config)
    if named is None:
        precision = chosen_precision(config.train, best)
        name, note, checkpointing = choose_by_memory(config, model, world.size, precision, memory)
    else:
        name, note, checkpointing = named, None, None
    engine = ENGINES.load(name)
    _check_suits(engine, config, world)
    setup = engine.prepare(config, model, world, best)
    if named is not None:
        note = warn_by_memory(config, model, world.size, setup.precision, setup.layout, memory)
    compiled = engine.layouts()[setup.layout].compiles and compiles(config.train, model, world.device)
    flex = takes_flex(model.attention, world.device, setup.precision)
    return EngineChoice(engine, setup, note, checkpointing, compiled, flex)


def _named_engine(config: RunConfig) -> str | None:
    """The engine of `train.engine`, or that another setting asks for; none: `auto` has the choice."""
    options = {name: engine.requested_by(config) for name, engine in ENGINES.load_all().items()}
    asked = {name: option for name, option in options.items() if option is not None}
    name = next(iter(asked), None) if config.train.engine == "auto" else config.train.engine
    for other, option in asked.items():
        if other != name:
            raise ConfigError(f"train.engine is {name}, but {option} is given: omit one of them")
    return name


def _check_suits(engine: type[Engine], config: RunConfig, world: World) -> None:
    name, optimizer = engine.name, config.train.optimizer
    if engine.one_process and world.size > 1:
        raise ConfigError(f"{world.size} processes were started, but train.engine is {name}: omit it")
    if optimizer not in engine.optimizers:
        able = ", ".join(other for other, its in ENGINES.load_all().items() if optimizer in its.optimizers)
        shards = any(layout.shards for layout in engine.layouts().values())
        why = ", which shards the optimizer's state" if shards else ""
        raise ConfigError(
            f"train.optimizer is {optimizer}, but the engine is {name}{why}: that optimizer goes with {able}, "
            f"and {name} with {', '.join(engine.optimizers)}"
        )
    if config.data.global_batch % world.size:
        raise ConfigError(
            f"data.global_batch={config.data.global_batch} micro-batches cannot be divided evenly over {world.size} "
            f"processes: make it a multiple of {world.size}"
        )


def agreed_engine(choice: EngineChoice, config: RunConfig, world: World, model: ModelConfig) -> EngineChoice:
    """The engine that suits the weakest device of the run: machines may have different ones. Every process must ask.

    Args:
        choice: what this process has chosen by itself.
        config: the settings.
        world: the processes of the run, which have met.
        model: the model's sizes.
    """
    mine = limits_of(world.device)
    limits = weakest(world.gather(mine))
    return choice if limits == mine else choose_engine(config, world, model, limits)


def start_engine(choice: EngineChoice, objective: Objective, settings: TrainSettings, device: torch.device) -> Engine:
    """Make the engine; the process group must be there if it needs one.

    Raises:
        ConfigError: what the engine is made with, e.g. DeepSpeed's file, is refused.
        MissingExtraError: the optimizer's extra is not installed.
    """
    checkpointing = choice.checkpointing or settings.activation_checkpointing
    prepare_layers(objective.model, compiled=choice.compiled, checkpointing=checkpointing)
    return choice.engine(objective, settings, device, choice.setup)
