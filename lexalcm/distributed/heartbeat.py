"""Finding the process that holds up all others, and ending the run then.

Processes of a run wait for each other several times a step, so that one that hangs (a dead disk, a driver, a machine
that was unplugged) would stop all of them in silence, inside calls that nothing can interrupt. Therefore each process
has a thread beside its work that tells a shared store, every few seconds, that it is there and what its work is at.
The main process looks at all of them, the others at the main process.

The store may live in the main process or beside it. When its machine hangs, nothing answers any more, not even with an
error; a second thread that only watches the first one's time notices.

Who finds the culprit names it on standard error and ends the process with code 1, since the work itself may be stuck
where no exception reaches it. Where all are at the same piece of work, it says in which line of which file they are:
those that wait for one that loops or is stuck elsewhere are all in one call. Each process also writes where its threads
are to its log. Only time in which this process runs counts, so that a job that was suspended as a whole goes on
afterwards.
"""

import logging
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch.distributed as dist

TICKS = 20  # times that a process tells something in the time that it may keep silent
SHORTEST, LONGEST = 0.1, 10.0  # seconds between two times
SILENT = "not answered for {:.0f} s: stopped, or the machine or its network is down"
STORE_LOST = 60.0  # seconds in which the work ends by itself when the store has ended
FAREWELL = 2.0  # seconds that the threads have to end; one that waits for a store that does not answer is left to it
PLACES = 3  # different places that a verdict names at most, those with the fewest processes first

logger = logging.getLogger(__name__)


class Told(NamedTuple):
    """What a process has told last."""

    number: int  # of the telling
    progress: int  # grows with every piece of work that is begun
    work: str  # what it does, in words that finish the sentence "it was ..."
    place: str = ""  # where its main thread is, without spaces: file, line and function


@dataclass
class _Heard:
    last: Told
    silent: float = 0.0  # seconds since it last told something
    still: float = 0.0  # seconds since its work last went on


class Judge:
    """Finds out from what processes tell which of them hold up the others."""

    def __init__(self, hosts: Mapping[int, str], timeout: float) -> None:
        """Begin.

        Args:
            hosts: the machine of each process that is listened to, by rank.
            timeout: seconds that a process may keep the others waiting.
        """
        self._hosts = hosts
        self._timeout = timeout
        self._heard: dict[int, _Heard] = {}

    def hear(self, told: Mapping[int, Told], seconds: float) -> str | None:
        """Take in what was told by rank, `seconds` after the last time; gives the verdict, if there is one."""
        for rank, new in told.items():
            heard = self._heard.setdefault(rank, _Heard(new, -seconds, -seconds))  # time counts from the first word on
            heard.silent = 0.0 if new.number != heard.last.number else heard.silent + seconds
            heard.still = 0.0 if new.progress != heard.last.progress else heard.still + seconds
            heard.last = new
        gone = [rank for rank, heard in self._heard.items() if heard.silent > self._timeout]
        if gone:
            return f"{self._names(gone)} {SILENT.format(self._timeout)}"
        if any(heard.still <= self._timeout for heard in self._heard.values()) or len(self._heard) < 2:
            return None
        least = min(heard.last.progress for heard in self._heard.values())
        behind = [rank for rank, heard in self._heard.items() if heard.last.progress == least]
        work = self._heard[behind[0]].last.work
        advice = "raise train.timeout if this may take so long"
        if len(behind) == len(self._heard):
            said = f"no process has gone on for {self._timeout:.0f} s, all were {work}"
        else:
            said = f"{self._names(behind)} not gone on for {self._timeout:.0f} s: it was {work}"
        return f"{said}, {self._places(behind)}; {advice}"

    def _places(self, ranks: list[int]) -> str:
        """Where processes are, the odd ones out first."""
        places: dict[str, list[int]] = {}
        for rank in ranks:
            places.setdefault(self._heard[rank].last.place, []).append(rank)
        fewest = sorted(places.items(), key=lambda item: len(item[1]))[:PLACES]
        return "; ".join(
            (
                f"process {ranks[0]} (host {self._hosts[ranks[0]]})"
                if len(ranks) == 1
                else f"{len(ranks)} processes ({ranks[0]} on {self._hosts[ranks[0]]}, ...)"
            )
            + f" in {place}"
            for place, ranks in fewest
        )

    def _names(self, ranks: list[int]) -> str:
        names = [f"process {rank} (host {self._hosts[rank]})" for rank in ranks]
        return f"{', '.join(names)} {'has' if len(names) == 1 else 'have'}"


class Watchdog:
    """The threads that tell and watch."""

    def __init__(self, store: dist.Store, rank: int, size: int, timeout: float, *, speaks: bool) -> None:
        """Begin.

        Args:
            store: shared by all processes; this object must be the only one to use it.
            rank: this process's.
            size: the number of processes.
            timeout: seconds that a process may keep the others waiting.
            speaks: whether this process says it when the main process does not answer.
        """
        self._store, self._rank, self._size, self._timeout = store, rank, size, timeout
        self._speaks = speaks or rank == 0
        self._interval = min(max(timeout / TICKS, SHORTEST), LONGEST)
        self._number, self._progress, self._work = 0, 0, "starting"
        self._main_host = "unknown"
        self._store_lost = False
        self._closed = threading.Event()
        self._threads = [
            threading.Thread(target=target, name=f"lexalcm{target.__name__}", daemon=True)
            for target in (self._talk, self._watch_the_talk)
        ]
        for thread in self._threads:
            thread.start()

    def at(self, work: str) -> None:
        """Say what this process does from now on, in words that finish the sentence "it was ..."."""
        self._work = work
        self._progress += 1

    def close(self) -> None:
        """Watch no longer; the threads are gone before the store is."""
        self._closed.set()
        for thread in self._threads:
            thread.join(FAREWELL)

    def _talk(self) -> None:
        watched = range(self._size) if self._rank == 0 else range(1)
        tellings = [f"told/{rank}" for rank in watched]
        try:
            self._tell()
            self._store.set(f"host/{self._rank}", socket.gethostname())
            hosts = [host.decode() for host in self._store.multi_get([f"host/{rank}" for rank in watched])]
            self._main_host = hosts[0]
            judge = Judge(dict(zip(watched, hosts, strict=True)), self._timeout)
            before = time.monotonic()
            while not self._closed.wait(self._interval):
                self._tell()
                told = {rank: _read(text) for rank, text in zip(watched, self._store.multi_get(tellings), strict=True)}
                now = time.monotonic()
                verdict = judge.hear(told, min(now - before, 2 * self._interval))
                before = now
                if self._rank != 0 and self._store.check(["verdict"]):
                    _end(None)  # the main process has said it
                if verdict:
                    self._store.set("verdict", verdict)
                    _end(verdict if self._speaks else None, after=2 * self._interval if self._rank == 0 else 0.0)
        except RuntimeError:  # the store has ended: the work notices by itself, or the other thread ends the process
            self._store_lost = True

    def _tell(self) -> None:
        self._number += 1
        self._store.set(f"told/{self._rank}", f"{self._number} {self._progress} {_place()} {self._work}")

    def _watch_the_talk(self) -> None:
        number, quiet, before = self._number, 0.0, time.monotonic()
        while not self._closed.wait(self._interval):
            now = time.monotonic()
            quiet = 0.0 if number != self._number else quiet + min(now - before, 2 * self._interval)
            number, before = self._number, now
            if quiet > (min(self._timeout, STORE_LOST) if self._store_lost else self._timeout + 4 * self._interval):
                _end(f"process 0 (host {self._main_host}) has {SILENT.format(self._timeout)}" if self._speaks else None)


def _read(text: bytes) -> Told:
    number, progress, place, work = text.decode().split(" ", 3)
    return Told(int(number), int(progress), work, place)


def _place() -> str:
    """Where the main thread is now."""
    frame = sys._current_frames()[threading.main_thread().ident or 0]
    file = "/".join(Path(frame.f_code.co_filename).parts[-3:])
    return f"{file}:{frame.f_lineno}({frame.f_code.co_name})".replace(" ", "_")


def _log_stacks() -> None:
    """Write to this process's log where its threads are."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    stacks = [
        f"{names.get(number, number)}:\n{''.join(traceback.format_stack(frame))}"
        for number, frame in sys._current_frames().items()
        if number != threading.get_ident()
    ]
    logger.error("ended because the run does not go on; threads are at\n%s", "\n".join(stacks))


def _end(verdict: str | None, after: float = 0.0) -> None:
    """End this process, whatever its other threads do; the verdict is said first, the end may come so much later."""
    if verdict is not None:
        sys.stderr.write(f"lcm: {verdict}\n")
        sys.stderr.flush()
    log = threading.Thread(target=_log_stacks, daemon=True)  # the log's disk may be what hangs
    log.start()
    log.join(FAREWELL)
    time.sleep(after)  # the others read the verdict, and the store may end with this process
    os._exit(1)
