"""A DeepSpeed JSON file made to agree with our settings, the way Hugging Face users know it.

Our settings decide. Where the file says `"auto"` or nothing, it is filled from them; where it says something else
than they do, that is an error that names both, because one of the two would otherwise be ignored in silence.
The sections `optimizer`, `scheduler` and `activation_checkpointing` are checked in the same way and then left out: the
optimizer is torch's AdamW, which needs no compiler, the schedule and what is recomputed are the trainer's own.

DeepSpeed passes over keys that it does not know, and fails somewhere on values of other types: both are errors here.
"""

import importlib.util
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lexalcm.errors import ConfigError, nearest
from lexalcm.json_text import JSONError, parse_json
from lexalcm.train.engines.protocol import Setup
from lexalcm.train.memory.layout import OffloadsTo
from lexalcm.train.settings import RunConfig

AUTO = "auto"
KNOWN_TO_DEEPSPEED = {"data_types.keep_in_fp32_modules"}  # where "auto" means something to DeepSpeed itself
SCHEDULERS = {"WarmupLR": "constant", "WarmupDecayLR": "linear", "WarmupCosineLR": "cosine"}
ZERO_STAGES = (0, 1, 2, 3)
OFFLOAD_DEVICES = ("none", "cpu", "nvme")
SMALLEST_BUCKET = 2**20
"""Numbers sent together; in a small model width squared would be less than one parameter at a time."""

_SECTIONS = """
    activation_checkpointing aio amp autotuning bf16 bfloat16 checkpoint comet comms_logger compile
    compression_training csv_monitor curriculum_learning data_efficiency data_types datastates_ckpt eigenvalue
    elasticity expert_parallel flops_profiler fp16 hybrid_engine nebula optimizer pipeline progressive_layer_drop
    quantize_training scheduler sparse_attention tensor_parallel tensorboard timers torch_autocast wandb
    weight_quantization zero_optimization
"""
_SWITCHES = """
    dataloader_drop_last disable_allgather disable_python_gc dump_state graph_harvesting managed_gradient_accumulation
    memory_breakdown prescale_gradients sparse_gradients use_data_before_expert_parallelism wall_clock_breakdown
    zero_allow_untested_optimizer zero_force_ds_cpu_optimizer
"""
_NUMBERS = """
    gradient_accumulation_steps gradient_clipping gradient_predivide_factor sequence_parallel_size steps_per_print
    train_batch_size train_micro_batch_size_per_gpu vocabulary_size
"""
_TEXTS = "communication_data_type gradient_allreduce_op log_level seq_parallel_communication_data_type"
_OBJECT, _SWITCH, _NUMBER, _TEXT = "an object", "true or false", "a number above 0", "text"
KEYS = {
    key: kind
    for names, kind in ((_SECTIONS, _OBJECT), (_SWITCHES, _SWITCH), (_NUMBERS, _NUMBER), (_TEXTS, _TEXT))
    for key in names.split()
}
"""What DeepSpeed knows, also by an earlier name, or says itself that it no longer knows; and what it holds."""

MONITORS = {"wandb": "wandb", "comet": "comet_ml"}
"""Sections that need a package of their own."""


def layout_name(stage: int, offloads_to: OffloadsTo) -> str:
    """What a stage is called in a plan of memory, and in `configs/`: `zero2`, `zero2_offload`, `zero3_nvme`, ..."""
    return f"zero{stage}" + {"": "", "cpu": "_offload", "nvme": "_nvme"}[offloads_to]


@dataclass(frozen=True)
class DeepSpeedSetup(Setup):
    """What DeepSpeed is started with."""

    tree: dict[str, Any]  # the JSON, with every value filled in
    file: str  # where it came from, for messages

    @property
    def stage(self) -> int:
        """The ZeRO stage: 0 shards nothing, 1 the optimizer, 2 also gradients, 3 also parameters."""
        return self.tree["zero_optimization"]["stage"]


def read_deepspeed_json(file: str | Path | None) -> dict[str, Any]:
    """Read a DeepSpeed JSON file; no file is ZeRO stage 0 with everything from our settings.

    As for DeepSpeed there may be comments, and no key may come twice. Keys that begin with `_`, or are called
    `comment`, are left out, as are those that are null.

    Raises:
        ConfigError: no such file, not a JSON object, an unknown key, or a value of another type.
    """
    if file is None:
        return {}
    try:
        tree = parse_json(Path(file).read_bytes(), unique_keys=True, comments=True)
    except FileNotFoundError as error:
        raise ConfigError(f"no such DeepSpeed file: {file}") from error
    except OSError as error:
        raise ConfigError(f"cannot read the DeepSpeed file {file}: {error.strerror}") from error
    except JSONError as error:
        raise ConfigError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{file} must hold one JSON object, as DeepSpeed's documentation shows")
    tree = {
        key: value
        for key, value in tree.items()
        if value is not None and not key.startswith("_") and key not in ("comment", "comments")
    }
    for key, value in tree.items():
        if key not in KEYS:
            raise ConfigError(f"{file}: DeepSpeed does not know {key}{nearest(key, KEYS)}")
        if not _is(KEYS[key], value) and (value != AUTO or KEYS[key] is _OBJECT):
            raise ConfigError(f"{file} has {key} = {json.dumps(value)}: {key} must be {KEYS[key]}")
    for name, package in MONITORS.items():
        if tree.get(name, {}).get("enabled") and importlib.util.find_spec(package) is None:
            raise ConfigError(f"{file} has {name}.enabled, and {package} is not installed: pip install {package}")
    return tree


def _is(kind: str, value: Any) -> bool:
    if kind == _NUMBER:
        return isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    return isinstance(value, {_OBJECT: dict, _SWITCH: bool, _TEXT: str}[kind])


def fill(tree: dict[str, Any], config: RunConfig, *, world_size: int, width: int, best: str) -> DeepSpeedSetup:
    """Fill a DeepSpeed JSON from the settings.

    Args:
        tree: the JSON as read; it is left as it is.
        config: the settings.
        world_size: processes of the run.
        width: the model's width, which sizes ZeRO's buckets.
        best: the precision that `auto` means on this device.

    Raises:
        ConfigError: the JSON says something else than the settings, asks for what is not there, or is malformed.
    """
    file = config.deepspeed or "the DeepSpeed settings"
    filled = _Filling(json.loads(json.dumps(tree)), file)
    data, train = config.data, config.train
    steps_together = data.global_batch // world_size
    filled.agree("train_micro_batch_size_per_gpu", data.micro_batch, "data.micro_batch")
    filled.agree("gradient_accumulation_steps", steps_together, "data.global_batch / processes")
    filled.agree("train_batch_size", data.micro_batch * data.global_batch, "data.micro_batch x data.global_batch")
    filled.agree("gradient_clipping", train.clip_norm, "train.clip_norm")
    _check_optimizer(filled, config)
    _check_scheduler(filled, config)
    _check_activation_checkpointing(filled, config)
    precision = _fill_precision(filled, config, best)
    _fill_zero(filled, config, width)
    for name in filled.open_names():
        raise ConfigError(f'{file}: no setting gives the value of "auto" for {name}: write a value')
    return DeepSpeedSetup(precision, _layout(filled.tree["zero_optimization"]), filled.tree, str(file))


def _layout(zero: dict[str, Any]) -> str:
    devices = {(zero.get(part) or {}).get("device") for part in ("offload_optimizer", "offload_param")}
    return layout_name(zero["stage"], "nvme" if "nvme" in devices else "cpu" if "cpu" in devices else "")


class _Filling:
    """A JSON tree, read and written by dotted names."""

    def __init__(self, tree: dict[str, Any], file: str) -> None:
        self.tree = tree
        self.file = file

    def get(self, name: str, default: Any = None) -> Any:
        node: Any = self.tree
        for part in name.split("."):
            if node is None:
                return default
            if not isinstance(node, dict):
                raise ConfigError(f"{self.file}: {name.rpartition('.')[0]} must be an object with {part} in it")
            if part not in node:
                return default
            node = node[part]
        return node

    def set(self, name: str, value: Any) -> None:
        *parents, last = name.split(".")
        node = self.tree
        for part in parents:
            if node.get(part) is None:
                node[part] = {}
            node = node[part]
        node[last] = value

    def agree(self, name: str, value: Any, setting: str) -> None:
        """Fill one value, or make sure that it is what the setting says."""
        given = self.get(name, AUTO)
        if given != AUTO and not _same(given, value):
            raise ConfigError(
                f"{self.file} has {name} = {json.dumps(given)}, but {setting} is {json.dumps(value)}: "
                f'make them equal, or write "auto" in the file'
            )
        self.set(name, value)

    def agree_if_given(self, name: str, value: Any, setting: str) -> None:
        """Make sure that a value, where there is one, is what the setting says."""
        if self.get(name) is not None:
            self.agree(name, value, setting)

    def open_names(self) -> Iterator[str]:
        """Names that still hold "auto"."""

        def walk(node: Any, path: tuple[str, ...]) -> Iterator[str]:
            if isinstance(node, dict):
                for key, value in node.items():
                    yield from walk(value, (*path, key))
            elif node == AUTO:
                yield ".".join(path)

        return (name for name in walk(self.tree, ()) if name not in KNOWN_TO_DEEPSPEED)


def _same(given: Any, value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return isinstance(given, list) and len(given) == len(value) and all(map(_same, given, value))
    if isinstance(value, (int, float)):
        return isinstance(given, (int, float)) and math.isclose(given, value, rel_tol=1e-9)
    return bool(given == value)


def _check_optimizer(filled: _Filling, config: RunConfig) -> None:
    if filled.get("optimizer") is None:
        return
    kind = filled.get("optimizer.type", AUTO)
    if kind not in (AUTO, "AdamW", "Adam"):  # DeepSpeed's "Adam" is AdamW too, unless adam_w_mode is false
        raise ConfigError(f"{filled.file} has optimizer.type = {kind!r}, but this trainer has AdamW: omit it")
    filled.agree_if_given("optimizer.params.adam_w_mode", True, "the trainer's decoupled weight decay")
    for name in ("lr", "betas", "eps", "weight_decay"):
        filled.agree_if_given(f"optimizer.params.{name}", getattr(config.train, name), f"train.{name}")
    del filled.tree["optimizer"]


def _check_scheduler(filled: _Filling, config: RunConfig) -> None:
    if filled.get("scheduler") is None:
        return
    train = config.train
    kind = filled.get("scheduler.type", AUTO)
    if kind != AUTO and SCHEDULERS.get(str(kind)) != train.schedule:
        raise ConfigError(
            f"{filled.file} has scheduler.type = {kind!r}, but train.schedule is {train.schedule!r}: "
            "omit the section, or set train.schedule"
        )
    if kind == "WarmupDecayLR" and train.min_lr_ratio > 0:
        raise ConfigError(
            f"{filled.file} has scheduler.type = {kind!r}, which ends at a learning rate of 0, but train.min_lr_ratio "
            f"is {train.min_lr_ratio}: set that to 0, or omit the section"
        )
    for name, value, setting in (
        ("warmup_max_lr", train.lr, "train.lr"),
        ("warmup_min_lr", 0, "the warm-up's start"),
        ("warmup_num_steps", train.warmup_steps, "train.warmup_steps"),
        ("warmup_type", "linear", "the warm-up's shape"),
        ("total_num_steps", train.steps, "train.steps"),
        ("cos_min_ratio", train.min_lr_ratio, "train.min_lr_ratio"),
    ):
        filled.agree_if_given(f"scheduler.params.{name}", value, setting)
    del filled.tree["scheduler"]


def _check_activation_checkpointing(filled: _Filling, config: RunConfig) -> None:
    """DeepSpeed's section is for models that call its own function for it, which ours does not."""
    section = filled.get("activation_checkpointing")
    if section is not None and not isinstance(section, dict):
        raise ConfigError(f"{filled.file}: activation_checkpointing must be an object")
    for name, value in (section or {}).items():
        if value:
            raise ConfigError(
                f"{filled.file} has activation_checkpointing.{name} = {json.dumps(value)}, but layers are recomputed "
                f"as train.activation_checkpointing says, {config.train.activation_checkpointing!r}: omit it"
            )
    filled.tree.pop("activation_checkpointing", None)


def _fill_precision(filled: _Filling, config: RunConfig, best: str) -> str:
    if filled.get("fp16.enabled", False) not in (False, AUTO):
        raise ConfigError(f"{filled.file} has fp16.enabled = true, but training here is fp32 or bf16: use bf16")
    filled.tree.pop("fp16", None)
    given = filled.get("bf16.enabled", AUTO)
    precision: str = config.train.precision
    if precision == "auto":
        precision = best if given == AUTO else ("bf16" if given else "fp32")
    filled.agree("bf16.enabled", precision == "bf16", f"train.precision is {precision!r}, so bf16.enabled")
    if precision == "bf16":
        filled.set("bf16.check_grad_overflow", True)  # a step with a gradient that is not finite must be skipped
    return precision


def bucket_size(width: int) -> int:
    """Numbers that are sent together, where the file says "auto": as Hugging Face fills it, from the model's width."""
    return max(width * width, SMALLEST_BUCKET)


def swap_buffer_size(width: int) -> int:
    """Numbers in a buffer for weights on NVMe, where the file says "auto": enough for the largest, a modulator."""
    return max(12 * width * width, SMALLEST_BUCKET)


def _fill_zero(filled: _Filling, config: RunConfig, width: int) -> None:
    stage = filled.get("zero_optimization.stage", 0)
    if stage not in ZERO_STAGES or isinstance(stage, bool):
        raise ConfigError(f"{filled.file} has zero_optimization.stage = {json.dumps(stage)}: it is 0, 1, 2 or 3")
    filled.set("zero_optimization.stage", stage)
    bucket = bucket_size(width)
    # DeepSpeed reads ahead from NVMe as many weights as come next, and fails where one of them comes twice among those.
    prefetch = 0 if filled.get("zero_optimization.offload_param.device") == "nvme" else bucket * 9 // 10
    for name, value in (
        ("reduce_bucket_size", bucket),
        ("stage3_prefetch_bucket_size", prefetch),
        ("stage3_param_persistence_threshold", 10 * width),
        ("offload_param.buffer_size", swap_buffer_size(width)),
    ):
        if filled.get(f"zero_optimization.{name}") == AUTO:
            filled.set(f"zero_optimization.{name}", value)
    _fill_offload(filled, config, stage)
    # Offloaded or not, the optimizer is torch's AdamW, so that no kernel has to be compiled on the spot.
    filled.set("zero_force_ds_cpu_optimizer", False)


def _fill_offload(filled: _Filling, config: RunConfig, stage: int) -> None:
    """Check what is offloaded, and say where NVMe is: the setting `train.nvme_path`."""
    path, uses_nvme = config.train.nvme_path, False
    for part, lowest in (("offload_optimizer", 1), ("offload_param", 3)):
        name = f"zero_optimization.{part}"
        device = filled.get(f"{name}.device", "none")
        if device not in OFFLOAD_DEVICES:
            raise ConfigError(f"{filled.file} has {name}.device = {json.dumps(device)}: it is none, cpu or nvme")
        if device != "none" and stage < lowest:
            raise ConfigError(
                f"{filled.file} has {name}.device = {json.dumps(device)}, but zero_optimization.stage is {stage}: "
                f"offloading that takes stage {lowest} or higher"
            )
        if device != "nvme":
            if filled.get(f"{name}.nvme_path") == AUTO:
                del filled.tree["zero_optimization"][part]["nvme_path"]
            continue
        uses_nvme = True
        if part == "offload_optimizer" and config.train.ema.decay is not None:
            raise ConfigError(
                f'{filled.file} has {name}.device = "nvme", but train.ema.decay is {config.train.ema.decay}: the '
                "average needs the optimizer's weights in memory: omit one of them"
            )
        if path is not None:
            filled.agree(f"{name}.nvme_path", path, "train.nvme_path")
        elif filled.get(f"{name}.nvme_path", AUTO) == AUTO:
            raise ConfigError(
                f"{filled.file} offloads to NVMe: say in which folder of a fast local disk, "
                "with --set train.nvme_path=FOLDER"
            )
    if path is not None and not uses_nvme:
        raise ConfigError(
            f"train.nvme_path is {path}, but {filled.file} offloads nothing to NVMe: omit it, or use "
            "configs/zero3_nvme.json"
        )
    if config.train.fsdp.offload:
        raise ConfigError(
            f"train.fsdp.offload is for the engine fsdp, but {filled.file} is DeepSpeed's: omit it, or use "
            "configs/zero3_offload.json"
        )
