"""What users are told of settings: name, type in words, default and one line of meaning, read from the classes.

`lcm settings` and docs/settings.md print the same lists.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pkgutil import resolve_name
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from lexalcm.config import Settings, nested_settings
from lexalcm.option import Option

LISTED = {
    "": ("lexalcm.train.settings:RunConfig", "of `lcm train --set KEY=VALUE`, and its `--config FILE.yaml`"),
    "model": ("lexalcm.model.config:ModelConfig", "of `lcm bootstrap --set KEY=VALUE`, over a preset's"),
    "generation": (
        "lexalcm.generate.options:GenerationOptions",
        "of a model folder's `generation_config.json`, and options of `lcm infer` and `evaluate`",
    ),
}
"""The classes that are listed, by the first part of their settings' names, and where they are set."""

KINDS = {bool: "true or false", int: "whole number", float: "number", str: "text"}
BOUNDS = {"gt": "above", "ge": "from", "lt": "to below", "le": "to"}


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        name: with dots, as `--set` takes it.
        type: its values, in words.
        default: as YAML, ready for `--set`; None: it must be given.
        meaning: one line.
    """

    name: str
    type: str
    default: str | None
    meaning: str


@dataclass(frozen=True)
class Section:
    """The settings of one class.

    Attributes:
        name: the first part of their names, empty for those that have none.
        meaning: of them together, in one line.
        settings: in the order of their definition.
    """

    name: str
    meaning: str
    settings: tuple[Setting, ...]


def listed(first: str) -> list[Section]:
    """The sections of one of the classes of `LISTED`, which is imported now."""
    return list(sections(resolve_name(LISTED[first][0]), first))


def sections(settings: type[Settings], name: str = "") -> Iterator[Section]:
    """The settings of a class, then those of each class within it."""
    prefix = f"{name}." if name else ""
    inner = {key: nested_settings(field.annotation) for key, field in settings.model_fields.items()}
    own = tuple(
        Setting(prefix + key, in_words(field), _default(field), " ".join((field.description or "").split()))
        for key, field in settings.model_fields.items()
        if inner[key] is None or _is_tuple(field.annotation)
    )
    yield Section(name, (settings.__doc__ or "").partition("\n")[0], own)
    for key, field in settings.model_fields.items():
        if (within := inner[key]) is not None:
            yield from sections(within, prefix + key + ("[]" if _is_tuple(field.annotation) else ""))


def in_words(field: FieldInfo) -> str:
    """The values that a field takes: `whole number of at least 1`; its title or choices, if it has such."""
    if field.title:
        return field.title
    if names := [one.choices for one in field.metadata if isinstance(one, Option) and one.choices]:
        return _or(list(names[0]()))
    kind, arguments = get_origin(field.annotation), get_args(field.annotation)
    if kind is Literal:
        return _or([_yaml(value) for value in arguments])
    if kind is tuple:
        inner = in_words(FieldInfo.from_annotation(arguments[0]))
        many = re.sub(r"^(whole number|number|text)", r"\1s", inner)
        return f"list of {many}" if arguments[-1] is Ellipsis else f"{len(arguments)} {many}"
    if NoneType in arguments:
        [other] = [in_words(FieldInfo.from_annotation(one)) for one in arguments if one is not NoneType]
        return _or([*other.split(" or "), "null"])
    if kind is dict:
        return "mapping"
    return next((words for kind, words in KINDS.items() if field.annotation is kind), "settings") + _bounds(field)


def _bounds(field: FieldInfo) -> str:
    bound = {key: getattr(one, key) for one in field.metadata for key in BOUNDS if hasattr(one, key)}
    if field.annotation is int and "gt" in bound:
        bound["ge"] = bound.pop("gt") + 1
    if field.annotation is int and "lt" in bound:
        bound["le"] = bound.pop("lt") - 1
    if list(bound) == ["ge"]:
        return f" of at least {bound['ge']:,}"
    return "".join(f" {words} {bound[key]:,}" for key, words in BOUNDS.items() if key in bound)


def _or(words: list[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _is_tuple(annotation: Any) -> bool:
    return get_origin(annotation) is tuple


def _default(field: FieldInfo) -> str | None:
    return None if field.is_required() else _yaml(field.get_default(call_default_factory=True))


def _yaml(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True).removesuffix("...\n").strip()


INTRODUCTION = """# Settings

<!-- Made from the settings classes by `lcm settings --markdown`: change the texts there. -->

`lcm settings` lists these in a terminal, `lcm settings train.checkpoint` a part of them. Values are written as YAML:
`null` is no value, `[0.9, 0.95]` a list. In a file, settings are nested (`train:`, below it `lr: 0.001`).
[Training](training.md) says which ones matter first.
"""


def page() -> str:
    """The page docs/settings.md, with everything that is listed."""
    parts = [INTRODUCTION]
    for first, (_, where) in LISTED.items():
        parts.append(f"## Settings {where}\n")
        for section in listed(first):
            if section.name != first:
                parts.append(f"### `{section.name}`\n")
            parts.append(f"{section.meaning}\n")
            rows = [
                [f"`{one.name}`", one.type, "" if one.default is None else f"`{one.default}`", one.meaning]
                for one in section.settings
            ]
            lines = [["setting", "values", "default", "meaning"], ["---"] * 4, *rows]
            parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n")
    return "\n".join(parts).rstrip()
