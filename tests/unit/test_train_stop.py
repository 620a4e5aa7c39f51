import os
import signal
import subprocess
import sys
import time

import pytest

from lexalcm.distributed.signals import SCHEDULERS, SIGNALS, StopRequest


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_asks_to_stop_and_is_handled_as_before_afterwards(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
    assert signal.getsignal(number) == before


def test_a_second_interrupt_stops_at_once() -> None:
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_what_was_caught_while_loading_counts_and_ctrl_c_stops_at_once_then() -> None:
    with StopRequest(signals=SCHEDULERS) as early:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGUSR1)
        with StopRequest(early) as stop:
            assert stop.signal == signal.SIGUSR1
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.signal == signal.SIGINT
    assert early.signal == signal.SIGUSR1


def test_under_nohup_the_end_of_the_terminal_is_no_request() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.requested
    finally:
        signal.signal(signal.SIGHUP, before)


STUCK = """
import hashlib, signal, sys
from lexalcm.distributed.signals import StopRequest
with StopRequest(exit_code=7) as stop, stop.ending("compiling", nothing_is_lost={lost}):
    print("working", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", {rounds})  # no handler of Python's runs before it is done
sys.exit(3 if stop.requested else 4)
"""


def stuck(*, nothing_is_lost: bool, rounds: int) -> "subprocess.Popen[str]":
    """A process that works in C, asked to stop."""
    script = STUCK.format(lost=nothing_is_lost, rounds=rounds)
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    process.send_signal(signal.SIGTERM)
    return process


def test_work_that_no_signal_interrupts_ends_within_ten_seconds_where_nothing_is_lost() -> None:
    process = stuck(nothing_is_lost=True, rounds=2_000_000_000)
    began = time.monotonic()
    _, said = process.communicate()
    assert time.monotonic() - began < 10
    assert process.returncode == 7
    assert said == "lcm: stopped while compiling: nothing is lost, the same command resumes\n"


def test_work_that_must_not_end_says_what_is_waited_for() -> None:
    process = stuck(nothing_is_lost=False, rounds=25_000_000)
    _, said = process.communicate()
    assert process.returncode == 3
    assert said == "lcm: asked to stop while compiling: saving once that is done\n"


def test_work_that_ends_soon_says_nothing() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        with stop.ending("working", nothing_is_lost=True):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
    assert signal.getsignal(signal.SIGTERM) == before
    assert signal.set_wakeup_fd(-1) == -1
