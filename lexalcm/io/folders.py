"""What is in a folder, and where in it a name out of a file leads.

Listing raises what the system says: `glob` and `rglob` take a folder that may not be read for an empty one. Whoever
offers a data set or a model chooses the names in its files: none may lead out of the folder that it is in.
"""

import os
from pathlib import Path

from lexalcm.errors import DataError, UserError


def is_plain_name(name: str) -> bool:
    """Whether a name is one of a file in a folder, not a path to elsewhere."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:  # half of a surrogate pair, which no file system has
        return False
    return name not in ("", ".", "..") and "/" not in name and "\0" not in name


def inside(folder: Path, name: str) -> Path:
    """The path of a name in a folder; the name may have parts, `codec/lsa.json`, each of them plain.

    Raises:
        DataError: the name leads out of the folder, or is not a valid one.
    """
    if not all(map(is_plain_name, name.split("/"))):
        raise DataError(f"{name!r} is not the name of a file in {folder}")
    return folder / name


def entries(folder: Path) -> list[Path]:
    """What is in a folder, sorted; nothing where there is no such folder.

    Raises:
        UserError: it cannot be looked into.
    """
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror}") from error


def files_below(folder: Path, *, hidden: bool = False) -> list[Path]:
    """Paths, relative to a folder, of all files in it and in those in it, sorted; linked folders are not followed.

    Args:
        folder: where to look.
        hidden: also what begins with a dot, and what is in such folders.

    Raises:
        UserError: one of the folders cannot be looked into.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from error

    found: list[Path] = []
    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if hidden or not name.startswith(".")]
        found += (Path(place, name) for name in names if hidden or not name.startswith("."))
    try:
        return sorted(path.relative_to(folder) for path in found if path.is_file())
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from error
