"""What the commands print: results on stdout, everything else (progress, notes, errors) on stderr.

With `--quiet` stderr has errors only, with `--verbose` also how long each stage took. Moving lines are for terminals
only: neither a pipe nor a log file gets one, whatever FORCE_COLOR says of colours.

Text comes from data, models and names, so nothing in it is taken for more than text: no brackets for styles, no
`:name:` for an emoji, and no control character reaches a terminal.
"""

import json
import logging
import os
import re
import resource
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.text import Text

from lexalcm.io.progress import ReportProgress

_UNSHOWABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]+")
"""What may not reach a terminal: control characters but line end and tab, those that turn the direction of writing, and
halves of characters, which file names that are not UTF-8 have."""


def _on_broken_pipe(self: Console) -> None:
    raise BrokenPipeError


# The reader of our output has gone: no failure, `main` ends quietly. Rich would exit with 1, also in the help of Typer.
Console.on_broken_pipe = _on_broken_pipe  # type: ignore[method-assign]


class _TextConsole(Console):
    """Prints text as text; on stderr and on a terminal, control characters as their escapes: `\\x1b`."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=True)

    def print(self, *objects: Any, **options: Any) -> None:
        """As in Rich; text alone goes into a pipe or a file as it is."""
        if len(objects) == 1 and isinstance(objects[0], str) and not (options or self.quiet or self._escapes):
            self.file.write(objects[0] + "\n")
            self.file.flush()
        else:
            super().print(*objects, **options)

    @property
    def _escapes(self) -> bool:
        return self.stderr or self.file.isatty()

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """All that is printed comes through here, strings and texts in tables too."""
        if isinstance(renderable, str):
            renderable = self.render_str(renderable)
        if isinstance(renderable, Text) and self._escapes:
            renderable = _with_escapes(renderable)
        return super().render(renderable, options)


def _with_escapes(text: Text) -> Text:
    if not _UNSHOWABLE.search(text.plain):
        return text
    shown = text.blank_copy()
    for part in text.divide(edge for match in _UNSHOWABLE.finditer(text.plain) for edge in match.span()):
        if _UNSHOWABLE.match(part.plain):
            part.plain = part.plain.encode("unicode_escape").decode()
        shown.append_text(part)
    return shown


class _EscapingFormatter(logging.Formatter):
    """Of warnings that are logged, where nobody else takes them."""

    def format(self, record: logging.LogRecord) -> str:
        return _with_escapes(Text(super().format(record))).plain


out = _TextConsole()
err = _TextConsole(stderr=True)
"""For notes and progress: silent with `--quiet`."""
_errors = _TextConsole(stderr=True)
_verbose = False
_began = time.monotonic()

LOGGER = "lexalcm"

SECONDS_BETWEEN_LINES = 10.0


def set_verbosity(*, quiet: bool = False, verbose: bool = False) -> None:
    """Print results and errors only, or more than usual; to be called before a command runs."""
    global _verbose, _began
    err.quiet = quiet
    _verbose = verbose and not quiet
    _began = time.monotonic()
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_EscapingFormatter())
    logging.getLogger(LOGGER).setLevel(logging.ERROR if quiet else logging.NOTSET)
    if quiet:
        warnings.simplefilter("ignore")
    if quiet or not is_live_terminal():  # bars of libraries
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TQDM_DISABLE", "1")


def is_live_terminal() -> bool:
    """Whether stderr is a terminal on which lines are redrawn in place."""
    return err.file.isatty() and not err.is_dumb_terminal and not err.quiet


def print_error(text: str) -> None:
    """Print an error: a line on stderr, also with `--quiet`."""
    _errors.print(text)


def print_json(tree: Any) -> None:
    """Print a result for a program, without colours whatever the environment says."""
    sys.stdout.write(json_text(tree, indent=2) + "\n")
    sys.stdout.flush()


def json_text(tree: Any, indent: int | None = None) -> str:
    """JSON for stdout: control characters escaped, and what its encoding cannot carry; paths as text."""
    text = json.dumps(tree, ensure_ascii=not out.encoding.startswith("utf"), indent=indent, default=str)
    return _UNSHOWABLE.sub(lambda found: json.dumps(found[0])[1:-1], text)


def print_resource_usage() -> None:
    """With `--verbose`, print how long the command ran and its peak memory."""
    if _verbose:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux
        err.print(f"{time.monotonic() - _began:.1f} s, peak memory {peak:.1f} GiB", style="dim")


class RateColumn(ProgressColumn):
    """Units per second over the whole task, e.g. `812 sentences/s`."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:  # noqa: D102  inherited
        rate = task.finished_speed or task.speed
        return Text("" if rate is None else f"{_rate(rate)} {self.unit}/s", style="progress.data.speed")


@contextmanager
def progress(description: str, unit: str) -> Iterator[ReportProgress]:
    """Show the progress of long work: a bar with rate and time left in a terminal, else a line every ten seconds."""
    with _bar(description, unit) if is_live_terminal() else nullcontext(_line_report(description, unit)) as report:
        if not _verbose:
            yield report
            return
        begin, last = time.monotonic(), 0

        def noted(done: int, total: int | None) -> None:
            nonlocal last
            last = done
            report(done, total)

        yield noted
    seconds = time.monotonic() - begin
    err.print(f"{description}: {last:,} {unit} in {seconds:.1f} s", style="dim")


@contextmanager
def _bar(description: str, unit: str) -> Iterator[ReportProgress]:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(unit),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _line_report(description: str, unit: str) -> ReportProgress:
    start = last = time.monotonic()

    def report(done: int, total: int | None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES:
            last = now
            rate = done / (now - start)
            left = f", {(total - done) / rate:.0f} s left" if rate > 0 and total is not None else ""
            of_all = "" if total is None else f"/{total}"
            err.print(f"{description}: {done}{of_all} {unit}, {_rate(rate)} {unit}/s{left}")

    return report


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
