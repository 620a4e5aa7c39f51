"""Tars written at the speed of the disk: headers from a template, one write a document, from where its numbers lie.
And those of others read front to back, to an end that is one.

A header carries no time and no owner, so the same members give the same bytes. They are those of the standard library's
`tarfile` in the ustar format, which spends longer on a header than a disk on a document.
"""

import hashlib
import io
import os
import tarfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from typing_extensions import Self

from lexalcm.errors import DataError

TAR_BLOCK = 512
END_OF_TAR = bytes(2 * TAR_BLOCK)

_TEMPLATE = tarfile.TarInfo("").tobuf(tarfile.USTAR_FORMAT)
_NAME, _SIZE, _CHECKSUM = slice(0, 100), slice(124, 136), slice(148, 156)
_TEMPLATE_SUM = sum(_TEMPLATE) - sum(_TEMPLATE[_SIZE]) - sum(_TEMPLATE[_CHECKSUM]) + 8 * ord(" ")
_LARGEST = 8**11  # bytes: what the header has digits for


def padded(size: int) -> int:
    """A size rounded up to whole tar blocks."""
    return -(-size // TAR_BLOCK) * TAR_BLOCK


def tar_header(name: str, size: int) -> bytes:
    """The header block of a plain file.

    Raises:
        DataError: above 8 GiB, which the format cannot write.
    """
    if size >= _LARGEST:
        raise DataError(f"{name} would be {size} bytes, a tar holds files below {_LARGEST}: cut the document")
    name_field = name.encode().ljust(100, b"\0")
    size_field = b"%011o\0" % size
    checksum = b"%06o\0 " % (_TEMPLATE_SUM + sum(name_field) + sum(size_field))
    return b"".join((name_field, _TEMPLATE[100:124], size_field, _TEMPLATE[136:148], checksum, _TEMPLATE[156:]))


@lru_cache(maxsize=4096)
def npy_header(n: int, dim: int, dtype: str) -> bytes:
    """What stands before the numbers of an array [n, dim] in a `.npy` file."""
    header = io.BytesIO()
    description = {"descr": np.dtype(dtype).newbyteorder("<").str, "fortran_order": False, "shape": (n, dim)}
    np.lib.format.write_array_header_1_0(header, description)
    return header.getvalue()


class _Header(tarfile.TarInfo):
    """A header after which a tar goes on: the library takes a file that stops for the end, too."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tar)
        except tarfile.HeaderError as error:
            if isinstance(error, tarfile.EOFHeaderError):  # type: ignore[attr-defined]  # the blocks of zeros at the end
                raise
            raise tarfile.ReadError(f"its end is missing ({error}): copy or load it again") from error


def open_tar(path: Path) -> tarfile.TarFile:
    """Open a tar, compressed or not, to read it front to back.

    Raises:
        tarfile.TarError: here or while reading: no tar, or one that is cut, wherever that is.
    """
    return tarfile.open(path, "r|*", tarinfo=_Header)


class TarWriter:
    """A tar being written: knows its position and its hash at any time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path.open("wb", buffering=0)
        self.hash = hashlib.sha256()
        self.position = 0

    def add(self, *members: tuple[str, Sequence[bytes | memoryview]]) -> None:
        """Append members (name, pieces of its content) in one write; pieces are bytes."""
        pieces: list[bytes | memoryview] = []
        for name, content in members:
            size = sum(map(len, content))
            pieces += (tar_header(name, size), *content, bytes(-size % TAR_BLOCK))
        self._write(pieces)

    def close(self) -> None:
        """Write the tar's end."""
        self._write([END_OF_TAR])
        self.file.close()

    def _write(self, pieces: list[bytes | memoryview]) -> None:
        for piece in pieces:
            self.hash.update(piece)
        size = sum(map(len, pieces))
        written = os.writev(self.file.fileno(), pieces)
        if written < size:  # an unbuffered file may take less than it is given
            rest = memoryview(b"".join(pieces))[written:]
            while rest:
                rest = rest[self.file.write(rest) :]
        self.position += size
