"""Which process holds up the others, told from what they tell."""

import threading

import torch.distributed as dist

from lexalcm.distributed.heartbeat import Judge, Told, Watchdog

HOSTS = {0: "alpha", 1: "beta", 2: "beta"}


def verdicts(
    *rounds: dict[int, tuple[int, str]], silent: tuple[int, ...] = (), timeout: float = 10
) -> list[str | None]:
    """The verdict after each round, 4 s apart; `rounds` give progress and work, `silent` processes tell nothing new."""
    judge = Judge(HOSTS, timeout)
    heard = []
    for number, told in enumerate(rounds):
        new = {rank: Told(0 if rank in silent else number, *said) for rank, said in told.items()}
        heard.append(judge.hear(new, 4.0))
    return heard


def test_a_process_that_tells_nothing_any_more_is_gone() -> None:
    rounds = [{0: (n, "computing"), 1: (0, "computing"), 2: (n, "computing")} for n in range(4)]
    *before, last = verdicts(*rounds, silent=(1,))
    assert before == [None] * 3
    assert last == "process 1 (host beta) has not answered for 10 s: stopped, or the machine or its network is down"


def test_where_none_goes_on_the_one_behind_is_named_with_what_it_does() -> None:
    stuck = {0: (7, "computing"), 1: (6, "reading data"), 2: (7, "computing")}
    *before, last = verdicts(stuck, stuck, stuck, stuck)
    assert before == [None] * 3
    assert last is not None
    assert last.startswith("process 1 (host beta) has not gone on for 10 s: it was reading data")
    assert "train.timeout" in last


def test_where_all_are_at_the_same_place_none_is_blamed() -> None:
    stuck = dict.fromkeys(HOSTS, (7, "computing"))
    last = verdicts(stuck, stuck, stuck, stuck)[-1]
    assert last is not None
    assert last.startswith("no process has gone on for 10 s, all were computing")


def test_where_all_are_at_the_same_place_the_odd_ones_lines_are_told_first() -> None:
    hosts = dict.fromkeys(range(64), "alpha") | {17: "beta"}
    judge = Judge(hosts, 10)
    told = {rank: Told(0, 7, "computing", "torch/graph.py:865(backward)") for rank in hosts}
    told[17] = Told(0, 7, "computing", "mine.py:3(loop)")
    for number in range(4):
        last = judge.hear({rank: one._replace(number=number) for rank, one in told.items()}, 4.0)
    assert last == (
        "no process has gone on for 10 s, all were computing, process 17 (host beta) in mine.py:3(loop); "
        "63 processes (0 on alpha, ...) in torch/graph.py:865(backward); raise train.timeout if this may take so long"
    )


def test_slow_work_is_no_hanging() -> None:
    """Every process goes on now and then, one always later than the others."""
    rounds = [{0: (n // 2, "a"), 1: ((n - 1) // 2, "a"), 2: (n // 2, "a")} for n in range(1, 20)]
    assert verdicts(*rounds) == [None] * 19


def test_who_listens_to_the_main_process_alone_judges_its_silence_only() -> None:
    waiting = {0: (3, "working in the run's folder")}
    assert verdicts(*[waiting] * 9) == [None] * 9
    assert verdicts(*[waiting] * 9, silent=(0,))[-1] is not None


def test_who_watches_no_longer_uses_the_store_no_longer() -> None:
    before = threading.active_count()
    watchdog = Watchdog(dist.HashStore(), 0, 1, timeout=60, speaks=True)
    assert threading.active_count() == before + 2
    watchdog.close()
    assert threading.active_count() == before
