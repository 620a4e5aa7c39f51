"""How the processes of a run find each other: at the address that their launcher names, in a store that all share.

torchrun keeps one store for all its attempts, and what a dead attempt has left there would lead a new one astray: a
process would connect to the address of one that is gone. So the processes of an attempt agree on a prefix of its own.
"""

import os
import time
import uuid
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from lexalcm.errors import TrainingError

POLL = 0.02  # seconds


def join_process_group(backend: str, rank: int, size: int, timeout: float) -> dist.Store:
    """Find the other processes of the run and make the default process group.

    Args:
        backend: `nccl` or `gloo`.
        rank: this process's.
        size: the number of processes.
        timeout: seconds to wait for the others; the group's operations have twice as long.

    Returns:
        The store that all share, new with this attempt.

    Raises:
        TrainingError: they do not find each other.
    """
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    try:
        store, rank, size = next(rendezvous("env://", timeout=timedelta(seconds=timeout)))
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            store = attempt_store(store, rank, size, timeout)
        dist.init_process_group(
            backend, store=store, rank=rank, world_size=size, timeout=timedelta(seconds=2 * timeout)
        )
    except RuntimeError as error:
        raise TrainingError(
            f"process {rank} of {size} could not join the others at {place} "
            f"({str(error).splitlines()[0]}): is every machine there, and is that address open between them? Where "
            "machines have several networks, name one: GLOO_SOCKET_IFNAME=eth0 NCCL_SOCKET_IFNAME=eth0"
        ) from error
    return store


def attempt_store(store: dist.Store, rank: int, size: int, timeout: float) -> dist.Store:
    """The part of a store that only the processes of this attempt use, whatever earlier ones have left there.

    The first process announces a new prefix. Another takes a prefix for new only when the first acknowledges, under it,
    the token that this very process has just drawn.

    Raises:
        RuntimeError: not all were there in time.
    """
    deadline = time.monotonic() + timeout
    token = uuid.uuid4().hex
    if rank == 0:
        prefix = token
        store.set("attempt", prefix)
        tokens = store.multi_get([f"{prefix}/token/{other}" for other in range(1, size)]) if size > 1 else []
        for other, answer in enumerate(tokens, start=1):
            store.set(f"{prefix}/acknowledged/{other}", answer.decode())
        return dist.PrefixStore(prefix, store)
    while True:
        if store.check(["attempt"]):
            prefix = store.get("attempt").decode()
            store.set(f"{prefix}/token/{rank}", token)
            acknowledged = f"{prefix}/acknowledged/{rank}"
            if store.check([acknowledged]) and store.get(acknowledged).decode() == token:
                return dist.PrefixStore(prefix, store)
        if time.monotonic() > deadline:
            raise RuntimeError(f"no answer from process 0 in {timeout:g} s")
        time.sleep(POLL)
