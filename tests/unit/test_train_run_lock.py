"""Who has a run's folder, and how long another waits for it."""

import os
import socket
import threading
from pathlib import Path

import pytest

from lexalcm.distributed.world import World
from lexalcm.errors import UserError
from lexalcm.io.file_lock import FileLock
from lexalcm.train.run import lock as run_lock
from lexalcm.train.run.folder import RunFolder
from lexalcm.train.run.lock import locked


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setattr(run_lock, "PATIENCE", 0.1)
    return RunFolder(tmp_path / "runs/x")


def test_the_folder_is_free_again_afterwards(run: RunFolder) -> None:
    for _ in range(2):
        with locked(run, World()):
            assert (run.path.parent / ".x.lock").read_text() == f"{os.getpid()} {socket.gethostname()}\n"
        assert not list(run.path.parent.iterdir())


def test_who_has_it_on_this_machine_is_named_at_once(run: RunFolder) -> None:
    notes: list[str] = []
    here = rf"another lcm train \(process {os.getpid()} on {socket.gethostname()}\) is running in .*runs/x: wait for"
    with locked(run, World()), pytest.raises(UserError, match=here), locked(run, World(), notes.append):
        pass
    assert not notes


def test_another_machine_that_has_died_is_waited_for(run: RunFolder) -> None:
    """Until the file system's server gives up on it."""
    run.path.parent.mkdir()
    file = run.path.parent / ".x.lock"
    lock = FileLock(file)
    lock.acquire()
    file.write_text("17 elsewhere\n")
    end_of_lease = threading.Timer(0.5, lock.release)
    end_of_lease.start()
    notes: list[str] = []
    with locked(run, World(), notes.append):
        assert file.read_text().startswith(f"{os.getpid()} ")
    (note,) = notes
    assert note.startswith("another lcm train (process 17 on elsewhere) is running in ")
    assert "waiting up to 150 s" in note
    end_of_lease.join()
