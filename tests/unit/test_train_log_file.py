"""Each process of a run logs to its own file; on the screen only the main one speaks."""

import logging
import threading
import warnings
from pathlib import Path

import pytest

from lexalcm.distributed.world import World
from lexalcm.train.monitor.log_file import LogFile


def log_of(folder: Path, rank: int) -> str:
    return (folder / f"rank_{rank:05d}.log").read_text()


def work_and_fail(rank: int, folder: Path) -> None:
    with LogFile(World(rank, rank, 4)) as log:
        logging.getLogger("lexalcm.train.somewhere").info("before there was a folder")
        log.open(folder)
        logging.getLogger("some.library").warning("from a library")
        warnings.warn("from Python", UserWarning, stacklevel=1)
        _ = 1 / 0


@pytest.mark.filterwarnings("always:from Python")
@pytest.mark.parametrize("rank", [0, 3])
def test_what_a_process_is_what_libraries_warn_of_and_what_ended_it(tmp_path: Path, rank: int) -> None:
    before = warnings.showwarning, list(logging.getLogger().handlers)
    with pytest.raises(ZeroDivisionError):
        work_and_fail(rank, tmp_path / "logs")
    assert (warnings.showwarning, list(logging.getLogger().handlers)) == before
    assert [path.name for path in (tmp_path / "logs").iterdir()] == [f"rank_{rank:05d}.log"]
    first, second, *_ = log_of(tmp_path / "logs", rank).splitlines()
    assert f"process {rank} of 4, pid " in first
    assert "torch 2" in first
    assert "before there was a folder" in second
    text = log_of(tmp_path / "logs", rank)
    assert "WARNING some.library: from a library" in text
    assert "UserWarning: from Python" in text
    assert "Traceback" in text
    assert text.endswith("ZeroDivisionError: division by zero\n")


def test_only_the_main_process_shows_warnings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for rank in (0, 1):
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = lambda message, *_: print(f"shown: {message}")
            with LogFile(World(rank, rank, 2)) as log:
                log.open(tmp_path)
                warnings.warn("careful", UserWarning, stacklevel=1)
        shown.append(capsys.readouterr().out)
        assert "careful" in log_of(tmp_path, rank)
    assert shown == ["shown: careful\n", ""]


def test_a_thread_that_cannot_write_is_logged_and_another_error_is_shown_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[type[BaseException]] = []
    monkeypatch.setattr(threading, "excepthook", lambda end: shown.append(end.exc_type))
    before = threading.excepthook

    def fail(error: Exception) -> None:
        raise error

    with LogFile(World()) as log:
        log.open(tmp_path)
        for error in (OSError(28, "No space left on device"), ValueError("a mistake")):
            thread = threading.Thread(target=fail, args=[error])
            thread.start()
            thread.join()
    assert threading.excepthook is before
    assert shown == [ValueError]
    assert "No space left on device" in log_of(tmp_path, 0)
    assert "a thread was ended by ValueError" in log_of(tmp_path, 0)


def test_a_run_that_goes_on_writes_behind_what_is_there(tmp_path: Path) -> None:
    for _ in range(2):
        with LogFile(World()) as log:
            log.open(tmp_path)
    assert log_of(tmp_path, 0).count("process 0 of 1") == 2


def test_a_run_that_is_refused_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="refused"), LogFile(World()):
        raise ValueError("refused")
    assert list(tmp_path.iterdir()) == []
