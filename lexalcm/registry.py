"""What has a name and can be added from outside: codecs, architectures, objectives, engines, samplers, metrics.

A registry maps names to where a thing is defined, `"module:attribute"`, and imports it when it is asked for: listing
names imports nothing. This package's own are a dict beside the protocol that they fulfil; an installed package adds its
own through an entry point of the registry's group, in its `pyproject.toml`:

    [project.entry-points."lexalcm.samplers"]
    heun = "my_package.heun:HEUN"

See `docs/extending.md`.
"""

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

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
        self._loaded: dict[str, T] = {}

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
            if name not in self._loaded:
                module, _, attribute = self._builtin[name].partition(":")
                self._loaded[name] = getattr(import_module(module), attribute)
            return self._loaded[name]
        entry = self._added().get(name)
        if entry is None:
            raise self._error(f"unknown {self.kind} {name!r}{nearest(name, self.names())}")
        try:
            return entry.load()
        except (ImportError, AttributeError) as error:
            package = self.origin(name)[0]
            raise self._error(f"the {self.kind} {name} of the package {package} cannot be loaded: {error}") from error

    def load_all(self) -> dict[str, T]:
        """Everything by name, in the order of `names`. Errors as of `load`."""
        return {name: self.load(name) for name in self.names()}

    def check(self, name: str) -> str:
        """The name, if anything has it; imports nothing. Errors as of `load`."""
        if name not in self._builtin and name not in self._added():
            raise self._error(f"unknown {self.kind} {name!r}{nearest(name, self.names())}")
        return name

    def origin(self, name: str) -> tuple[str, str]:
        """The package that something is from, and that package's version; imports nothing. Errors as of `load`."""
        if self.check(name) in self._builtin:
            return "lexalcm", __version__
        entry = self._added()[name]
        return (entry.module, "") if entry.dist is None else (entry.dist.name, entry.dist.version)

    def _added(self) -> dict[str, EntryPoint]:
        return {entry.name: entry for entry in entry_points(group=self.group)}
