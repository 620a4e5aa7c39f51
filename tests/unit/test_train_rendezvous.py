"""Processes of one attempt find each other and nobody else, in a store that remembers earlier attempts."""

import threading
import time

import pytest
import torch.distributed as dist

from lexalcm.distributed.rendezvous import attempt_store


def attempt(store: dist.Store, delays: list[float]) -> list[dist.Store | Exception]:
    """Processes, as threads, that come one after the other; what each gets."""
    stores: list[dist.Store | Exception] = [RuntimeError("nothing")] * len(delays)

    def join(rank: int) -> None:
        time.sleep(delays[rank])
        try:
            stores[rank] = attempt_store(store, rank, len(delays), timeout=20)
        except RuntimeError as error:
            stores[rank] = error

    threads = [threading.Thread(target=join, args=(rank,)) for rank in range(len(delays))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return stores


@pytest.mark.parametrize("late", [0, 1, 2])
def test_every_attempt_has_a_store_of_its_own_whoever_comes_late(late: int) -> None:
    store = dist.HashStore()
    for number in range(3):
        stores = attempt(store, [0.2 if rank == late else 0.0 for rank in range(3)])
        assert all(isinstance(one, dist.PrefixStore) for one in stores), stores
        assert not any(one.check(["mark"]) for one in stores)
        stores[0].set("mark", str(number))
        assert [one.get("mark").decode() for one in stores] == [str(number)] * 3


def test_an_attempt_in_which_one_died_early_does_not_disturb_the_next() -> None:
    store = dist.HashStore()
    attempt(store, [0.0, 0.0])
    store.set("attempt", "of-the-dead")  # its first process announced it and died
    store.set("of-the-dead/token/1", "an older token")
    stores = attempt(store, [0.2, 0.0])
    stores[1].set("mark", "x")
    assert stores[0].get("mark") == b"x"
    assert not store.check(["of-the-dead/mark"])


def test_who_waits_in_vain_says_so() -> None:
    with pytest.raises(RuntimeError, match=r"no answer from process 0 in 0\.1 s"):
        attempt_store(dist.HashStore(), 1, 2, timeout=0.1)
