"""The unfinished evaluation on disk: what is scored is never scored again, whatever ends the program.

Beside the report `FILE` stands a folder `FILE.unfinished` until the report is written. Each process appends to a file
of its own there, one line for every batch that a predictor was scored on, with the numbers of each document; a line
counts when its end is there. Who starts again, with any number of processes, reads all files and goes on with what is
missing. A fingerprint of settings, data and models makes sure that it is the same evaluation: `about.json` says it to
those that would begin another one, and files of lines carry it in their names, so that lines can never count for an
evaluation that they are not of, whatever of the folder a kill has left.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lexalcm.errors import UserError
from lexalcm.io.atomic import write_text
from lexalcm.io.file_lock import FileLock

_ABOUT = "about.json"


def fingerprint(about: Any) -> str:
    """A hash of plain values."""
    return hashlib.sha256(json.dumps(about, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def folder_state(folder: Path) -> list[list[Any]]:
    """Name, size and time of change of the files of a folder: other contents, another state."""
    return [
        [str(file.relative_to(folder)), file.stat().st_size, file.stat().st_mtime_ns]
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    ]


class Journal:
    """Lines of an unfinished evaluation."""

    def __init__(self, folder: Path, about: Any, *, rank: int = 0) -> None:
        """Open or begin it.

        Args:
            folder: where it is; its parent must be there.
            about: plain values that two runs of one evaluation have in common.
            rank: this process's number, which names its file.

        Raises:
            UserError: the folder holds lines of another evaluation, or one is going on there.
        """
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self._lock = FileLock(folder / f".part-{rank:05d}.lock")
        if not self._lock.acquire(wait=0):
            raise UserError(f"another process is writing {folder}: wait for it, or give another --out")
        mark, file = fingerprint(about), folder / _ABOUT
        try:
            found = json.loads(file.read_text(encoding="utf-8"))["fingerprint"]
        except FileNotFoundError:
            found = None
        except (ValueError, KeyError, TypeError):
            found = "unreadable"
        if found != mark:
            if found is not None and any(_has_line(part) for part in folder.glob("part-*.jsonl")):
                raise UserError(
                    f"{folder} holds an unfinished evaluation of other models, data or settings: "
                    "finish that one, delete the folder, or give another --out"
                )
            write_text(file, json.dumps({"fingerprint": mark, "about": about}, ensure_ascii=False, indent=2) + "\n")
        self._mark = mark[:16]
        self._own = folder / f"part-{rank:05d}-{self._mark}.jsonl"
        _drop_torn_line(self._own)

    def read(self) -> Iterator[dict[str, Any]]:
        """All whole lines of all processes."""
        for part in self._parts():
            with part.open("rb") as lines:
                for line in lines:
                    if line.endswith(b"\n"):
                        yield json.loads(line)

    def append(self, record: dict[str, Any]) -> None:
        """Add a line, for good."""
        with self._own.open("ab") as file:
            file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        """The evaluation is finished. Lines go first: without them nothing in the folder stands in anyone's way."""
        for part in self.folder.glob("part-*.jsonl"):
            part.unlink()
        shutil.rmtree(self.folder)
        self._lock.release()

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob(f"part-*-{self._mark}.jsonl"))


def _has_line(part: Path) -> bool:
    return b"\n" in part.read_bytes()


def _drop_torn_line(file: Path) -> None:
    """Cut off what a killed process wrote of a last line."""
    if not file.exists():
        return
    with file.open("rb+") as lines:
        lines.truncate(lines.read().rfind(b"\n") + 1)
