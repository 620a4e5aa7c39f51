"""What the commands print: results on stdout, everything else (progress, notes, errors) on stderr.

With `--quiet` stderr keeps errors alone, with `--verbose` it also says how long each stage took. Moving lines are for
terminals only: neither a pipe nor a log file gets one, whatever FORCE_COLOR says of colours.
"""

import logging
import os
import resource
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


def _on_broken_pipe(self: Console) -> None:
    raise BrokenPipeError


# The reader of our output has gone: no failure, `main` ends quietly. Rich would exit with 1, also in the help of Typer.
Console.on_broken_pipe = _on_broken_pipe  # type: ignore[method-assign]

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)
"""For notes and progress: silent with `--quiet`."""
_errors = Console(stderr=True, highlight=False, soft_wrap=True)
_talks_more = False
_began = time.monotonic()

LOGGER = "lexalcm"

SECONDS_BETWEEN_LINES = 10.0

Report = Callable[[int, int | None], None]
"""What long work calls as it goes on: (units done, units in all or None if that is not known)."""


def set_verbosity(*, quiet: bool = False, verbose: bool = False) -> None:
    """Say nothing but results and errors, or more than usual; to be called before a command runs."""
    global _talks_more, _began
    err.quiet = quiet
    _talks_more = verbose and not quiet
    _began = time.monotonic()
    logging.getLogger(LOGGER).setLevel(logging.ERROR if quiet else logging.NOTSET)
    if quiet:
        warnings.simplefilter("ignore")
    if quiet or not moves():  # bars of libraries
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TQDM_DISABLE", "1")


def moves() -> bool:
    """Whether stderr is a terminal in which lines may be drawn over, and shall be."""
    return err.file.isatty() and not err.is_dumb_terminal and not err.quiet


def complain(text: str) -> None:
    """Print an error: a line on stderr, also with `--quiet`."""
    _errors.print(text, markup=False)


def say_what_it_took() -> None:
    """With `--verbose`, how long the command ran and how much memory it held."""
    if _talks_more:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux
        err.print(f"[dim]{time.monotonic() - _began:.1f} s, at most {peak:.1f} GiB of memory[/]")


class RateColumn(ProgressColumn):
    """Units per second over the whole task, e.g. `812 sentences/s`."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:  # noqa: D102  inherited
        rate = task.finished_speed or task.speed
        return Text("" if rate is None else f"{_rate(rate)} {self.unit}/s", style="progress.data.speed")


@contextmanager
def progress(description: str, unit: str) -> Iterator[Report]:
    """Show how long work goes on: a bar with rate and time left in a terminal, a line every ten seconds elsewhere."""
    with _bar(description, unit) if moves() else nullcontext(_line_report(description, unit)) as report:
        if not _talks_more:
            yield report
            return
        begin, last = time.monotonic(), 0

        def noted(done: int, total: int | None) -> None:
            nonlocal last
            last = done
            report(done, total)

        yield noted
    seconds = time.monotonic() - begin
    err.print(f"[dim]{description}: {last:,} {unit} in {seconds:.1f} s[/]")


@contextmanager
def _bar(description: str, unit: str) -> Iterator[Report]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(unit),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _line_report(description: str, unit: str) -> Report:
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
