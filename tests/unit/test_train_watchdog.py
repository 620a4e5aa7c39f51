"""Which process holds up the others, diagnosed from their heartbeats."""

import threading

import torch.distributed as dist

from lexalcm.distributed.heartbeat import Heartbeat, HeartbeatMonitor, Watchdog

HOSTS = {0: "alpha", 1: "beta", 2: "beta"}


def diagnoses(
    *rounds: dict[int, tuple[int, str]], silent: tuple[int, ...] = (), timeout: float = 10
) -> list[str | None]:
    """The diagnosis after each round, 4 s apart; `rounds` give progress and work, `silent` processes send nothing."""
    monitor = HeartbeatMonitor(HOSTS, timeout)
    found = []
    for number, sent in enumerate(rounds):
        new = {rank: Heartbeat(0 if rank in silent else number, *state) for rank, state in sent.items()}
        found.append(monitor.update(new, 4.0))
    return found


def test_a_process_that_sends_nothing_any_more_is_gone() -> None:
    rounds = [{0: (n, "computing"), 1: (0, "computing"), 2: (n, "computing")} for n in range(4)]
    *before, last = diagnoses(*rounds, silent=(1,))
    assert before == [None] * 3
    assert last == "process 1 (host beta) has not answered for 10 s: stopped, or the machine or its network is down"


def test_where_none_makes_progress_the_one_behind_is_named_with_what_it_does() -> None:
    stuck = {0: (7, "computing"), 1: (6, "reading data"), 2: (7, "computing")}
    *before, last = diagnoses(stuck, stuck, stuck, stuck)
    assert before == [None] * 3
    assert last is not None
    assert last.startswith("process 1 (host beta) has made no progress for 10 s: it was reading data")
    assert "train.timeout" in last


def test_where_all_are_at_the_same_place_none_is_blamed() -> None:
    stuck = dict.fromkeys(HOSTS, (7, "computing"))
    last = diagnoses(stuck, stuck, stuck, stuck)[-1]
    assert last is not None
    assert last.startswith("no process has made progress for 10 s, all were computing")


def test_where_all_are_at_the_same_place_the_odd_ones_lines_come_first() -> None:
    hosts = dict.fromkeys(range(64), "alpha") | {17: "beta"}
    monitor = HeartbeatMonitor(hosts, 10)
    sent = {rank: Heartbeat(0, 7, "computing", "torch/graph.py:865(backward)") for rank in hosts}
    sent[17] = Heartbeat(0, 7, "computing", "mine.py:3(loop)")
    for number in range(4):
        last = monitor.update({rank: one._replace(number=number) for rank, one in sent.items()}, 4.0)
    assert last == (
        "no process has made progress for 10 s, all were computing, process 17 (host beta) in mine.py:3(loop); "
        "63 processes (0 on alpha, ...) in torch/graph.py:865(backward); raise train.timeout if this may take so long"
    )


def test_slow_work_is_no_hanging() -> None:
    """Every process goes on now and then, one always later than the others."""
    rounds = [{0: (n // 2, "a"), 1: ((n - 1) // 2, "a"), 2: (n // 2, "a")} for n in range(1, 20)]
    assert diagnoses(*rounds) == [None] * 19


def test_who_monitors_the_main_process_alone_diagnoses_its_silence_only() -> None:
    waiting = {0: (3, "working in the run's folder")}
    assert diagnoses(*[waiting] * 9) == [None] * 9
    assert diagnoses(*[waiting] * 9, silent=(0,))[-1] is not None


def test_who_watches_no_longer_uses_the_store_no_longer() -> None:
    before = threading.active_count()
    watchdog = Watchdog(dist.HashStore(), 0, 1, timeout=60, reports=True)
    assert threading.active_count() == before + 2
    watchdog.close()
    assert threading.active_count() == before
