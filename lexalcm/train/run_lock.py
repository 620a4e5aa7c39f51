"""One training at a time in the folder of a run.

The system holds the lock for the main process and lets go of it however that ends, also when it is killed. Over NFS it
holds between machines too. The file stands beside the run's folder, because a run that begins anew replaces that. It is
gone at the end: who waits for it meanwhile sees that its file has lost its name, and makes a new one.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from lexalcm.errors import UserError
from lexalcm.train.run_folder import RunFolder
from lexalcm.train.world import World

PATIENCE = 3.0  # seconds: the run before may be just about to end


@contextmanager
def locked(run: RunFolder, world: World) -> Iterator[None]:
    """Have the run's folder for oneself for the duration of a `with` block.

    Raises:
        UserError: another training is at work there.
    """
    path = run.path.with_name(f".{run.path.name}.lock")
    lock = FileLock(path, timeout=PATIENCE)

    def acquire() -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except OSError as error:
            if not isinstance(error, Timeout):
                raise UserError(f"cannot write in {path.parent}: {error.strerror or error}") from error
            raise UserError(
                f"another lcm train is at work in {run.path}: wait for its end, or choose another --name"
            ) from error

    world.from_main(acquire)
    try:
        yield
    finally:
        if lock.is_locked:
            path.unlink(missing_ok=True)
        lock.release()
