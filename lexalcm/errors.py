"""The project's exceptions: what went wrong and what to do about it, in one line.

The command line prints the message of a `LexaError` without a traceback and exits with its `exit_code`:
2 for a mistake the user can mend (wrong path, wrong key, broken file), 1 for a failure while running.
"""

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType
from typing import Any


class LexaError(Exception):
    """A failure while running. The message is one line: what happened and what to do."""

    exit_code = 1
    reported_by_peer: bool | None = None
    """In a run of several processes: whether another one reports it; none: the first of each machine does."""


class UserError(LexaError):
    """A mistake of the user: wrong path, wrong setting, wrong input."""

    exit_code = 2


class ConfigError(UserError):
    """An unknown key, a value of the wrong type, or settings that contradict each other."""


class DataError(UserError):
    """An input text or a data set that cannot be used as it is."""


class ShardError(DataError):
    """A shard that is missing, of the wrong size, or not the one that the index speaks of."""

    def __init__(self, message: str, shard: str) -> None:
        super().__init__(message)
        self.shard = shard
        """File name of the shard."""

    def __reduce__(self) -> tuple[Any, ...]:  # loader processes hand it to the main one
        return type(self), (str(self), self.shard)


class RemoteError(LexaError):
    """A remote address that does not answer, also when asked again."""


class CodecError(UserError):
    """A codec that is unknown, incomplete, or not the one that a data set or a model was made with."""


class MissingExtraError(UserError):
    """An optional part that is not installed."""


class TrainingError(LexaError):
    """A training run that cannot continue."""


def import_extra(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional dependency, or say which extra brings it.

    Args:
        module: what to import, e.g. `"deepspeed"`.
        extra: the extra of this project that installs it.
        purpose: who asks, for the message, e.g. `"--deepspeed"`.

    Raises:
        MissingExtraError: the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingExtraError(
            f"{purpose} needs {module}, which is not installed: pip install 'lexalcm[{extra}]'"
        ) from error


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about a name that is unknown: the nearest known one, or all."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f": did you mean {close[0]}?"
    return f": known are {', '.join(known)}" if known else ""
