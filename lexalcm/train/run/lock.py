"""One training at a time in the folder of a run, which all its processes see.

The lock's file says who has it. It stands beside the run's folder, because a run that begins anew replaces that, and
it is gone at the end. Over NFS a machine that has died keeps its locks until its lease is over, a minute or two: a run
that is put back into a queue waits for that.
"""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from lexalcm.distributed.world import World
from lexalcm.errors import UserError
from lexalcm.io.atomic import scratch_file
from lexalcm.io.file_lock import FileLock
from lexalcm.train.run.folder import RunFolder

PATIENCE = 3.0  # seconds: the run before may be just about to end
DELAY = 5.0  # seconds after which what one machine writes must be seen by another
LEASE = 150.0  # seconds that another machine, which may have died, is waited for; NFS: 90, Lustre and Ceph: 60 to 100


@contextmanager
def locked(run: RunFolder, world: World, note: Callable[[str], None] = lambda _: None) -> Iterator[None]:
    """Have the run's folder for oneself for the duration of a `with` block.

    Args:
        run: the folder.
        world: this process's place; every process must call it.
        note: says that another machine is waited for.

    Raises:
        UserError: another training is at work there.
    """
    path = run.path.with_name(f".{run.path.name}.lock")
    lock = FileLock(path)

    def acquire() -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            free = lock.acquire(PATIENCE)
            holder, host = _holder(path)
            if not free and host not in (None, socket.gethostname()):
                note(f"{holder} is running in {run.path}: waiting up to {LEASE:.0f} s in case that machine has died")
                free = lock.acquire(LEASE)
                holder, _ = _holder(path)
        except OSError as error:
            raise UserError(f"cannot write in {path.parent}: {error.strerror or error}") from error
        if not free:
            raise UserError(f"{holder} is running in {run.path}: wait for its end, or choose another --name")
        with suppress(OSError):
            path.write_text(f"{os.getpid()} {socket.gethostname()}\n")

    world.from_main(acquire)
    try:
        yield
    finally:
        if lock.descriptor is not None:
            path.unlink(missing_ok=True)
            lock.release()


def check_shared(run: RunFolder, world: World) -> None:
    """Make sure that all processes see one folder of runs: each writes a part of a checkpoint into it.

    Args:
        run: the folder of the run, which may not be there yet; what it stands in is.
        world: this process's place; every process must call it.

    Raises:
        UserError: a process is on a machine that sees another folder.
    """
    if world.size == 1:
        return
    with ExitStack() as stack:

        def make() -> Path:
            mark = stack.enter_context(scratch_file(run.path))
            mark.touch()
            return mark

        mark = world.from_main(make)
        deadline = time.monotonic() + DELAY
        while not (seen := mark.exists()) and time.monotonic() < deadline:
            time.sleep(DELAY / 100)
        places = world.gather((seen, socket.gethostname()))
    for rank, (seen, host) in enumerate(places):
        if not seen:
            raise UserError(
                f"process {rank} on {host} does not see what process 0 on {places[0][1]} writes beside {run.path}: "
                "each process writes a part of a checkpoint, so start all of them in one folder that is on a file "
                "system which all machines share"
            )


def _holder(path: Path) -> tuple[str, str | None]:
    """Who has the lock, in words, and its machine, as far as the file says it."""
    try:
        process, host = path.read_text().split()
    except (OSError, ValueError):
        return "another lcm train", None
    return f"another lcm train (process {process} on {host})", host
