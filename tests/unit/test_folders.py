import os
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lexalcm.codec.special import read_special
from lexalcm.errors import DataError, UserError
from lexalcm.io.folders import entries, files_below, inside, is_plain_name
from lexalcm.model.storage.locate import find_model
from lexalcm.pages.parquet_source import open_parquet
from lexalcm.pages.run_metrics import newest_run


def newest_model(runs: Path) -> Path:
    return find_model(None, runs)


PARTS = st.sampled_from(["..", ".", "", "a", "..a", "a..", "\0", "\ud83d", "\udc8d", "train-000000.tar", "~"])
NAMES = st.one_of(st.text(), st.lists(PARTS, min_size=1, max_size=5).map("/".join))
FOLDER = Path("/data/set")


@given(NAMES)
@example("../../../x")
@example("/etc/passwd")
def test_no_name_leads_out_of_its_folder(name: str) -> None:
    try:
        path = inside(FOLDER, name)
    except DataError:
        return
    normal = PurePosixPath(os.path.normpath(path))
    assert normal.is_relative_to(FOLDER)
    assert normal != PurePosixPath(FOLDER)
    os.fsencode(path)
    assert "\0" not in str(path)


@given(st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="/\0"), min_size=1))
def test_other_names_are_taken_as_they_are(name: str) -> None:
    assert is_plain_name(name) == (name not in (".", ".."))
    if name not in (".", ".."):
        assert inside(FOLDER, name).name == name
        assert inside(FOLDER, f"codec/{name}") == FOLDER / "codec" / name


@pytest.fixture
def closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that may not be looked into, also by those whom no permission stops."""
    folder = tmp_path / "top" / "closed"
    folder.mkdir(parents=True)
    (tmp_path / "top" / "open.txt").write_text("Hello.")
    for name in ("scandir", "listdir"):
        real = getattr(os, name)

        def refuse(path, real=real):
            if Path(path) == folder:
                raise PermissionError(13, "Permission denied", str(path))
            return real(path)

        monkeypatch.setattr(os, name, refuse)
    return folder


@pytest.mark.parametrize("listing", [entries, files_below])
def test_a_closed_folder_is_not_an_empty_one(closed: Path, listing) -> None:
    with pytest.raises(UserError, match=f"^cannot read {closed}: Permission denied$"):
        listing(closed)


def test_a_closed_folder_within_another_is_not_passed_over(closed: Path) -> None:
    with pytest.raises(UserError, match=f"^cannot read {closed}: Permission denied$"):
        files_below(closed.parent)


@pytest.mark.parametrize("reads", [newest_model, newest_run, open_parquet, read_special])
def test_whoever_looks_for_something_in_a_closed_folder_says_so(closed: Path, reads) -> None:
    with pytest.raises(UserError, match=f"^cannot read {closed}: Permission denied$"):
        reads(closed)


def test_listing(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.txt", "a/.hidden", ".git/x.txt", "a/b/c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "again").symlink_to(tmp_path / "a")
    (tmp_path / "linked.txt").symlink_to(tmp_path / "b.txt")
    found = [path.as_posix() for path in files_below(tmp_path)]
    assert found == ["a/b/c.txt", "a/z.txt", "b.txt", "linked.txt"]
    assert [path.as_posix() for path in files_below(tmp_path, hidden=True)] == sorted(
        [*found, ".git/x.txt", "a/.hidden"]
    )
    assert [path.name for path in entries(tmp_path / "a")] == [".hidden", "b", "z.txt"]
    assert entries(tmp_path / "nowhere") == []
    with pytest.raises(UserError, match=r"cannot read .*b\.txt: Not a directory"):
        entries(tmp_path / "b.txt")
