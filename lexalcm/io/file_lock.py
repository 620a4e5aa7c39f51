"""Locks between the processes of a machine, on files: the one kind that this package uses.

The system holds a lock (`flock`) and lets go of it however its process ends, also when it is killed. Over NFS it holds
between machines too, and there a machine that has died keeps it until its lease is over. Processes that a holder forks,
such as loaders, do not have it. A file system may have no locks at all: then everybody gets what he asks for, and the
log says so once for each folder.
"""

import errno
import fcntl
import logging
import math
import os
import time
import weakref
from functools import cache
from pathlib import Path
from types import TracebackType

logger = logging.getLogger(__name__)

POLL_INTERVAL = 0.05  # seconds between two tries, where waiting has an end
_TAKEN = (errno.EAGAIN, errno.EACCES)
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)


class FileLock:
    """A lock on the file at `path`, which is made where it is missing and stays; `with` waits for it without end.

    Args:
        path: the file.
        shared: many may have it at once, and none while somebody has it alone.

    Attributes:
        descriptor: the open file while it is locked; None: it is not.
        excludes: whether the file system has locks; False is known only after `acquire`.
    """

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        self.path = path
        self.descriptor: int | None = None
        self.excludes = True
        self._operation = fcntl.LOCK_SH if shared else fcntl.LOCK_EX

    def acquire(self, wait: float = math.inf) -> bool:
        """Take the lock; False where somebody else still has it after `wait` seconds.

        Raises:
            OSError: the file cannot be opened or made.
        """
        deadline = time.monotonic() + wait
        while not self._try(block=wait == math.inf):
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_INTERVAL)
        return True

    def release(self) -> None:
        """Let go of the lock, if this process has it."""
        if self.descriptor is not None:
            if self.excludes:
                fcntl.flock(self.descriptor, fcntl.LOCK_UN)  # closing alone would not do where a process is just forked
            self._close()

    def __enter__(self) -> int:
        """Wait for the lock; returns the open file."""
        self.acquire()
        assert self.descriptor is not None
        return self.descriptor

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()

    def _close(self) -> None:
        assert self.descriptor is not None
        _held.discard(self)
        os.close(self.descriptor)
        self.descriptor = None

    def _try(self, *, block: bool) -> bool:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, self._operation | (0 if block else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(descriptor)
                if error.errno in _TAKEN:
                    return False
                raise
            self.excludes = False
            _warn(self.path.parent, error.strerror or str(error))
        if os.fstat(descriptor).st_nlink == 0:  # its holder has removed the file: others lock the next one of this name
            os.close(descriptor)
            return False
        self.descriptor = descriptor
        _held.add(self)
        return True


_held: "weakref.WeakSet[FileLock]" = weakref.WeakSet()


def _let_go_in_child() -> None:
    for lock in list(_held):
        lock._close()  # the parent's descriptor keeps the lock


os.register_at_fork(after_in_child=_let_go_in_child)


@cache
def _warn(folder: Path, reason: str) -> None:
    logger.warning("%s: the file system has no locks (%s): nothing keeps two programs apart there", folder, reason)
