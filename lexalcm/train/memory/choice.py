"""What a memory plan decides: which engine `auto` is on GPUs, and what to note of a run that will not fit."""

import re
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from lexalcm.errors import ConfigError
from lexalcm.model.config import ModelConfig
from lexalcm.model.presets import PUBLISHED_DIM, preset, preset_names
from lexalcm.model.storage.folder import read_config
from lexalcm.model.storage.locate import find_model
from lexalcm.train.memory.plan import MemoryEstimate, MemoryPlan, gpu_memory, layouts, plan_memory
from lexalcm.train.settings import RunConfig

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class MemoryChoice(NamedTuple):
    """An engine, and what to tell the user of it; none where nothing is worth saying."""

    engine: str
    note: str | None = None
    checkpointing: str | None = None  # what `train.activation_checkpointing` is to be; none: as it is


def choose_by_memory(
    config: RunConfig, model: ModelConfig, processes: int, precision: str, memory: int | None
) -> MemoryChoice:
    """The engine that `auto` means, without a DeepSpeed file: the simplest that fits.

    One process: `single`. Several: `ddp`, or `fsdp` where the whole model does not fit on each GPU. Where that does not
    fit either, with all layers recomputed; none of it changes the curve. Without a GPU nothing is planned. Engines of
    other packages take their places among these by their layouts.

    Args:
        config: the settings.
        model: the model's sizes.
        processes: of the run.
        precision: `fp32` or `bf16`.
        memory: bytes of the smallest GPU of the run; none: there is no GPU.
    """
    settings = config.train
    engines = {
        layout: engine
        for layout, (engine, _) in layouts().items()
        if layout == engine.auto_layout(settings)
        and engine.one_process == (processes == 1)
        and settings.optimizer in engine.optimizers
    }
    simplest = next(iter(engines))
    if memory is None:
        return MemoryChoice(engines[simplest].name)
    planned = partial(plan_memory, config, model, processes=processes, precision=precision, memory=memory)
    asked = settings.activation_checkpointing
    (first,) = planned(engines=(simplest,), checkpointing=(asked,)).estimates
    if first.fits:
        return MemoryChoice(engines[simplest].name)
    plan = planned(engines=tuple(engines), checkpointing=tuple(dict.fromkeys((asked, "full"))))
    chosen = plan.best or min(plan.estimates, key=lambda estimate: estimate.total)
    engine = engines[chosen.engine].name
    changes = [f"engine {engine}"] if chosen.engine != simplest else []
    if chosen.checkpointing != asked:
        changes.append(f"train.activation_checkpointing={chosen.checkpointing}")
    warning = _warning(chosen, memory, config, model, processes, precision) if plan.best is None else ""
    if not changes:
        return MemoryChoice(engine, warning)
    why = f"{simplest} would take {gib(first.total)} of a GPU's {gib(memory)}"
    takes = f"; {warning}" if warning else f", which takes about {gib(chosen.total)}"
    recomputed = None if chosen.checkpointing == asked else chosen.checkpointing
    return MemoryChoice(engine, f"{why}, so this run has {' and '.join(changes)}{takes}", recomputed)


def warn_by_memory(
    config: RunConfig, model: ModelConfig, processes: int, precision: str, engine: str, memory: int | None
) -> str | None:
    """What to tell the user of an engine that was asked for and will not fit on the run's GPUs, by the memory plan.

    Args:
        config: the settings.
        model: the model's sizes.
        processes: of the run.
        precision: `fp32` or `bf16`.
        engine: a name of `memory.plan.layouts()`.
        memory: bytes of the smallest GPU of the run; none: there is no GPU.
    """
    if memory is None:
        return None
    asked = config.train.activation_checkpointing
    estimate = _estimate(config, model, processes, precision, engine, asked, memory)
    return None if estimate.fits else _warning(estimate, memory, config, model, processes, precision)


def planned_bytes(
    config: RunConfig, model: ModelConfig, processes: int, precision: str, layout: str, checkpointing: str
) -> int:
    """What a run takes on each GPU by the plan; arguments as for `warn_by_memory`, and the recomputing that is done."""
    return _estimate(config, model, processes, precision, layout, checkpointing, memory=None).total


def _estimate(
    config: RunConfig,
    model: ModelConfig,
    processes: int,
    precision: str,
    layout: str,
    checkpointing: str,
    memory: int | None,
) -> MemoryEstimate:
    (estimate,) = plan_memory(
        config,
        model,
        processes=processes,
        precision=precision,
        memory=memory,
        engines=(layout,),
        checkpointing=(checkpointing,),
    ).estimates
    return estimate


def plan_run_memory(config: RunConfig, gpus: int | None = None, memory: str | None = None) -> MemoryPlan:
    """The plan of a run on GPUs, which need not be here.

    Args:
        config: the settings; `model` may be the name of a preset instead of a folder.
        gpus: how many, one process each; none: those of this machine, or one.
        memory: of each, e.g. `12GB`; none: that of this machine's, if there is one.

    Raises:
        ConfigError: `memory` is not a valid size; sizes of the model that contradict each other.
        UserError: no such model.
    """
    limit = gpu_memory() if memory is None else read_size(memory)
    precision = "bf16" if config.train.precision == "auto" else config.train.precision
    processes = gpus or max(1, torch.cuda.device_count())
    return plan_memory(config, model_config(config.model), processes=processes, precision=precision, memory=limit)


def model_config(model: str) -> ModelConfig:
    """The config of a model folder, or of a preset for concepts of the published dimension.

    Raises:
        UserError: neither.
    """
    if not Path(model).exists() and model in preset_names():
        return preset(model, PUBLISHED_DIM)
    return read_config(find_model(model))


def read_size(text: str) -> int:
    """Bytes from `12GB`, `80G` or `24576MiB`; as on a GPU's box, a GB is 2^30 bytes.

    Raises:
        ConfigError: no number with a unit.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if match is None or float(match[1]) == 0:
        raise ConfigError(f"--gpu-memory {text}: write it like 12GB")
    return int(float(match[1]) * UNITS[match[2].upper()])


def gib(size: int) -> str:
    """Bytes in words."""
    return f"{size / 2**30:.1f} GiB"


def options_of(estimate: MemoryEstimate, checkpointing: str = "none") -> str:
    """What to say to `lcm train` for a configuration of a plan.

    Args:
        estimate: the configuration.
        checkpointing: what `train.activation_checkpointing` is anyway.
    """
    options = layouts()[estimate.engine][1].options
    if estimate.checkpointing != checkpointing:
        options += f" --set train.activation_checkpointing={estimate.checkpointing}"
    return options


def _warning(
    estimate: MemoryEstimate, memory: int, config: RunConfig, model: ModelConfig, processes: int, precision: str
) -> str:
    """That a configuration may not fit, and what would: fewer rows, or else sharding or offloading."""
    takes = f"this run takes about {gib(estimate.total)} of a GPU's {gib(memory)} and may not fit"
    if estimate.largest_micro_batch is not None:
        return f"{takes}: data.micro_batch={estimate.largest_micro_batch} would fit (lcm train --plan)"
    fits = plan_memory(config, model, processes=processes, precision=precision, memory=memory).best
    if fits is None:
        return f"{takes}, nor does anything else at this data.micro_batch: see lcm train --plan"
    beside = f", with {gib(fits.cpu)} of the CPU's memory for each GPU" if fits.cpu else ""
    return f"{takes}: {options_of(fits, config.train.activation_checkpointing)} would{beside} (lcm train --plan)"
