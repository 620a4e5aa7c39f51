"""Nothing written is left half-written: write beside the goal, flush to disk, rename.

A reader sees the old file or the whole new one, also after a power cut. The temporary name starts with a dot and
holds the machine and the process, so that a killed writer's leftovers are never taken for the result, and the next
writer of the same goal on that machine removes them.
"""

import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lexalcm.errors import UserError

_MACHINE = re.sub(r"\W", "-", socket.gethostname())


def _finish(folder: Path) -> None:
    """Give a new folder and all in it the permissions that others expect, and flush it to the disk."""
    for entry in [*folder.rglob("*"), folder]:
        _share(entry)
        fsync_path(entry)


def _beside(path: Path, suffix: str = "tmp") -> Path:
    return path.with_name(f".{path.name}.{_MACHINE}.{os.getpid()}.{suffix}")


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove what writers on this machine left behind in a folder when they were killed: of `name`, or of anything.

    A folder that was to be replaced, and whose place is empty since the kill, is put back. Who is about to write `name`
    has not begun yet: what has the process's own number is of one before it, as in containers, where all are number 1.
    """
    goal = r".+" if name is None else re.escape(name)
    pattern = re.compile(rf"\.({goal})\.{_MACHINE}\.(\d+)\.(tmp|old)")
    for entry in folder.iterdir():
        match = pattern.fullmatch(entry.name)
        if match and not (_is_running(int(match[2])) and (name is None or int(match[2]) != os.getpid())):
            with suppress(FileNotFoundError):  # another writer that tidies up may have been faster
                if match[3] == "old" and not (folder / match[1]).exists():
                    entry.rename(folder / match[1])
                else:
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def fsync_path(path: Path) -> None:
    """Flush a file's or a folder's entry to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _share(path: Path) -> None:
    """Give a file the permissions of the user's umask: some writers make theirs readable by the owner alone."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)


@contextmanager
def atomic_file(path: Path | str) -> Iterator[Path]:
    """Yield a path to write to; on success it becomes `path`, on an exception it disappears."""
    path = Path(path)
    with scratch_file(path) as temporary:
        yield temporary
        _share(temporary)
        fsync_path(temporary)
        temporary.replace(path)
        fsync_path(path.parent)


def place_first(temporary: Path, path: Path) -> bool:
    """Give a written file its name unless another writer was first, whose file then stays; says whether it was ours.

    A hard link is the one way to do so in one step that also holds over NFS; where the file system has none, the last
    writer wins instead.
    """
    _share(temporary)
    fsync_path(temporary)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:
        temporary.replace(path)
    fsync_path(path.parent)
    return True


@contextmanager
def scratch_file(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to, and remove what is left of it at the end."""
    temporary = _beside(path)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def first_file(path: Path) -> Iterator[Path]:
    """As `atomic_file`, but a file that is there already, or comes meanwhile, stays."""
    with scratch_file(path) as temporary:
        yield temporary
        place_first(temporary, path)


@contextmanager
def first_folder(path: Path) -> Iterator[Path]:
    """Yield a new empty folder that becomes `path` in one rename, unless another writer was first: then that stays."""
    remove_leftovers(path.parent, path.name)
    temporary = _beside(path)
    temporary.mkdir()
    try:
        yield temporary
        _finish(temporary)
        try:
            temporary.rename(path)
        except OSError:
            if not path.is_dir():
                raise
        fsync_path(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path | str, text: str) -> None:
    """Write UTF-8 text so that a reader never sees half of it."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def atomic_folder(path: Path | str, *, overwrite: bool = False, marker: str | None = None) -> Iterator[Path]:
    """Yield a new empty folder; on success it becomes `path` in one rename, on an exception it disappears.

    Raises:
        UserError: as `check_output`.
    """
    path = Path(path)
    if path.parent.is_dir():
        remove_leftovers(path.parent, path.name)
    check_output(path, overwrite=overwrite, marker=marker)
    temporary = _beside(path)
    temporary.mkdir()
    try:
        yield temporary
        _finish(temporary)
        if path.exists():
            replaced = _beside(path, "old")
            path.rename(replaced)
            temporary.rename(path)
            shutil.rmtree(replaced)
        else:
            temporary.rename(path)
        fsync_path(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Remove a folder that others may be looking into: it is gone in one step, never half there."""
    removed = _beside(path)
    with suppress(FileNotFoundError):
        path.rename(removed)
        shutil.rmtree(removed, ignore_errors=True)


def check_output(path: Path | str, *, overwrite: bool = False, marker: str | None = None) -> None:
    """Make sure that an output folder may be made, before the work that fills it is begun.

    Args:
        path: the folder to make.
        overwrite: it may replace one that is there.
        marker: a file that only a folder of this kind holds; without it nothing is replaced, so that a mistyped
            output never costs somebody's home.

    Raises:
        UserError: it exists and may not be replaced, or its parent cannot be written.
    """
    path = Path(path)
    if path.exists() and path.samefile(Path.cwd()):
        raise UserError(f"the output {path} is the folder you are in: choose another output")
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file, not a folder: choose another output")
    if path.exists() and any(path.iterdir()):
        if not overwrite:
            raise UserError(f"{path} exists already: add --overwrite to replace it, or choose another output")
        if marker is not None and not (path / marker).exists():
            raise UserError(
                f"{path} holds no {marker}, --overwrite does not replace such a folder: choose another output"
            )
    parent = path.parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {parent}: {error.strerror}") from error
    if not os.access(parent, os.W_OK):
        raise UserError(f"no permission to write in {parent}: choose another output or change its permissions")


def check_output_file(path: Path | str) -> None:
    """Make sure that an output file may be written, before the work that fills it is begun; one there is replaced.

    Raises:
        UserError: it is a folder, or the folder it goes into is missing or cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder: give the name of a file")
    if not path.parent.is_dir():
        raise UserError(f"there is no folder {path.parent}: make it first, or choose another output")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"no permission to write in {path.parent}: choose another output or change its permissions")
