"""The streams and the terminal that a command is given: closed, full, in another encoding, without width."""

import io
import os
import sys
from contextlib import suppress
from typing import Any


def make_streams_safe() -> None:
    """Make the standard streams safe to use; to be called once, before anything is printed.

    A closed stream is replaced by the null device. Standard error that cannot be written, because it is full or nobody
    reads it, loses its messages and does not end the command. Characters that standard output's encoding does not have
    are escaped. A terminal width or height that is not a positive number is ignored.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115  for all of the run
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    with suppress(io.UnsupportedOperation):  # it is not a file: another program has replaced it
        sys.stderr = io.TextIOWrapper(
            io.BufferedWriter(_StandardError(sys.stderr.fileno(), "w", closefd=False)),
            encoding=sys.stderr.encoding,
            errors="backslashreplace",
            line_buffering=True,
        )
    for name in ("COLUMNS", "LINES"):
        if not os.environ.get(name, "").strip("0").isdecimal():
            os.environ.pop(name, None)


def discard_unwritten_output() -> None:
    """Discard what standard output could not take: Python would try again at its end and exit with 120."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _StandardError(io.FileIO):
    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes
