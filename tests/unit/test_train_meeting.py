"""Processes of one attempt meet each other and nobody else, in a store that remembers earlier attempts."""

import threading
import time

import pytest
import torch.distributed as dist

from lexalcm.distributed.rendezvous import new_space


def attempt(store: dist.Store, delays: list[float]) -> list[dist.Store | Exception]:
    """Processes, as threads, that come one after the other; what each gets."""
    spaces: list[dist.Store | Exception] = [RuntimeError("nothing")] * len(delays)

    def join(rank: int) -> None:
        time.sleep(delays[rank])
        try:
            spaces[rank] = new_space(store, rank, len(delays), timeout=20)
        except RuntimeError as error:
            spaces[rank] = error

    threads = [threading.Thread(target=join, args=(rank,)) for rank in range(len(delays))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return spaces


@pytest.mark.parametrize("late", [0, 1, 2])
def test_every_attempt_has_a_space_of_its_own_whoever_comes_late(late: int) -> None:
    store = dist.HashStore()
    for number in range(3):
        spaces = attempt(store, [0.2 if rank == late else 0.0 for rank in range(3)])
        assert all(isinstance(space, dist.PrefixStore) for space in spaces), spaces
        assert not any(space.check(["mark"]) for space in spaces)
        spaces[0].set("mark", str(number))
        assert [space.get("mark").decode() for space in spaces] == [str(number)] * 3


def test_an_attempt_in_which_one_died_early_does_not_disturb_the_next() -> None:
    store = dist.HashStore()
    attempt(store, [0.0, 0.0])
    store.set("space", "of-the-dead")  # its first process announced it and died
    store.set("of-the-dead/word/1", "an older word")
    spaces = attempt(store, [0.2, 0.0])
    spaces[1].set("mark", "x")
    assert spaces[0].get("mark") == b"x"
    assert not store.check(["of-the-dead/mark"])


def test_who_waits_in_vain_says_so() -> None:
    with pytest.raises(RuntimeError, match=r"no word from process 0 in 0\.1 s"):
        new_space(dist.HashStore(), 1, 2, timeout=0.1)
