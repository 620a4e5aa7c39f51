"""Nothing is left half-written, and nothing foreign is replaced."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lexalcm.errors import UserError
from lexalcm.io.atomic import (
    atomic_file,
    atomic_folder,
    check_output,
    first_file,
    first_folder,
    place_first,
    remove_leftovers,
)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def write_half(path: Path) -> None:
    path.write_text("half")
    raise RuntimeError


def test_a_file_appears_whole(tmp_path: Path) -> None:
    goal = tmp_path / "file"
    goal.write_text("old")
    with atomic_file(goal) as temporary:
        temporary.write_text("new")
        assert goal.read_text() == "old"
    assert goal.read_text() == "new"
    assert names(tmp_path) == ["file"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    goal = tmp_path / "file"
    goal.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(goal) as temporary:
        write_half(temporary)
    assert goal.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_failed_folder_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "goal") as folder:
        write_half(folder / "part")
    assert names(tmp_path) == []


def test_a_folder_is_replaced_only_when_asked_and_only_by_its_kind(tmp_path: Path) -> None:
    goal = tmp_path / "goal"
    goal.mkdir()
    (goal / "mark").write_text("old")
    with pytest.raises(UserError, match="exists already: add --overwrite"), atomic_folder(goal, marker="mark"):
        pass
    with pytest.raises(UserError, match="holds no other"):
        check_output(goal, overwrite=True, marker="other")
    with atomic_folder(goal, overwrite=True, marker="mark") as folder:
        (folder / "mark").write_text("new")
    assert (goal / "mark").read_text() == "new"
    assert names(tmp_path) == ["goal"]


def test_the_current_folder_is_no_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (".", tmp_path):
        with pytest.raises(UserError, match="the folder you are in"):
            check_output(path, overwrite=True)


def test_a_file_in_the_way_and_a_file_as_parent_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file, not a folder"):
        check_output(tmp_path / "file")
    with pytest.raises(UserError, match="cannot make the folder"):
        check_output(tmp_path / "file" / "a" / "b")


def test_no_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # what the system answers; it lets root do anything
    with pytest.raises(UserError, match="no permission to write"):
        check_output(tmp_path / "goal")


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from lexalcm.io.atomic import atomic_folder\n"
        "with atomic_folder(sys.argv[1]) as folder:\n"
        "    (folder / 'part').touch()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "goal"], check=False)
    assert len(names(tmp_path)) == 1
    assert not (tmp_path / "goal").exists()
    with atomic_folder(tmp_path / "goal"):
        pass
    assert names(tmp_path) == ["goal"]


def test_written_files_follow_the_umask(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "goal") as folder:
        (folder / "private").touch(mode=0o600)
    assert (tmp_path / "goal" / "private").stat().st_mode & 0o044 == 0o044 & ~_umask()


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def test_of_two_writers_of_a_file_the_first_one_stays(tmp_path: Path) -> None:
    goal = tmp_path / "file"
    with first_file(goal) as slow:
        slow.write_text("second")
        with first_file(goal) as fast:  # the names differ only between processes
            fast.write_text("first")
        slow.write_text("second")
    assert goal.read_text() == "first"
    assert names(tmp_path) == ["file"]


def test_placing_a_file_says_whether_it_was_the_first(tmp_path: Path) -> None:
    for text, ours in (("one", True), ("two", False)):
        (tmp_path / text).write_text(text)
        assert place_first(tmp_path / text, tmp_path / "goal") is ours
    assert (tmp_path / "goal").read_text() == "one"


def test_the_last_file_stays_where_there_are_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", unsupported)
    for text in ("one", "two"):
        (tmp_path / text).write_text(text)
        assert place_first(tmp_path / text, tmp_path / "goal")
        assert (tmp_path / "goal").read_text() == text
    assert names(tmp_path) == ["goal"]


def test_of_two_writers_of_a_folder_the_first_one_stays(tmp_path: Path) -> None:
    goal = tmp_path / "folder"
    with first_folder(goal) as slow:
        (slow / "file").write_text("second")
        goal.mkdir()
        (goal / "file").write_text("first")
    assert (goal / "file").read_text() == "first"
    assert names(tmp_path) == ["folder"]


def test_a_killed_writer_had_the_number_that_its_successor_has(tmp_path: Path) -> None:
    """In containers every process is number 1."""
    with atomic_folder(tmp_path / "out") as folder:
        name = folder.name
    (tmp_path / name).mkdir()
    (tmp_path / name / "half").touch()
    with atomic_folder(tmp_path / "out", overwrite=True, marker="whole") as folder:
        assert folder.name == name
        (folder / "whole").touch()
    assert [file.name for file in tmp_path.rglob("*")] == ["out", "whole"]


def test_leftovers_of_killed_writers_are_removed_and_no_others(tmp_path: Path) -> None:
    kill = "import os, sys; from lexalcm.io.atomic import *; from pathlib import Path\n"
    kill += "with atomic_file(Path(sys.argv[1])) as file: file.write_text('half'); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", kill, tmp_path / "file"])
    (tmp_path / ".mine.tmp").touch()
    assert len(names(tmp_path)) == 2
    with atomic_file(tmp_path / "alive") as alive:
        alive.touch()
        remove_leftovers(tmp_path)
        assert alive.exists()
    assert names(tmp_path) == [".mine.tmp", "alive"]


REPLACE_AND_DIE = """
import os, sys
from pathlib import Path
from lexalcm.io import atomic

goal, dies_at, rename, renamed = Path(sys.argv[1]), int(sys.argv[2]), Path.rename, []

def rename_or_die(path, target):
    renamed.append(path)
    if len(renamed) == dies_at:
        os.kill(os.getpid(), 9)
    return rename(path, target)

Path.rename = rename_or_die
with atomic.atomic_folder(goal, overwrite=True) as folder:
    (folder / "file").write_text("new")
"""


@pytest.mark.parametrize("dies_at", [1, 2])
def test_a_folder_whose_replacement_was_killed_is_back_with_the_next_writer(tmp_path: Path, dies_at: int) -> None:
    goal = tmp_path / "goal"
    goal.mkdir()
    (goal / "file").write_text("old")
    killed = subprocess.run([sys.executable, "-c", REPLACE_AND_DIE, goal, str(dies_at)])
    assert killed.returncode == -9
    assert goal.exists() == (dies_at == 1)
    with pytest.raises(UserError, match="exists already"), atomic_folder(goal):
        pass
    assert names(tmp_path) == ["goal"]
    assert (goal / "file").read_text() == "old"
