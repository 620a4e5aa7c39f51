"""The death of a loader process, reported in one line.

Torch notices it wherever the process that reads is at work, and raises an error without a class of its own, under a
traceback that leads nowhere: the system has killed the process, mostly because memory was full.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from lexalcm.errors import TrainingError

BEGINNING = "DataLoader worker (pid"
"""Of what torch says of a loader process that has died, whatever it was."""

FULL_SHARED_MEMORY = "Bus error"
"""What a process dies of that writes to shared memory where none is left."""


@contextmanager
def report_worker_death(rank: int) -> Iterator[None]:
    """Turn the death of a loader process into an error of one line for the duration of a `with` block.

    Args:
        rank: of the process that it loads for.

    Raises:
        TrainingError: a loader process has died.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith(BEGINNING):
            raise
        how = re.search(r"killed by signal: ([\w ]+)", f"{error} {error.__cause__}")  # in either, as it happens
        died = f"was ended ({how[1]})" if how else "ended"
        why = (
            "shared memory (/dev/shm) is full: give the container more, or lower data.num_workers"
            if how and how[1] == FULL_SHARED_MEMORY
            else "where memory was full, lower data.num_workers"
        )
        raise TrainingError(
            f"a loader process of process {rank} {died}; {why}; the same command resumes from the last checkpoint"
        ) from error
