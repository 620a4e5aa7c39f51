"""Finding the process that holds up all others, and ending the run then.

Processes of a run wait for each other several times a step, so that one that hangs (a dead disk, a driver, a machine
that was unplugged) would stop all of them in silence, inside calls that nothing can interrupt. Therefore each process
has a thread beside its work that sends a heartbeat to a shared store every few seconds: that it is there, and what its
work is at. The main process monitors all of them, the others the main process.

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

HEARTBEATS_PER_TIMEOUT = 20
MIN_INTERVAL, MAX_INTERVAL = 0.1, 10.0  # seconds between two heartbeats
SILENT = "not answered for {:.0f} s: stopped, or the machine or its network is down"
STORE_LOST = 60.0  # seconds in which the work ends by itself when the store has ended
SHUTDOWN_SECONDS = 2.0  # that the threads have to end; one that waits for a store that does not answer is left to it
MAX_PLACES = 3  # different places that a diagnosis names at most, those with the fewest processes first

logger = logging.getLogger(__name__)


class Heartbeat(NamedTuple):
    """What a process has last sent."""

    number: int  # of the heartbeat
    progress: int  # grows with every piece of work that is begun
    work: str  # what it does, in words that finish the sentence "it was ..."
    place: str = ""  # where its main thread is, without spaces: file, line and function


@dataclass
class _ProcessState:
    last: Heartbeat
    silent: float = 0.0  # seconds since its last heartbeat
    stalled: float = 0.0  # seconds since its work last made progress


class HeartbeatMonitor:
    """Finds out from heartbeats which processes hold up the others."""

    def __init__(self, hosts: Mapping[int, str], timeout: float) -> None:
        """Begin.

        Args:
            hosts: the machine of each monitored process, by rank.
            timeout: seconds that a process may keep the others waiting.
        """
        self._hosts = hosts
        self._timeout = timeout
        self._processes: dict[int, _ProcessState] = {}

    def update(self, heartbeats: Mapping[int, Heartbeat], seconds: float) -> str | None:
        """Take the latest heartbeats by rank, `seconds` after the previous ones; gives the diagnosis, if any."""
        for rank, new in heartbeats.items():
            # Time counts from the first heartbeat on.
            process = self._processes.setdefault(rank, _ProcessState(new, -seconds, -seconds))
            process.silent = 0.0 if new.number != process.last.number else process.silent + seconds
            process.stalled = 0.0 if new.progress != process.last.progress else process.stalled + seconds
            process.last = new
        gone = [rank for rank, process in self._processes.items() if process.silent > self._timeout]
        if gone:
            return f"{self._names(gone)} {SILENT.format(self._timeout)}"
        if any(process.stalled <= self._timeout for process in self._processes.values()) or len(self._processes) < 2:
            return None
        least = min(process.last.progress for process in self._processes.values())
        behind = [rank for rank, process in self._processes.items() if process.last.progress == least]
        work = self._processes[behind[0]].last.work
        advice = "raise train.timeout if this may take so long"
        if len(behind) == len(self._processes):
            diagnosis = f"no process has made progress for {self._timeout:.0f} s, all were {work}"
        else:
            diagnosis = f"{self._names(behind)} made no progress for {self._timeout:.0f} s: it was {work}"
        return f"{diagnosis}, {self._places(behind)}; {advice}"

    def _places(self, ranks: list[int]) -> str:
        """Where processes are, the odd ones out first."""
        places: dict[str, list[int]] = {}
        for rank in ranks:
            places.setdefault(self._processes[rank].last.place, []).append(rank)
        fewest = sorted(places.items(), key=lambda item: len(item[1]))[:MAX_PLACES]
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
    """The threads that send and monitor heartbeats."""

    def __init__(self, store: dist.Store, rank: int, size: int, timeout: float, *, reports: bool) -> None:
        """Begin.

        Args:
            store: shared by all processes; this object must be the only one to use it.
            rank: this process's.
            size: the number of processes.
            timeout: seconds that a process may keep the others waiting.
            reports: whether this process says so when the main process does not answer.
        """
        self._store, self._rank, self._size, self._timeout = store, rank, size, timeout
        self._reports = reports or rank == 0
        self._interval = min(max(timeout / HEARTBEATS_PER_TIMEOUT, MIN_INTERVAL), MAX_INTERVAL)
        self._number, self._progress, self._work = 0, 0, "starting"
        self._main_host = "unknown"
        self._store_lost = False
        self._closed = threading.Event()
        self._threads = [
            threading.Thread(target=target, name=f"lexalcm{target.__name__}", daemon=True)
            for target in (self._exchange_heartbeats, self._watch_exchange)
        ]
        for thread in self._threads:
            thread.start()

    def at(self, work: str) -> None:
        """Say what this process does from now on, in words that finish the sentence "it was ..."."""
        self._work = work
        self._progress += 1

    def close(self) -> None:
        """Stop watching; the threads are gone before the store is."""
        self._closed.set()
        for thread in self._threads:
            thread.join(SHUTDOWN_SECONDS)

    def _exchange_heartbeats(self) -> None:
        monitored = range(self._size) if self._rank == 0 else range(1)
        keys = [f"heartbeat/{rank}" for rank in monitored]
        try:
            self._send()
            self._store.set(f"host/{self._rank}", socket.gethostname())
            hosts = [host.decode() for host in self._store.multi_get([f"host/{rank}" for rank in monitored])]
            self._main_host = hosts[0]
            monitor = HeartbeatMonitor(dict(zip(monitored, hosts, strict=True)), self._timeout)
            before = time.monotonic()
            while not self._closed.wait(self._interval):
                self._send()
                texts = self._store.multi_get(keys)
                heartbeats = {rank: _parse(text) for rank, text in zip(monitored, texts, strict=True)}
                now = time.monotonic()
                diagnosis = monitor.update(heartbeats, min(now - before, 2 * self._interval))
                before = now
                if self._rank != 0 and self._store.check(["diagnosis"]):
                    _end(None)  # the main process has reported it
                if diagnosis:
                    self._store.set("diagnosis", diagnosis)
                    _end(diagnosis if self._reports else None, after=2 * self._interval if self._rank == 0 else 0.0)
        except RuntimeError:  # the store has ended: the work notices by itself, or the other thread ends the process
            self._store_lost = True

    def _send(self) -> None:
        self._number += 1
        self._store.set(f"heartbeat/{self._rank}", f"{self._number} {self._progress} {_place()} {self._work}")

    def _watch_exchange(self) -> None:
        number, quiet, before = self._number, 0.0, time.monotonic()
        while not self._closed.wait(self._interval):
            now = time.monotonic()
            quiet = 0.0 if number != self._number else quiet + min(now - before, 2 * self._interval)
            number, before = self._number, now
            if quiet > (min(self._timeout, STORE_LOST) if self._store_lost else self._timeout + 4 * self._interval):
                lost = f"process 0 (host {self._main_host}) has {SILENT.format(self._timeout)}"
                _end(lost if self._reports else None)


def _parse(text: bytes) -> Heartbeat:
    number, progress, place, work = text.decode().split(" ", 3)
    return Heartbeat(int(number), int(progress), work, place)


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
    logger.error("ended because the run makes no progress; threads are at\n%s", "\n".join(stacks))


def _end(diagnosis: str | None, after: float = 0.0) -> None:
    """Print the diagnosis, then end this process after so many seconds, whatever its other threads do."""
    if diagnosis is not None:
        sys.stderr.write(f"lcm: {diagnosis}\n")
        sys.stderr.flush()
    log = threading.Thread(target=_log_stacks, daemon=True)  # the log's disk may be what hangs
    log.start()
    log.join(SHUTDOWN_SECONDS)
    time.sleep(after)  # the others read the diagnosis, and the store may end with this process
    os._exit(1)
