"""The death of a loader process in one line; what torch says of it is its own, whichever version."""

import os
import signal
from collections.abc import Iterator

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from lexalcm.data.batches.loader_failure import report_worker_death
from lexalcm.errors import TrainingError


class Dying(IterableDataset):
    def __init__(self, number: signal.Signals) -> None:
        self.number = number

    def __iter__(self) -> Iterator[torch.Tensor]:
        yield torch.zeros(1)
        os.kill(os.getpid(), self.number)
        yield torch.zeros(1)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize(
    ("number", "message"),
    [
        (
            signal.SIGKILL,
            "process 5 was ended (Killed); where memory was full, lower data.num_workers; the same",
        ),
        (
            signal.SIGBUS,
            "process 5 was ended (Bus error); shared memory (/dev/shm) is full: give the container more",
        ),
    ],
    ids=["memory", "shared-memory"],
)
def test_what_killed_a_loader_process_is_said(number: signal.Signals, message: str) -> None:
    with pytest.raises(TrainingError) as raised, report_worker_death(5):
        list(DataLoader(Dying(number), batch_size=None, num_workers=1))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_other_errors_stay_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes differ"), report_worker_death(0):
        raise RuntimeError("shapes differ")
