"""Stopping when asked to: SIGTERM (a scheduler, `kill`), SIGUSR1 (Slurm before the time limit), SIGHUP (the terminal is
gone) and Ctrl-C set a flag.

The trainer checks it after each step, saves, and ends well. Nothing is done inside the signal handler, but that a
second Ctrl-C stops at once. Under `nohup`, which is to survive the terminal, SIGHUP is left alone.

While torch and the data are loaded there is nothing to save; then too a scheduler's signals set the flag, so that the
end is a good one, but Ctrl-C stops at once. This module loads nothing heavy, in order to be there from the beginning.

The first step on a GPU compiles kernels, a minute in which no handler of Python's may run: the backward pass's are
compiled in a thread of torch's own, for which the main one waits inside torch. A second thread learns of the signal
through a pipe (`signal.set_wakeup_fd`) and ends the process, which has nothing to save yet (`StopRequest.ending`).
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Optional

from typing_extensions import Self

SCHEDULERS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
SIGNALS = (*SCHEDULERS, signal.SIGINT)
SECONDS_TO_END = 5.0
"""That work is given to end by itself, once it has been asked to stop."""


def handled_signals(signals: tuple[signal.Signals, ...] = SIGNALS) -> tuple[signal.Signals, ...]:
    """Those of some signals to handle: not SIGHUP where whoever started this process has it ignored."""
    return tuple(one for one in signals if one != signal.SIGHUP or signal.getsignal(one) != signal.SIG_IGN)


class StopRequest:
    """Catches signals for the duration of a `with` block."""

    def __init__(
        self,
        before: Optional["StopRequest"] = None,
        signals: tuple[signal.Signals, ...] = SIGNALS,
        exit_code: int | None = None,
    ) -> None:
        """Catch nothing yet.

        Args:
            before: one around this; what it has caught counts.
            signals: which.
            exit_code: of a process that ends because it was asked to; none: that of the one around this, or 0.
        """
        self._before, self._signals = before, signals
        self._signal: signal.Signals | None = None
        self.exit_code: int = (0 if before is None else before.exit_code) if exit_code is None else exit_code

    @property
    def signal(self) -> signal.Signals | None:
        """The last signal, or none."""
        return self._before.signal if self._signal is None and self._before is not None else self._signal

    @property
    def requested(self) -> bool:
        """Whether this process has been asked to stop."""
        return self.signal is not None

    @contextmanager
    def ending(self, work: str, *, nothing_is_lost: bool) -> Iterator[None]:
        """Around work out of which no signal may be handled: who asks to stop is not left without an answer.

        Args:
            work: what is done, in words that finish the sentence "asked to stop while ...".
            nothing_is_lost: the process may end in the midst of it, `SECONDS_TO_END` after it was asked to; else it
                says by then what it waits for.
        """
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        over = threading.Event()

        def listen() -> None:
            while caught := os.read(reader, 64):
                if any(number in self._signals for number in caught) and not over.wait(SECONDS_TO_END):
                    if nothing_is_lost:
                        _say(f"stopped while {work}: nothing is lost, the same command resumes")
                        os._exit(self.exit_code)
                    _say(f"asked to stop while {work}: saving once that is done")

        listener = threading.Thread(target=listen, name="stop request", daemon=True)
        before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        listener.start()
        try:
            yield
        finally:
            over.set()
            signal.set_wakeup_fd(before)
            os.close(writer)
            listener.join()
            os.close(reader)

    def __enter__(self) -> Self:
        self._handlers = {number: signal.signal(number, self._catch) for number in handled_signals(self._signals)}
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


def _say(text: str) -> None:
    sys.stderr.write(f"lcm: {text}\n")
    sys.stderr.flush()
