import os
import signal

import pytest

from lexalcm.train.stop import SCHEDULERS, SIGNALS, StopRequest


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_asks_to_stop_and_is_handled_as_before_afterwards(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop.made
        os.kill(os.getpid(), number)
        assert stop.made
    assert signal.getsignal(number) == before


def test_a_second_interrupt_stops_at_once() -> None:
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.made
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
            assert not stop.made
    finally:
        signal.signal(signal.SIGHUP, before)
