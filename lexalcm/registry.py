"""What has a name and can be added from outside: codecs, architectures, objectives, engines, samplers, metrics.

A registry maps names to where a thing is defined, `"module:attribute"`, and imports it when it is asked for: listing
names imports nothing. This package's own are a dict beside the protocol that they fulfil; an installed package adds its
own through an entry point of the registry's group, in its `pyproject.toml`:

    [project.entry-points."lexalcm.samplers"]
    heun = "my_package.heun:HEUN"

See `docs/extending.md`.
"""

import sys
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from importlib.metadata import EntryPoint
from pkgutil import resolve_name
from typing import Any, Generic, TypeVar, cast

from lexalcm import __version__
from lexalcm.errors import LexaError, UserError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """Things of one kind, by name.

    Args:
        kind: what they are, in the singular, for messages: `"sampler"`.
        builtin: this package's own by name, as `"module:attribute"`, in the order in which they are listed.
        error: the class of an unknown name's error.
    """

    def __init__(self, kind: str, builtin: Mapping[str, str], error: type[LexaError] = UserError) -> None:
        self.kind = kind
        self.group = f"lexalcm.{kind}s"
        self._builtin = dict(builtin)
        self._error = error

    def names(self) -> list[str]:
        """Every name: this package's own, then those that installed packages add, sorted."""
        return [*self._builtin, *sorted(self._added().keys() - self._builtin.keys())]

    def load(self, name: str) -> T:
        """What has this name; it is imported now.

        Raises:
            UserError: (or the registry's own error) nothing has it; the message names the nearest. Or the package that
                adds it cannot be imported.
        """
        if name in self._builtin:
            return cast(T, resolve_name(self._builtin[name]))
        entry = self._entry(name)
        try:
            return entry.load()
        except (ImportError, AttributeError) as error:
            package, _ = _package(entry)
            raise self._error(f"the {self.kind} {name} of the package {package} cannot be loaded: {error}") from error

    def load_all(self) -> dict[str, T]:
        """Everything by name, in the order of `names`. Errors as of `load`."""
        return {name: self.load(name) for name in self.names()}

    def check(self, name: str) -> str:
        """The name, if anything has it; imports nothing. Errors as of `load`."""
        if name not in self._builtin:
            self._entry(name)
        return name

    def origin(self, name: str) -> tuple[str, str]:
        """The package that something is from, and that package's version; imports nothing. Errors as of `load`."""
        return ("lexalcm", __version__) if name in self._builtin else _package(self._entry(name))

    def _entry(self, name: str) -> EntryPoint:
        entry = self._added().get(name)
        if entry is None:
            raise self._error(f"unknown {self.kind} {name!r}{nearest(name, self.names())}")
        return entry

    def _added(self) -> dict[str, EntryPoint]:
        return {entry.name: entry for entry in entry_points(group=self.group)}


def entry_points(group: str) -> Iterable[EntryPoint]:
    """What installed packages add to a group. They are searched once for all groups, and again where the path differs.

    A search takes about 10 ms, and the help of commands asks several registries.
    """
    return _searched(tuple(sys.path)).select(group=group)


@cache
def _searched(path: tuple[str, ...]) -> Any:  # EntryPoints; SelectableGroups in Python 3.10
    return metadata.entry_points()


def _package(entry: EntryPoint) -> tuple[str, str]:
    return (entry.module, "") if entry.dist is None else (entry.dist.name, entry.dist.version)
