"""Which engine a run gets, and its start."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from lexalcm.errors import ConfigError
from lexalcm.model.config import ModelConfig
from lexalcm.model.masks import takes_flex
from lexalcm.objective import Objective
from lexalcm.train.engines.ddp import DDPEngine
from lexalcm.train.engines.deepspeed import DeepSpeedEngine, import_deepspeed
from lexalcm.train.engines.deepspeed_config import DeepSpeedConfig, fill, read_deepspeed_json
from lexalcm.train.engines.fsdp import FSDPEngine
from lexalcm.train.engines.precision import best_precision
from lexalcm.train.engines.protocol import Engine
from lexalcm.train.engines.single import SingleEngine
from lexalcm.train.layers import compiles, prepare_layers
from lexalcm.train.memory_choice import choose_by_memory, warn_by_memory
from lexalcm.train.memory_layout import LAYOUTS
from lexalcm.train.memory_plan import gpu_memory
from lexalcm.train.settings import RunConfig, TrainSettings
from lexalcm.train.world import World


@dataclass(frozen=True)
class EngineChoice:
    """An engine that has been found possible, not started yet."""

    name: str
    precision: str  # "fp32" or "bf16"
    deepspeed: DeepSpeedConfig | None = None
    note: str | None = None  # why, or that it may not fit into a GPU's memory
    checkpointing: str | None = None  # in place of `train.activation_checkpointing`, which changes no number
    compiled: bool = False  # the layers
    compiled_attention: bool = False  # by FlexAttention, alone or within the layers

    def layout(self, settings: TrainSettings) -> str:
        """What it is called in a plan of memory."""
        if self.deepspeed is not None:
            return self.deepspeed.layout
        return "fsdp_offload" if self.name == "fsdp" and settings.fsdp.offload else self.name

    @property
    def compiled_parts(self) -> str | None:
        """What the first step compiles; none: nothing."""
        return "the layers" if self.compiled else "attention" if self.compiled_attention else None

    @property
    def needs_process_group(self) -> bool:
        """Whether it wants one even for a single process."""
        return self.name != "single"


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


OPTIMIZERS = {
    "single": {"adamw", "adafactor", "adamw8bit", "muon"},
    "ddp": {"adamw", "adafactor", "adamw8bit", "muon"},
    "fsdp": {"adamw"},
    "deepspeed": {"adamw"},
}
"""What each engine trains with: over shards, those whose update of a number needs no other number of its matrix."""

PLAIN_ENGINES = {"single": SingleEngine, "ddp": DDPEngine, "fsdp": FSDPEngine}


def choose_engine(config: RunConfig, world: World, model: ModelConfig, limits: Limits | None = None) -> EngineChoice:
    """The engine that the settings say; `auto`: deepspeed for a DeepSpeed file, else what `choose_by_memory` says.

    All processes must choose the same, and so by the same limits: see `agreed_engine`.

    Args:
        config: the settings.
        world: the processes of the run.
        model: the model's sizes.
        limits: of the devices; none: those of this process's.

    Raises:
        ConfigError: the choice contradicts the number of processes, the DeepSpeed file the settings, or the engine the
            optimizer.
        MissingExtraError: DeepSpeed is not installed.
    """
    name: str = config.train.engine
    best, memory = limits or limits_of(world.device)
    precision = best if config.train.precision == "auto" else config.train.precision
    note = checkpointing = None
    if name == "auto" and config.deepspeed:
        name = "deepspeed"
    elif name == "auto":
        name, note, checkpointing = choose_by_memory(config, model, world.size, precision, memory)
    elif name != "deepspeed":
        note = warn_by_memory(config, model, world.size, precision, name, memory)
    if name != "deepspeed" and config.deepspeed:
        raise ConfigError(f"train.engine is {name}, but --deepspeed {config.deepspeed} is given: leave out one of them")
    if name == "single" and world.size > 1:
        raise ConfigError(f"{world.size} processes were started, but train.engine is single: leave it out")
    if config.train.optimizer not in OPTIMIZERS[name]:
        able = ", ".join(engine for engine, optimizers in OPTIMIZERS.items() if config.train.optimizer in optimizers)
        raise ConfigError(
            f"train.optimizer is {config.train.optimizer}, but the engine is {name}, which shards the optimizer's "
            f"state: that optimizer goes with {able}, and {name} with adamw"
        )
    if config.data.global_batch % world.size:
        raise ConfigError(
            f"data.global_batch={config.data.global_batch} micro-batches cannot be shared out evenly to {world.size} "
            f"processes: make it a multiple of {world.size}"
        )
    if name != "deepspeed":
        compiled = compiles(config.train, model, world.device)
        flex = takes_flex(model.attention, world.device, precision)
        return EngineChoice(name, precision, None, note, checkpointing, compiled, flex)
    tree = read_deepspeed_json(config.deepspeed)
    filled = fill(tree, config, world_size=world.size, width=model.width, best=best)
    if filled.stage == 3 and config.train.compile is True:
        raise ConfigError(
            f"train.compile goes with the other engines and ZeRO stages, but {filled.file} asks for stage 3, which "
            "gathers weights inside the layers: leave one of them out, or take --engine fsdp"
        )
    import_deepspeed(world.device)
    note = warn_by_memory(config, model, world.size, filled.precision, filled.layout, memory)
    compiled = LAYOUTS[filled.layout].compiles and compiles(config.train, model, world.device)
    flex = takes_flex(model.attention, world.device, filled.precision)
    return EngineChoice(name, filled.precision, filled, note, compiled=compiled, compiled_attention=flex)


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
        ConfigError: DeepSpeed refuses its file.
        MissingExtraError: the optimizer's extra is not installed.
    """
    checkpointing = choice.checkpointing or settings.activation_checkpointing
    prepare_layers(objective.model, compiled=choice.compiled, checkpointing=checkpointing)
    if choice.deepspeed is None:
        return PLAIN_ENGINES[choice.name](objective, settings, device, choice.precision)
    return DeepSpeedEngine(objective, settings, device, choice.deepspeed)
