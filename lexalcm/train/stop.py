"""Stopping when asked to: SIGTERM (a scheduler, `kill`), SIGUSR1 (Slurm before the time limit), SIGHUP (the terminal is
gone) and Ctrl-C set a flag.

The trainer looks at it after each step, saves, and ends well. Nothing is done inside the signal handler, but that a
second Ctrl-C stops at once. Under `nohup`, which is to survive the terminal, SIGHUP is left alone.

While torch and the data are loaded there is nothing to save; then too a scheduler's signals set the flag, so that the
end is a good one, but Ctrl-C stops at once. This module loads nothing heavy, in order to be there from the beginning.
"""

import signal
from types import FrameType, TracebackType
from typing import Optional

from typing_extensions import Self

SCHEDULERS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
SIGNALS = (*SCHEDULERS, signal.SIGINT)


def heard(signals: tuple[signal.Signals, ...] = SIGNALS) -> tuple[signal.Signals, ...]:
    """Those of some signals to listen to: not to SIGHUP where who started this process has it ignored."""
    return tuple(one for one in signals if one != signal.SIGHUP or signal.getsignal(one) != signal.SIG_IGN)


class StopRequest:
    """Catches signals for the duration of a `with` block."""

    def __init__(self, before: Optional["StopRequest"] = None, signals: tuple[signal.Signals, ...] = SIGNALS) -> None:
        """Catch nothing yet.

        Args:
            before: one around this; what it has caught counts.
            signals: which.
        """
        self._before, self._signals = before, signals
        self._signal: signal.Signals | None = None

    @property
    def signal(self) -> signal.Signals | None:
        """The last signal, or none."""
        return self._before.signal if self._signal is None and self._before is not None else self._signal

    @property
    def made(self) -> bool:
        """Whether this process has been asked to stop."""
        return self.signal is not None

    def __enter__(self) -> Self:
        self._handlers = {number: signal.signal(number, self._catch) for number in heard(self._signals)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._signal == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = signal.Signals(number)
