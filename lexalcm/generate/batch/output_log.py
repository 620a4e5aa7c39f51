"""A file of results that grows by whole lines: who writes it may be killed at any moment, and goes on where it was.

Every line is flushed to disk before the next document is begun. A line that was torn by a kill is dropped when the file
is opened again. Beside the file, `NAME.settings.json` notes what the lines were made with; other settings do not add to
it. Two writers at once are kept apart by a lock on the file itself.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from typing_extensions import Self

from lexalcm.errors import UserError
from lexalcm.io.atomic import check_output_file, fsync_path, write_text
from lexalcm.io.file_lock import FileLock

CHUNK = 2**20
LONGEST_SHOWN = 60
"""Longer values, such as digests, say nothing to a reader of messages."""


class OutputLog:
    """The file, opened for more lines.

    Args:
        path: the file.
        settings: what its lines are made with, by name; as JSON has it.
        overwrite: begin anew.

    Attributes:
        finished: whole lines that it held when it was opened.

    Raises:
        UserError: it cannot be written, somebody writes it now, it was made with other settings, or not by this.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any], *, overwrite: bool = False) -> None:
        self.path = Path(path)
        self.notes = self.path.with_name(f"{self.path.name}.settings.json")
        check_output_file(self.path)
        existed = self.path.exists() and self.path.stat().st_size > 0 and not overwrite
        if existed:
            self._check(settings)
        self._lock = FileLock(self.path)
        if not self._lock.acquire(wait=0):
            raise UserError(f"another lcm infer is writing {self.path}: wait for it, or choose another file")
        assert self._lock.descriptor is not None
        self._file = self._lock.descriptor
        if existed:
            self.finished = self._drop_torn_line()
        else:
            os.ftruncate(self._file, 0)
            write_text(self.notes, json.dumps(dict(settings), indent=2, ensure_ascii=False) + "\n")
            self.finished = 0
        fsync_path(self.path.parent)

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Add a line for each record, on disk when this returns."""
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()
        while lines:
            lines = lines[os.write(self._file, lines) :]
        os.fsync(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def _check(self, settings: Mapping[str, Any]) -> None:
        try:
            noted = json.loads(self.notes.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise UserError(
                f"{self.path} exists already and lacks the {self.notes.name} of a file to go on with: "
                "choose another --output, or replace it with --overwrite"
            ) from error
        except (OSError, ValueError) as error:
            raise UserError(f"{self.notes} is damaged: start again with --overwrite") from error
        for name, value in settings.items():
            if (before := noted.get(name)) != value:
                values = [json.dumps(one, ensure_ascii=False) for one in (before, value)]
                shown = f": {values[0]}, not {values[1]}" if max(map(len, values)) < LONGEST_SHOWN else ""
                raise UserError(
                    f"{self.path} was begun with another {name}{shown}: give the same again, choose another --output, "
                    "or start again with --overwrite"
                )

    def _drop_torn_line(self) -> int:
        """Cut the file behind its last whole line, and count those."""
        count, whole, place = 0, 0, 0
        os.lseek(self._file, 0, os.SEEK_SET)
        while chunk := os.read(self._file, CHUNK):
            count += chunk.count(b"\n")
            if (last := chunk.rfind(b"\n")) >= 0:
                whole = place + last + 1
            place += len(chunk)
        os.ftruncate(self._file, whole)
        os.lseek(self._file, whole, os.SEEK_SET)
        return count
