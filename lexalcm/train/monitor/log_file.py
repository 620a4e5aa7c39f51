"""A log of each process: `runs/NAME/logs/rank_00000.log`.

On the terminal only the main process prints. In its file each process notes, with the time, what it is, the warnings
of Python and of libraries, steps that were skipped, and the traceback of what ended it; the main one also every line
of metrics. What comes before the run's folder is made is kept in memory and written when it is there.
"""

import logging
import os
import platform
import socket
import sys
import threading
import warnings
from importlib.metadata import PackageNotFoundError, version
from logging.handlers import MemoryHandler
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import torch
from typing_extensions import Self

from lexalcm import __version__
from lexalcm.distributed.world import World

LOGGER = "lexalcm.train"
KEPT = 10_000  # records in memory before there is a file
PACKAGES = ("torch", "deepspeed", "numpy", "safetensors")

logger = logging.getLogger(__name__)


class _Quiet(logging.FileHandler):
    """A file that may be on a disk that is full: that must not fill the terminal as well."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        pass


class LogFile:
    """Gathers what is logged for the duration of a `with` block, and an exception that leaves it."""

    def __init__(self, world: World) -> None:
        """Log for this process of a world."""
        self._world = world
        self._handler = MemoryHandler(KEPT, flushLevel=logging.CRITICAL + 1)
        self._file: logging.FileHandler | None = None

    def open(self, folder: Path) -> None:
        """Write to the file in this folder from now on, behind what an earlier start wrote there."""
        folder.mkdir(parents=True, exist_ok=True)
        self._file = _Quiet(folder / log_name(self._world.rank), encoding="utf-8")
        self._file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._handler.setTarget(self._file)
        self._handler.flush()
        self._handler.flushLevel = logging.NOTSET  # each record at once

    def __enter__(self) -> Self:
        own, everyone = logging.getLogger(LOGGER), logging.getLogger()
        self._before = (own.level, own.propagate, warnings.showwarning)
        own.setLevel(logging.INFO)
        own.propagate = False
        own.addHandler(self._handler)
        # Libraries warn the root logger, which prints as long as it has no handler: the main process goes on to.
        self._last_resort = logging.lastResort if self._world.is_main and not everyone.handlers else None
        if self._last_resort is not None:
            everyone.addHandler(self._last_resort)
        everyone.addHandler(self._handler)
        warnings.showwarning = self._show_warning
        self._thread_hook, threading.excepthook = threading.excepthook, self._log_end_of_thread
        logger.info(describe(self._world))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            logger.error("ended by %s", type(error).__name__, exc_info=error)
        else:
            logger.info("ended")
        own, everyone = logging.getLogger(LOGGER), logging.getLogger()
        own.level, own.propagate, warnings.showwarning = self._before
        threading.excepthook = self._thread_hook
        own.removeHandler(self._handler)
        everyone.removeHandler(self._handler)
        if self._last_resort is not None:
            everyone.removeHandler(self._last_resort)
        if self._file is None:
            self._handler.buffer.clear()  # the run was refused, and leaves nothing behind
        self._handler.close()
        if self._file is not None:
            self._file.close()

    def _log_end_of_thread(self, end: threading.ExceptHookArgs) -> None:
        logger.error("a thread was ended by %s", end.exc_type.__name__, exc_info=end.exc_value)
        if not isinstance(end.exc_value, OSError):  # of a library that writes: whoever asked it to gets the error, too
            self._thread_hook(end)

    def _show_warning(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        logger.warning("%s:%d: %s: %s", filename, lineno, category.__name__, message)
        if self._world.is_main:
            show: Any = self._before[2]
            show(message, category, filename, lineno, file, line)


def log_name(rank: int) -> str:
    """The file's name for a process."""
    return f"rank_{rank:05d}.log"


def describe(world: World) -> str:
    """Where this process runs and with what."""
    device = str(world.device)
    if world.device.type == "cuda":
        device += f" ({torch.cuda.get_device_name(world.device)}, CUDA {torch.version.cuda})"
    versions = [f"lexalcm {__version__}", f"Python {platform.python_version()}"]
    versions += [f"{name} {found}" for name in PACKAGES if (found := _version(name)) is not None]
    return (
        f"process {world.rank} of {world.size}, pid {os.getpid()} on {socket.gethostname()}, {device}, "
        f"{torch.get_num_threads()} threads; {', '.join(versions)}; {' '.join(sys.argv)}"
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
