"""What a plan of memory decides: which engine `auto` is on GPUs, and what to say of a run that will not fit."""

import re
from pathlib import Path
from typing import NamedTuple

import torch

from lexalcm.config import RunConfig
from lexalcm.errors import ConfigError
from lexalcm.model.config import ModelConfig
from lexalcm.model.folder import read_config
from lexalcm.model.locate import find_model
from lexalcm.model.presets import PRESETS, PUBLISHED_DIM, preset
from lexalcm.train.memory_plan import MemoryEstimate, MemoryPlan, gpu_memory, plan_memory

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class MemoryChoice(NamedTuple):
    """An engine, and what to tell the user of it; none where nothing is worth saying."""

    engine: str
    note: str | None = None


def choose_by_memory(config: RunConfig, model: ModelConfig, processes: int, precision: str) -> MemoryChoice:
    """The engine that `auto` means, without a DeepSpeed file: the one with the fewest tricks that fits.

    One process: `single`. Several: `ddp`, or `fsdp` where the whole model does not fit on each GPU. Without a GPU
    nothing is planned.

    Args:
        config: the settings.
        model: the model's sizes.
        processes: of the run.
        precision: `fp32` or `bf16`.
    """
    engine = "single" if processes == 1 else "ddp"
    memory = gpu_memory()
    if memory is None:
        return MemoryChoice(engine)
    estimate = _estimate(engine, config, model, processes, precision, memory)
    if estimate.fits:
        return MemoryChoice(engine)
    if processes > 1 and config.train.optimizer == "adamw" and config.train.engine == "auto":
        sharded = _estimate("fsdp", config, model, processes, precision, memory)
        why = f"ddp would take {gib(estimate.total)} on each GPU of {gib(memory)}"
        if sharded.fits:
            return MemoryChoice("fsdp", f"engine fsdp, which takes about {gib(sharded.total)}: {why}")
        return MemoryChoice("fsdp", f"engine fsdp: {why}. {_warning(sharded, memory)}")
    return MemoryChoice(engine, _warning(estimate, memory))


def warn_by_memory(config: RunConfig, model: ModelConfig, processes: int, precision: str, engine: str) -> str | None:
    """What to tell the user of an engine that was asked for and will not fit on this machine's GPU, by the plan.

    Args:
        config: the settings.
        model: the model's sizes.
        processes: of the run.
        precision: `fp32` or `bf16`.
        engine: a name of `memory_layout.LAYOUTS`.
    """
    memory = gpu_memory()
    if memory is None:
        return None
    if engine == "fsdp" and config.train.fsdp.offload:
        engine = "fsdp_offload"
    estimate = _estimate(engine, config, model, processes, precision, memory)
    return None if estimate.fits else _warning(estimate, memory)


def plan_run(config: RunConfig, gpus: int | None = None, memory: str | None = None) -> MemoryPlan:
    """The plan of a run on GPUs, which need not be here.

    Args:
        config: the settings; `model` may be the name of a preset instead of a folder.
        gpus: how many, one process each; none: those of this machine, or one.
        memory: of each, e.g. `12GB`; none: that of this machine's, if there is one.

    Raises:
        ConfigError: `memory` is no size; sizes of the model that contradict each other.
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
    if model in PRESETS and not Path(model).exists():
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


def _estimate(
    engine: str, config: RunConfig, model: ModelConfig, processes: int, precision: str, memory: int
) -> MemoryEstimate:
    choice = config.train.activation_checkpointing
    plan = plan_memory(
        config,
        model,
        processes=processes,
        precision=precision,
        memory=memory,
        engines=(engine,),
        checkpointing=(choice,),
    )
    return plan.estimates[0]


def _warning(estimate: MemoryEstimate, memory: int) -> str:
    rows = estimate.largest_micro_batch
    advice = (
        "shard or offload, see lcm train --plan"
        if rows is None
        else f"data.micro_batch={rows} would fit (lcm train --plan)"
    )
    return f"this run takes about {gib(estimate.total)} of a GPU's {gib(memory)} and may not fit: {advice}"
