"""`lcm infer --interactive`: type, read, type on."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from lexalcm.cli.console import err, out, print_error
from lexalcm.cli.denoising_line import DenoisingLine
from lexalcm.errors import UserError

if TYPE_CHECKING:
    from lexalcm.generate.sessions.session import Session

PROMPT = "> "
HISTORY_LINES = 1000


def converse(session: "Session", line: DenoisingLine, first: str = "") -> None:
    """Take turns until `/quit` or the end of the input; Ctrl-C stops a sentence, or drops the line being typed.

    Args:
        session: the text so far.
        line: shows the denoising.
        first: a text to begin with.
    """
    if sys.stdin.isatty():
        err.print("/help shows the commands; Ctrl-D ends", style="dim")
    with _history():
        if first:
            _turn(session, line, first)
        while (typed := _read()) is not None:
            if typed.strip() == "/quit":
                return
            _turn(session, line, typed)


def _turn(session: "Session", line: DenoisingLine, typed: str) -> None:
    try:
        if typed.startswith("/"):
            print_error(session.command(typed.strip()))
            return
        with line:
            for number, sentence in enumerate(session.say(typed), start=2):
                line.clear(number)
                out.print(sentence.text)
    except UserError as error:
        print_error(f"lcm: {error}")
    except KeyboardInterrupt:
        err.print("stopped", style="dim")


def _read() -> str | None:
    """The next line; None at the end of the input."""
    while True:
        try:
            return input(PROMPT if sys.stdin.isatty() else "")
        except EOFError:
            if sys.stdin.isatty():
                err.print()
            return None
        except KeyboardInterrupt:
            err.print()
        except UnicodeDecodeError as error:
            raise UserError("standard input is not UTF-8 text: convert it first, e.g. with iconv") from error


def history_file() -> Path:
    """Where lines typed earlier are kept (XDG base directories)."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "lexalcm" / "infer_history"


@contextmanager
def _history() -> Iterator[None]:
    """Let the arrow keys find what was typed, now and in earlier sessions; nothing where lines come from a file."""
    try:
        import readline
    except ImportError:  # a Python built without it
        yield
        return
    if not sys.stdin.isatty():
        yield
        return
    file = history_file()
    with suppress(OSError):
        readline.read_history_file(file)
    readline.set_history_length(HISTORY_LINES)
    try:
        yield
    finally:
        with suppress(OSError):  # a home that cannot be written is no reason to fail
            file.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(file)
