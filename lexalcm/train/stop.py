"""Stopping when asked to: SIGTERM (a scheduler, `kill`), SIGUSR1 (Slurm before the time limit) and Ctrl-C set a flag.

The trainer looks at it after each step, saves, and ends well. Nothing is done inside the signal handler, but that a
second Ctrl-C stops at once.
"""

import signal
from types import FrameType, TracebackType

from typing_extensions import Self

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopRequest:
    """Catches the signals for the duration of a `with` block."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    @property
    def made(self) -> bool:
        """Whether this process has been asked to stop."""
        return self.signal is not None

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._catch) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
