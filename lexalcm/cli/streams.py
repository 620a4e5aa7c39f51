"""The streams and the screen that a command is given: closed, full, in another encoding, without width."""

import io
import os
import sys
from contextlib import suppress
from typing import Any


def mend_streams() -> None:
    """Make the standard streams safe to use; to be called once, before anything is printed.

    A closed stream leads nowhere. Standard error that cannot be written, full or with nobody reading it, loses what is
    said there and nothing else: it is no reason for a command to end. What standard output's encoding does not have is
    written as an escape. A width or height of the terminal that is no positive number counts as not given.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115  for all of the run
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    with suppress(io.UnsupportedOperation):  # it is no file: another program has put something in its place
        sys.stderr = io.TextIOWrapper(
            io.BufferedWriter(_StandardError(sys.stderr.fileno(), "w", closefd=False)),
            encoding=sys.stderr.encoding,
            errors="backslashreplace",
            line_buffering=True,
        )
    for name in ("COLUMNS", "LINES"):
        if not os.environ.get(name, "").strip("0").isdecimal():
            os.environ.pop(name, None)


def forget_unwritten() -> None:
    """Give up what standard output could not take: trying once more at its end, Python would exit with 120."""
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
