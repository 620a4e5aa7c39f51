"""A settings field that users can set: what it is called and what it means is said once, where the field is.

    class GenerationOptions(Settings):
        steps: Annotated[PositiveInt, Option(panel="Sampling")] = 12
        "Denoising steps of a diffusion model."

Options of commands with their help (`lexalcm.cli.settings_options`), `/set` of `lcm infer --interactive` and the tables
of the documentation are made from this. Type, bounds, default and meaning are the field's own.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from lexalcm.config import Settings


@dataclass(frozen=True)
class Option:
    """Marks a settings field that users can set on a command line.

    Attributes:
        flags: what command lines call it, as Typer writes it; default: the field's name.
        metavar: what stands for the value; default: N for a whole number, X for another.
        panel: of a command's help.
        default: what the help says of the default, empty for nothing; default: the field's own default.
        choices: gives the names that the field takes, for the help; default: those of a `Literal`.
    """

    flags: tuple[str, ...] = ()
    metavar: str | None = None
    panel: str | None = None
    default: str | None = None
    choices: Callable[[], Sequence[str]] | None = None


@dataclass(frozen=True)
class OptionField:
    """An option as it is read from a settings class.

    Attributes:
        path: the field's name, behind those of the settings that it is within.
        type: of its values: bool, int, float, or str for all else.
        minimum, maximum: the least and the greatest value, where there are such.
        help: the field's meaning, and its choices.
        flags, metavar, panel: as of `Option`.
        default: in words; empty where there is nothing to say.
    """

    path: tuple[str, ...]
    type: type
    minimum: float | None
    maximum: float | None
    help: str
    flags: tuple[str, ...]
    metavar: str | None
    panel: str | None
    default: str

    @property
    def name(self) -> str:
        """What the first flag calls it: `guidance_rescale` of `--guidance-rescale`."""
        return _spelled(self.flags[0])

    @property
    def names(self) -> set[str]:
        """The field's name, and what each flag calls it."""
        return {self.path[-1], *map(_spelled, self.flags)}


def option_fields(settings: type[Settings]) -> list[OptionField]:
    """The fields of a settings class, and of settings within it, that have an `Option`, in the order of definition."""
    found = []
    for name, field in settings.model_fields.items():
        if option := next((one for one in field.metadata if isinstance(one, Option)), None):
            found.append(_read(name, field, option))
        elif isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            found += [replace(inner, path=(name, *inner.path)) for inner in option_fields(field.annotation)]
    return found


def _read(name: str, field: FieldInfo, option: Option) -> OptionField:
    annotation, metadata = _without_none(field)
    kind = annotation if annotation in (bool, int, float) else str
    minimum, maximum = _bounds(metadata, kind)
    choices = option.choices() if option.choices else get_args(annotation) if get_origin(annotation) is Literal else ()
    meaning = " ".join((field.description or "").split())
    flag = name.replace("_", "-")
    return OptionField(
        path=(name,),
        type=kind,
        minimum=minimum,
        maximum=maximum,
        help=f"{meaning.rstrip('.')}: {', '.join(choices)}." if choices else meaning,
        flags=option.flags or ((f"--{flag}/--no-{flag}",) if kind is bool else (f"--{flag}",)),
        metavar=option.metavar or {int: "N", float: "X"}.get(kind),
        panel=option.panel,
        default=in_words(field.default) if option.default is None else option.default,
    )


def in_words(default: object) -> str:
    """A default as helps and tables show it: nothing where there is none."""
    return "" if default is None or default is False else f"{default:g}" if isinstance(default, float) else str(default)


def _without_none(field: FieldInfo) -> tuple[Any, list[Any]]:
    """The type and the constraints of a field's values that are not None."""
    [*others] = (one for one in get_args(field.annotation) if one is not NoneType)
    if NoneType not in get_args(field.annotation) or len(others) != 1:
        return field.annotation, field.metadata
    inner = FieldInfo.from_annotation(others[0])
    return inner.annotation, [*inner.metadata, *field.metadata]


def _bounds(metadata: Iterable[Any], kind: type) -> tuple[float | None, float | None]:
    """The least and the greatest value. Numbers above another have a least one if they are whole."""
    found = {key: getattr(one, key) for one in metadata for key in ("ge", "gt", "le") if hasattr(one, key)}
    least = found["gt"] + 1 if kind is int and "gt" in found else found.get("ge")
    return least, found.get("le")


def _spelled(flag: str) -> str:
    return flag.partition("/")[0].lstrip("-").replace("-", "_")
