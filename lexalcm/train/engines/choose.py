"""Which engine a run gets, and its start."""

from dataclasses import dataclass

import torch
from torch import nn

from lexalcm.config import RunConfig, TrainSettings
from lexalcm.errors import ConfigError
from lexalcm.train.engines.deepspeed import DeepSpeedEngine, import_deepspeed
from lexalcm.train.engines.deepspeed_config import DeepSpeedConfig, fill, read_deepspeed_json
from lexalcm.train.engines.precision import best_precision
from lexalcm.train.engines.protocol import Engine
from lexalcm.train.engines.single import SingleEngine
from lexalcm.train.world import World


@dataclass(frozen=True)
class EngineChoice:
    """An engine that has been found possible, not started yet."""

    name: str
    precision: str  # "fp32" or "bf16"
    deepspeed: DeepSpeedConfig | None = None

    @property
    def needs_process_group(self) -> bool:
        """Whether it wants one even for a single process."""
        return self.name != "single"


def choose_engine(config: RunConfig, world: World, width: int) -> EngineChoice:
    """The engine that the settings say; `auto` is deepspeed for a DeepSpeed file or several processes, else single.

    Args:
        config: the settings.
        world: the processes of the run.
        width: the model's width.

    Raises:
        ConfigError: the choice contradicts the number of processes, or the DeepSpeed file the settings.
        MissingExtraError: DeepSpeed is not installed.
    """
    name: str = config.train.engine
    if name == "auto":
        name = "deepspeed" if config.deepspeed or world.size > 1 else "single"
    if name == "single" and config.deepspeed:
        raise ConfigError(f"train.engine is single, but --deepspeed {config.deepspeed} is given: leave out one of them")
    if name == "single" and world.size > 1:
        raise ConfigError(f"{world.size} processes were started, but train.engine is single: leave it out")
    if config.data.global_batch % world.size:
        raise ConfigError(
            f"data.global_batch={config.data.global_batch} micro-batches cannot be shared out evenly to {world.size} "
            f"processes: make it a multiple of {world.size}"
        )
    best = best_precision(world.device)
    if name == "single":
        return EngineChoice(name, best if config.train.precision == "auto" else config.train.precision)
    tree = read_deepspeed_json(config.deepspeed)
    filled = fill(tree, config, world_size=world.size, width=width, best=best)
    import_deepspeed(world.device)
    return EngineChoice(name, filled.precision, filled)


def start_engine(choice: EngineChoice, model: nn.Module, settings: TrainSettings, device: torch.device) -> Engine:
    """Make the engine; the process group must be there if it needs one.

    Raises:
        ConfigError: DeepSpeed refuses its file.
    """
    if choice.deepspeed is None:
        return SingleEngine(model, settings, device, choice.precision)
    return DeepSpeedEngine(model, settings, device, choice.deepspeed)
