"""Who gets a lock, who waits for it, and that nobody keeps it who is gone."""

import errno
import fcntl
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lexalcm.io.file_lock import FileLock

HOLDER = """
import os, sys, time
from pathlib import Path
from lexalcm.io.file_lock import FileLock
lock = FileLock(Path(sys.argv[1]))
assert lock.acquire(wait=0)
child = os.fork()  # as a loader process; it outlives its parent
if child:
    print(child, flush=True)
time.sleep(60)
"""


def test_one_has_it_alone_and_lets_go(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert first.acquire(wait=0)
    assert not second.acquire(wait=0)
    assert not FileLock(tmp_path / "lock", shared=True).acquire(wait=0)
    first.release()
    assert second.acquire(wait=0)


def test_many_share_it_while_nobody_has_it_alone(tmp_path: Path) -> None:
    shared = [FileLock(tmp_path / "lock", shared=True) for _ in range(2)]
    assert all(lock.acquire(wait=0) for lock in shared)
    alone = FileLock(tmp_path / "lock")
    assert not alone.acquire(wait=0)
    del shared  # a lock that nobody refers to is let go of
    assert alone.acquire(wait=0)


@pytest.mark.parametrize("wait", [10.0, float("inf")])
def test_it_is_waited_for(tmp_path: Path, wait: float) -> None:
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    first.acquire()
    timer = threading.Timer(0.2, first.release)
    begun = time.monotonic()
    timer.start()
    assert second.acquire(wait)
    assert 0.15 < time.monotonic() - begun < 5
    timer.join()


def test_the_wait_has_an_end(tmp_path: Path) -> None:
    with FileLock(tmp_path / "lock"):
        begun = time.monotonic()
        assert not FileLock(tmp_path / "lock").acquire(wait=0.2)
        assert time.monotonic() - begun >= 0.2


def test_who_waited_for_a_file_that_its_holder_removed_locks_the_next_one(tmp_path: Path) -> None:
    """Two with locks on two files of one name would both think that they are alone."""
    path = tmp_path / "lock"
    first, second = FileLock(path), FileLock(path)
    first.acquire()
    waiting = threading.Thread(target=second.acquire)
    waiting.start()
    time.sleep(0.2)
    path.unlink()
    first.release()
    waiting.join(10)
    assert second.descriptor is not None
    assert os.fstat(second.descriptor).st_ino == path.stat().st_ino
    assert not FileLock(path).acquire(wait=0)


def test_a_killed_process_leaves_no_lock_even_where_it_has_forked(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path / "lock"], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    try:
        assert not FileLock(tmp_path / "lock").acquire(wait=0)
        holder.kill()
        holder.wait()
        os.kill(child, 0)  # still there
        assert FileLock(tmp_path / "lock").acquire(wait=5)
    finally:
        os.kill(child, signal.SIGKILL)
        holder.stdout.close()


def test_a_forked_process_does_not_end_its_parents_lock(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock")
    lock.acquire()
    child = os.fork()
    if not child:
        os._exit(0 if lock.descriptor is None else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert not FileLock(tmp_path / "lock").acquire(wait=0)


def test_a_file_system_without_locks_is_said_once_and_keeps_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    with caplog.at_level(logging.WARNING):
        locks = [FileLock(tmp_path / "lock") for _ in range(2)]
        assert [(lock.acquire(wait=0), lock.excludes) for lock in locks] == [(True, False)] * 2
        for lock in locks:
            lock.release()
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{tmp_path}: the file system has no locks (Function not implemented)")


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FileLock(tmp_path / "missing" / "lock").acquire()
