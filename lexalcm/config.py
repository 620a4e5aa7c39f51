"""Typed settings: defaults, a YAML file over them, `--set key=value` over both. Unknown keys are errors.

Every settings class of the project derives from `Settings`, and stands beside what reads it; a field's one line of
meaning is the text under it. Those of a training are composed in `lexalcm.train.settings`. `load_settings` is the one
way from files and command-line text to a checked object, and turns each mistake into one line that names the key.
"""

import difflib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lexalcm.errors import ConfigError, nearest
from lexalcm.yaml_text import YAMLTextError, parse_yaml

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=0, lt=2**53)]  # of what is on a disk
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, lt=1)]


class Settings(BaseModel):
    """Base of all settings: frozen, and an unknown key is an error. A text under a field is its description."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), use_attribute_docstrings=True)

    other_names: ClassVar[Mapping[str, str]] = {}
    """What other programs call a setting, to our name for it: for messages alone."""

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
                hint = _did_you_mean(settings, path, prefix)
                raise ConfigError(f"--set {key}: only {prefix}.* can be set here{hint}")
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
            raise ConfigError(f"unknown setting {name}{where}{_did_you_mean(settings, path, prefix)}") from error
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


def nested_settings(annotation: Any) -> type["Settings"] | None:
    """The settings class within a field's annotation: that of `Inner`, `Inner | None` or `tuple[Inner, ...]`."""
    for option in typing.get_args(annotation) or (annotation,):
        if isinstance(option, type) and not isinstance(option, types.GenericAlias) and issubclass(option, Settings):
            return option
    return None


def setting_names(settings: type[Settings], prefix: str = "") -> Iterator[str]:
    """The names of all settings and groups of settings of a class, with dots: `train`, `train.steps`, ..."""
    for key, field in settings.model_fields.items():
        name = f"{prefix}.{key}" if prefix else key
        yield name
        if (inner := nested_settings(field.annotation)) is not None:
            yield from setting_names(inner, name)


def _did_you_mean(settings: type[Settings], path: list[str], prefix: str) -> str:
    """The end of a message about an unknown key: where there is one of that name, or the nearest, or all beside it."""
    key, beside = path[-1], _keys_at(settings, path[:-1])
    if key in settings.other_names:
        return f": did you mean {settings.other_names[key]}?"
    anywhere: dict[str, list[str]] = {}
    for name in setting_names(settings, prefix):
        anywhere.setdefault(name.rpartition(".")[2], []).append(name)
    if key in anywhere:
        return f": did you mean {' or '.join(anywhere[key])}?"
    if difflib.get_close_matches(key, beside, n=1):
        return nearest(key, beside)
    close = difflib.get_close_matches(key, anywhere, n=1)
    return f": did you mean {' or '.join(anywhere[close[0]])}?" if close else nearest(key, beside)


def _keys_at(settings: type[Settings], path: list[str]) -> list[str]:
    for part in path:
        if part.isdigit():  # a place in a list
            continue
        inner = nested_settings(settings.model_fields[part].annotation) if part in settings.model_fields else None
        if inner is None:
            return []
        settings = inner
    return list(settings.model_fields)
