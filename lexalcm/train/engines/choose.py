"""Which engine a run gets, and its start."""

from typing import Any

from lexalcm.config import RunConfig
from lexalcm.errors import ConfigError
from lexalcm.model.lcm import LCM
from lexalcm.train.engines.deepspeed import DeepSpeedEngine, import_deepspeed
from lexalcm.train.engines.deepspeed_config import DeepSpeedConfig, fill, read_deepspeed_json
from lexalcm.train.engines.precision import best_precision
from lexalcm.train.engines.protocol import Engine
from lexalcm.train.engines.single import SingleEngine
from lexalcm.train.world import World


def choose_engine(config: RunConfig, world: World) -> str:
    """The engine's name: what the settings say, or deepspeed where a DeepSpeed file is given, or single.

    Raises:
        ConfigError: the choice contradicts the file or the number of processes.
        MissingExtraError: DeepSpeed is not installed.
    """
    name = config.train.engine
    if name == "auto":
        name = "deepspeed" if config.deepspeed else "single"
    if name == "single" and config.deepspeed:
        raise ConfigError(f"train.engine is single, but --deepspeed {config.deepspeed} is given: leave out one of them")
    if name == "single" and world.size > 1:
        raise ConfigError(f"{world.size} processes were started, but the engine single is one: add --deepspeed FILE")
    if config.data.global_batch % world.size:
        raise ConfigError(
            f"data.global_batch={config.data.global_batch} micro-batches cannot be shared out evenly to {world.size} "
            f"processes: make it a multiple of {world.size}"
        )
    if name == "deepspeed":
        import_deepspeed(world.device)
    return name


def read_engine_file(config: RunConfig, world: World, width: int) -> DeepSpeedConfig:
    """Read the DeepSpeed file and fill it from the settings; raises as `fill` does."""
    tree: dict[str, Any] = read_deepspeed_json(config.deepspeed)
    return fill(tree, config, world_size=world.size, width=width, best=best_precision(world.device))


def start_engine(name: str, model: LCM, config: RunConfig, world: World) -> Engine:
    """Make the engine; the process group must be there.

    Raises:
        ConfigError: the DeepSpeed file contradicts the settings, or DeepSpeed refuses it.
    """
    precision = config.train.precision
    if name == "single":
        return SingleEngine(
            model, config.train, world.device, best_precision(world.device) if precision == "auto" else precision
        )
    return DeepSpeedEngine(model, config.train, world.device, read_engine_file(config, world, model.config.width))
