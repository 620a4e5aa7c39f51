"""What a run may go on with; a start that is killed, at any of its steps on disk, can be made again."""

import hashlib
import io
import json
import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lexalcm.config import load_settings
from lexalcm.errors import ConfigError, TrainingError, UserError
from lexalcm.train.checkpoint.format import TrainState, checkpoint_name, read_train_state
from lexalcm.train.run.folder import Fingerprints, RunFolder
from lexalcm.train.run.resume import StartPoint, check_unchanged, keep_lines_until, prepare_run_folder, resolve_resume
from lexalcm.train.settings import RunConfig

CHANGES = {"open", "os.mkdir", "os.rename", "os.rmdir", "os.remove", "os.chmod"}
FINGERPRINTS = Fingerprints(weights="1", dataset="2")
CONFIG = RunConfig(name="x")
RUN = RunFolder(Path("runs/x"))


def no_checkpoint_yet() -> None:
    begin()
    RUN.logs.mkdir()
    (RUN.logs / "rank_00000.log").write_text("a line\n")
    RUN.metrics.write_text('{"step": 1}\n')


def with_checkpoints() -> None:
    no_checkpoint_yet()
    for step in (1, 2):
        (RUN.checkpoints / f"step_{step:08d}").mkdir()
        (RUN.checkpoints / f"step_{step:08d}" / "state.json").write_text("{}")
    shutil.copytree(RUN.checkpoints, RUN.model)


def begin() -> None:
    prepare_run_folder(RUN, CONFIG, FINGERPRINTS, StartPoint(TrainState()), print)


def kill_at_change(number: int) -> bool:
    """Begin the run in a process that is killed before it changes something on disk for so many times; whether it was.

    A file that is opened counts as changed.
    """
    child = os.fork()
    if child == 0:
        left = number

        def count(event: str, _: object) -> None:
            nonlocal left
            if event not in CHANGES:
                return
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        code = 1
        try:
            sys.addaudithook(count)
            begin()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, -signal.SIGKILL)
    return code != 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize(("before", "resume"), [(no_checkpoint_yet, "auto"), (with_checkpoints, "never")])
def test_a_start_that_is_killed_can_be_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: Callable[[], None], resume: str
) -> None:
    monkeypatch.chdir(tmp_path)
    number = 0
    killed = True
    while killed:
        shutil.rmtree("runs", ignore_errors=True)
        Path("runs").mkdir()
        before()
        killed = kill_at_change(number)
        start = resolve_resume(RUN, CONFIG, FINGERPRINTS, resume=resume, overwrite=resume == "never", note=print)
        assert start.checkpoint is None
        begin()
        assert {path.name for path in RUN.path.iterdir()} == {"config.yaml", "run.json", "checkpoints"}
        assert [path.name for path in Path("runs").iterdir()] == ["x"]
        number += 1
    assert number > 5


def test_a_run_whose_checkpoints_are_gone_is_not_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the disk that they are on is not mounted."""
    monkeypatch.chdir(tmp_path)
    begin()
    RUN.latest.write_text("step_00000100\n")
    RUN.checkpoints.rmdir()
    RUN.checkpoints.symlink_to("/not/mounted")
    with pytest.raises(UserError, match=r"^runs/x has saved checkpoints, but runs/x/checkpoints holds none: put one"):
        resolve_resume(RUN, CONFIG, FINGERPRINTS, resume="auto", note=print)


def test_lines_are_kept_whatever_their_text_and_the_end_of_one_is_no_line(tmp_path: Path) -> None:
    file = tmp_path / "samples.jsonl"
    lines = [json.dumps({"step": step, "text": "a\u2028b\x85c \N{SNOWMAN}"}, ensure_ascii=False) for step in (1, 2, 3)]
    whole = "".join(line + "\n" for line in lines[:2]).encode()
    file.write_bytes(whole + (lines[2] + "\n").encode() + lines[2].encode()[:-4])  # in the middle of a letter
    keep_lines_until(file, 2)
    assert file.read_bytes() == whole


def test_what_a_killed_writer_left_is_cleared_away_whoever_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container that is started again a process may have the number of the one that was killed."""
    monkeypatch.chdir(tmp_path)
    begin()
    (RUN.checkpoints / checkpoint_name(1)).mkdir()
    machine = re.sub(r"\W", "-", socket.gethostname())
    for left in (f".model.{machine}.{os.getpid()}.tmp", ".model.elsewhere.1.tmp"):
        (RUN.path / left).mkdir()
    start = StartPoint(TrainState(step=1), RUN.checkpoints / checkpoint_name(1))
    prepare_run_folder(RUN, CONFIG, FINGERPRINTS, start, print)
    assert {path.name for path in RUN.path.iterdir()} == {"config.yaml", "run.json", "checkpoints"}


def test_a_run_moves_to_nvme_and_away_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    nvme = load_settings(RunConfig, None, ["name=x", "deepspeed=configs/zero3_nvme.json", "train.nvme_path=/scratch"])
    for before, after in ((CONFIG, nvme), (nvme, CONFIG)):
        prepare_run_folder(RUN, before, FINGERPRINTS, StartPoint(TrainState()), print)
        check_unchanged(RUN, after, FINGERPRINTS)
    with pytest.raises(ConfigError, match=r"started with train\.lr"):
        check_unchanged(RUN, load_settings(RunConfig, None, ["name=x", "train.lr=1"]), FINGERPRINTS)


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Closes a file or a folder, also for those whom no permission stops."""

    def close(place: Path) -> None:
        for module, name in ((os, "listdir"), (os, "scandir"), (io, "open")):
            real = getattr(module, name)

            def refuse(path, *arguments, real=real, **options):
                if isinstance(path, str | Path) and Path(path) == place:
                    raise PermissionError(13, "Permission denied", str(path))
                return real(path, *arguments, **options)

            monkeypatch.setattr(module, name, refuse)

    return close


@pytest.mark.parametrize("place", [RUN.checkpoints, RUN.checkpoints / "step_00000002/state.json"])
def test_checkpoints_that_may_not_be_read_are_no_reason_to_begin_anew(tmp_path, monkeypatch, closed, place):
    monkeypatch.chdir(tmp_path)
    with_checkpoints()
    RUN.latest.write_text("step_00000002\n")
    closed(place)
    notes: list[str] = []
    with pytest.raises(UserError, match=f"^cannot read {place}: Permission denied$"):
        resolve_resume(RUN, CONFIG, FINGERPRINTS, resume="auto", note=notes.append)
    assert notes == []


def test_what_a_run_began_with_is_not_missing_where_it_may_not_be_read(tmp_path, monkeypatch, closed):
    monkeypatch.chdir(tmp_path)
    with_checkpoints()
    closed(RUN.fingerprints)
    with pytest.raises(UserError, match=f"^cannot read {RUN.fingerprints}: Permission denied$"):
        resolve_resume(RUN, CONFIG, FINGERPRINTS, resume="auto", note=print)


def test_a_checkpoint_whose_files_are_elsewhere_cannot_be_used(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = {"../../../x": {"bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()}}
    (tmp_path / "x").touch()
    checkpoint = tmp_path / "a/b/step_00000001"
    checkpoint.mkdir(parents=True)
    state = {"format_version": 1, "progress": TrainState().model_dump(mode="json"), "files": files}
    (checkpoint / "state.json").write_text(json.dumps(state))
    with pytest.raises(TrainingError, match=r"state.json is missing or damaged"):
        read_train_state(checkpoint)
