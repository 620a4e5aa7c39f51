"""How long-running work reports its progress; the command line draws it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

ReportProgress = Callable[[int, int | None], None]
"""What long-running work calls: (units done, units in all or None if that is not known)."""

Progress = Callable[[str, str], AbstractContextManager[ReportProgress]]
"""Opens a progress display: (what, unit) -> a function of (done, total or None)."""


@contextmanager
def silent(_what: str, _unit: str) -> Iterator[ReportProgress]:
    """Shows no progress."""
    yield lambda _done, _total: None


class Counter:
    """Adds up what is done and reports the sum."""

    def __init__(self, report: ReportProgress, total: int | None = None) -> None:
        self.report = report
        self.total = total
        self.done = 0

    def __call__(self, more: int) -> None:
        """Report that `more` further units are done."""
        self.done += more
        self.report(self.done, self.total)
