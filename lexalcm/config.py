"""Typed settings: defaults here, a YAML file over them, `--set key=value` over both. Unknown keys are errors.

Every settings class of the project derives from `Settings`; `load_settings` is the one way from files and
command-line text to a checked object, and turns each mistake into one line that names the key.
"""

import types
import typing
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from typing_extensions import Self

from lexalcm.errors import ConfigError, nearest
from lexalcm.yaml_text import YAMLTextError, parse_yaml

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=0, lt=2**53)]  # of what is on a disk
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, lt=1)]
ActivationCheckpointing = Annotated[str, Field(pattern="^(none|full|every-[1-9][0-9]*)$")]


class Settings(BaseModel):
    """Base of all settings: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    def __hash__(self) -> int:  # pydantic's fails where a field is a list or a dict
        return hash(self.model_dump_json())

    def to_yaml(self) -> str:
        """The settings as YAML, in the order of their definition."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


SettingsT = TypeVar("SettingsT", bound=Settings)


def load_settings(
    settings: type[SettingsT],
    file: Path | str | None = None,
    overrides: Iterable[str | tuple[str, Any]] = (),
    base: Mapping[str, Any] | None = None,
    prefix: str = "",
) -> SettingsT:
    """Read settings: `base`, then the YAML `file`, then each `key=value` of `overrides`, later ones winning.

    Args:
        settings: the class to read.
        file: a YAML file with a mapping, or none.
        overrides: texts like `"train.lr=1e-4"`, whose value is read as YAML, or a key and its value, taken as it is.
        base: values under the file's, e.g. a preset's.
        prefix: a first part that every override must carry, e.g. `"model"` for `"model.num_layers=4"`.

    Raises:
        ConfigError: an unknown key (with the nearest known one), a wrong type, an unreadable file.
    """
    tree: dict[str, Any] = _copy(base or {})
    if file is not None:
        _merge(tree, _read_yaml(Path(file)))
    overridden: list[list[str]] = []
    for override in overrides:
        key, value = _read_override(override) if isinstance(override, str) else override
        path = key.strip().split(".")
        if prefix:
            if path[0] != prefix:
                raise ConfigError(f"--set {key}: only {prefix}.* can be set here{nearest(path[0], [prefix])}")
            path = path[1:]
        _assign(tree, path, value, key)
        overridden.append(path)
    return validate(settings, tree, prefix=prefix, source="" if file is None else str(file), overridden=overridden)


def validate(
    settings: type[SettingsT],
    tree: Mapping[str, Any],
    *,
    prefix: str = "",
    source: str = "",
    overridden: Iterable[list[str]] = (),
) -> SettingsT:
    """Check a mapping against a settings class.

    Args:
        settings: the class.
        tree: the mapping.
        prefix: a first part of all keys, for messages.
        source: the file that the mapping is from, for messages.
        overridden: keys that are not from there.

    Raises:
        ConfigError: one line that names the first wrong key and what it should be.
    """
    try:
        return settings.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        path = [str(part) for part in first["loc"]]
        name = ".".join([prefix, *path] if prefix else path)
        from_source = source and not any(key == path[: len(key)] for key in overridden)
        where = f" (in {source})" if from_source else ""
        if first["type"] == "extra_forbidden":
            known = _keys_at(settings, path[:-1])
            raise ConfigError(f"unknown setting {name}{where}{nearest(path[-1], known)}") from error
        if first["type"] == "model_type":
            inner = ", ".join(f"{name}.{key}" for key in _keys_at(settings, path))
            raise ConfigError(f"{name} is no value, it has settings of its own{where}: {inner}") from error
        message = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        got = "" if first["type"] in ("missing", "value_error") else f", got {first['input']!r}"
        head = f"{name}: " if name else ""
        raise ConfigError(f"{head}expected {message}{got}{where}" if got else f"{head}{message}{where}") from error


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        tree = parse_yaml(file.read_bytes())
    except FileNotFoundError as error:
        raise ConfigError(f"no such config file: {file}") from error
    except OSError as error:
        raise ConfigError(f"cannot read the config file {file}: {error.strerror}") from error
    except YAMLTextError as error:
        raise ConfigError(f"{file} is not valid YAML: {error}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{file} must hold settings as key: value lines")
    return tree


def _read_override(override: str) -> tuple[str, Any]:
    """The key of a text `key=value`, and what the value means."""
    key, separator, text = override.partition("=")
    if not separator:
        raise ConfigError(f"--set {override}: write it as key=value")
    try:
        value = parse_yaml(text)
    except YAMLTextError as error:
        raise ConfigError(f"--set {key}: the value is not valid YAML ({error})") from error
    if isinstance(value, str) and value == text.strip():  # YAML 1.1 reads 1e-4 as text; everyone else as a number
        with suppress(ValueError):
            value = float(value)
    return key, value


def _assign(tree: dict[str, Any], path: list[str], value: Any, key: str) -> None:
    node = tree
    for part in path[:-1]:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise ConfigError(f"--set {key}: {part} is a value, it has no parts")
    node[path[-1]] = value


def _merge(tree: dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, Mapping) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        else:
            tree[key] = _copy(value) if isinstance(value, Mapping) else value


def _copy(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, Mapping) else value for key, value in tree.items()}


def _keys_at(settings: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        annotation = settings.model_fields[part].annotation if part in settings.model_fields else None
        nested = [
            option
            for option in (typing.get_args(annotation) or (annotation,))
            if isinstance(option, type) and not isinstance(option, types.GenericAlias) and issubclass(option, BaseModel)
        ]
        if not nested:
            return []
        settings = nested[0]
    return list(settings.model_fields)


class CodecRecord(Settings):
    """Which codec made the embeddings of a data set, or those that a model was made for."""

    name: str
    dim: Annotated[int, Field(gt=0, le=2**20)]
    fingerprint: str
    options: dict[str, Any] = {}


class SetSettings(Settings):
    """One data set of a mixture."""

    path: str
    weight: PositiveFloat | None = None  # share of the concepts of an epoch, relative to the others'; none: by size
    prefix: tuple[str, ...] = ()  # special concepts before every document: names such as start_of_text, or sentences
    suffix: tuple[str, ...] | None = None  # behind every document; none given: as data.end_of_text says
    max_length: Annotated[int, Field(ge=2)] | None = None  # concepts in a window; none: as many as in a row
    languages: tuple[str, ...] | None = None  # read only documents in these
    pairs: bool | None = None  # only targets of pairs and conversations count; none given: where there are such


class DataSettings(Settings):
    """What a training reads and how it is packed into batches."""

    path: str = "data/sample"
    sets: tuple[SetSettings, ...] = ()  # several data sets, instead of path
    row_length: Annotated[int, Field(gt=0, le=2**20)] = 128  # concepts in a packed row
    micro_batch: Annotated[int, Field(gt=0, le=2**16)] = 4  # rows in a micro-batch: what one rank holds at a time
    global_batch: PositiveInt = 1  # micro-batches in an optimizer step, over all ranks
    end_of_text: bool = True  # append the codec's end-of-text concept to every document
    num_workers: NonNegativeInt = 0  # loader processes of each rank
    on_bad_shard: Literal["error", "skip"] = "error"  # where one is missing or damaged: stop, or leave gaps and count
    check_hashes: bool = False  # all of a shard, before a process first reads of it, not only what is read

    @model_validator(mode="after")
    def _weights_all_or_none(self) -> Self:
        if len({one.weight is None for one in self.sets}) > 1:
            raise ValueError("some of data.sets have a weight and some have none: give all a weight, or none")
        return self

    @property
    def all_sets(self) -> tuple[SetSettings, ...]:
        """The data sets to read: `sets`, or the one at `path`."""
        return self.sets or (SetSettings(path=self.path),)

    @property
    def names(self) -> str:
        """Where the data sets are, for messages."""
        return ", ".join(one.path for one in self.all_sets)


class CheckpointSettings(Settings):
    """How often the whole state of a run is written, and how much of it is kept."""

    every: PositiveInt = 100  # steps
    keep: PositiveInt = 2  # newest checkpoints kept
    keep_every: PositiveInt | None = None  # and for good those of steps that this divides; none: no others
    background: bool = False  # write while the training goes on, from a copy in the main process's memory


class EMASettings(Settings):
    """An exponential moving average of the weights, exported in their place."""

    decay: Probability | None = None  # e.g. 0.999; none: no average


class FSDPSettings(Settings):
    """Of the engine fsdp."""

    offload: bool = False  # keep weights and optimizer state in the CPU's memory, and update there


class WatchSettings(Settings):
    """Looking at every weight, for those that do not move or are not finite."""

    every: NonNegativeInt | None = None  # steps; none: at validations; 0: never


class SampleSettings(Settings):
    """What the model writes after the first sentences of a few validation documents, while it trains."""

    every: NonNegativeInt | None = None  # steps; none: at validations where the data set holds its codec; 0: never
    documents: PositiveInt = 3
    prompt: PositiveInt = 2  # sentences of a document that the model reads
    sentences: PositiveInt = 3  # that it writes at most


class WandbSettings(Settings):
    """Weights & Biases, beside the run's own files."""

    project: str | None = None  # none: it is not used
    entity: str | None = None
    tags: tuple[str, ...] = ()
    mode: Literal["online", "offline"] | None = None  # none: as WANDB_MODE says


class TrainSettings(Settings):
    """Optimization and everything around it."""

    steps: PositiveInt = 300
    seed: NonNegativeInt = 0
    engine: Literal["auto", "single", "ddp", "fsdp", "deepspeed"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    fsdp: FSDPSettings = FSDPSettings()
    nvme_path: str | None = None  # a folder on a fast local disk, for DeepSpeed files that offload to NVMe
    activation_checkpointing: ActivationCheckpointing = "none"  # full, or every-2, every-3, ...: of so many layers one
    compile: Literal["auto", True, False] = "auto"  # the layers, with torch.compile; auto: on a GPU, where it pays
    freeze: tuple[str, ...] = ()  # parameters that stay as they are: names, or patterns such as contextualizer.*
    optimizer: Literal["adamw", "adafactor", "adamw8bit", "muon"] = "adamw"
    lr: PositiveFloat = 1e-3
    betas: tuple[Probability, Probability] = (0.9, 0.95)
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.1
    clip_norm: PositiveFloat = 1.0
    schedule: Literal["cosine", "linear", "constant", "warmup-stable-decay"] = "cosine"
    warmup_steps: NonNegativeInt = 40
    decay_steps: PositiveInt | None = None  # of warmup-stable-decay, at the end; none: a tenth of the steps
    min_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 0.1
    log_every: PositiveInt = 10
    validate_every: PositiveInt = 100
    timeout: PositiveFloat = 1800.0  # seconds that a process may keep the others waiting before the run is ended
    max_bad_steps: PositiveInt = 10  # consecutive skipped steps (NaN or infinite gradient) that stop the run
    ema: EMASettings = EMASettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    peak_tflops: PositiveFloat | None = None  # of one device, for MFU; none: as known for the GPU
    watch: WatchSettings = WatchSettings()
    samples: SampleSettings = SampleSettings()
    wandb: WandbSettings = WandbSettings()

    @model_validator(mode="after")
    def _decay_steps_belong_to_a_schedule(self) -> Self:
        if self.decay_steps is not None and self.schedule != "warmup-stable-decay":
            raise ValueError(
                f"decay_steps belongs to the schedule warmup-stable-decay, and schedule is {self.schedule}"
            )
        return self


class RunConfig(Settings):
    """All settings of one `lcm train`; saved as `config.yaml` in the run folder."""

    model: str = "models/base"
    name: str | None = None  # the run's name; default: the model folder's name
    deepspeed: str | None = None  # a DeepSpeed JSON file
    data: DataSettings = DataSettings()
    train: TrainSettings = TrainSettings()
