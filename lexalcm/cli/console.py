"""What the commands print: results on stdout, everything else (progress, notes, errors) on stderr."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

SECONDS_BETWEEN_LINES = 10.0

Report = Callable[[int, int | None], None]
"""What long work calls as it goes on: (units done, units in all or None if that is not known)."""


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
    if err.is_terminal:
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
    else:
        yield _line_report(description, unit)


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
