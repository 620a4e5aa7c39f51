"""How long work says how far it is; the command line draws it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Report = Callable[[int, int | None], None]
"""What long work calls as it goes on: (units done, units in all or None if that is not known)."""

Progress = Callable[[str, str], AbstractContextManager[Report]]
"""Opens a report of long work: (what, unit) -> a function of (done, total or None)."""


@contextmanager
def silent(_what: str, _unit: str) -> Iterator[Report]:
    """A progress that reports to nobody."""
    yield lambda _done, _total: None


class Counter:
    """Adds up what is done and reports the sum."""

    def __init__(self, report: Report, total: int | None = None) -> None:
        self.report = report
        self.total = total
        self.done = 0

    def __call__(self, more: int) -> None:
        """Report that so many more are done."""
        self.done += more
        self.report(self.done, self.total)
