"""Opens text files, compressed or not, as bytes; nothing that is held as a whole may be without end."""

import gzip
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import zstandard

from lexalcm.errors import DataError

MAX_TEXT = 1 << 28
"""Bytes of a line, and of a document: more is not text, but a bomb, or a file without line ends."""

MAX_WINDOW = 1 << 31
"""Bytes that Zstandard may look back (`zstd --long=31`): the most that its library has."""

_INPUT = 1 << 12
"""Bytes unpacked at a time: at Zstandard's best, 32,768 times as many come of them."""


@contextmanager
def open_text(path: Path | None, shown: str) -> Iterator[BinaryIO]:
    """Open a file as its uncompressed bytes, by its name's ending; without a path, standard input.

    Args:
        path: the file.
        shown: how messages call it.

    Raises:
        DataError: while reading, a line above `MAX_TEXT` or a Zstandard window that memory does not hold.
    """
    if path is None:
        with _lines(sys.stdin.buffer, shown) as lines:
            yield lines
        return
    with path.open("rb") as file:
        name = path.name.lower()
        unpacked = gzip.GzipFile(fileobj=file) if name.endswith(".gz") else file
        with _lines(_ZstdStream(file, shown) if name.endswith(".zst") else unpacked, shown) as lines:
            yield lines


def check_size(size: int, what: str, shown: str) -> None:
    """Refuse what is held as a whole and above `MAX_TEXT`.

    Raises:
        DataError: it is.
    """
    if size > MAX_TEXT:
        raise DataError(f"a {what} of {shown} is larger than {MAX_TEXT >> 20} MiB: divide it into documents")


@contextmanager
def _lines(file: Any, shown: str) -> Iterator[BinaryIO]:
    lines = _Lines(file)
    lines.shown = shown
    try:
        yield cast(BinaryIO, lines)
    finally:
        lines.detach()  # who opened the file closes it


class _Lines(io.BufferedReader):
    shown: str

    def readline(self, size: int | None = -1) -> bytes:
        if size is not None and 0 <= size <= MAX_TEXT:
            return super().readline(size)
        line = super().readline(MAX_TEXT + 1)
        check_size(len(line), "line", self.shown)
        return line

    def __next__(self) -> bytes:
        if line := self.readline():
            return line
        raise StopIteration


class _ZstdStream(io.RawIOBase):
    """Decompresses Zstandard frames; unlike the library's own reader it notices a file that ends too early."""

    def __init__(self, file: IO[bytes], shown: str) -> None:
        self.file = file
        self.shown = shown
        self.unpack = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
        self.frame = self.unpack.decompressobj()
        self.input = b""
        self.output = memoryview(b"")
        self.within_frame = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.output:
            self.input = self.input or self.file.read(_INPUT)
            if not self.input:
                if self.within_frame:
                    raise EOFError("it ends too early")
                return 0
            try:
                self.output = memoryview(self.frame.decompress(self.input))
            except zstandard.ZstdError as error:
                if "memory" not in str(error):
                    raise
                raise DataError(
                    f"{self.shown} was compressed with a window that does not fit into memory, or above "
                    f"{MAX_WINDOW >> 30} GiB: compress it again, e.g. zstd -d --long=31 --stdout FILE | zstd --long=27"
                ) from error
            self.input, self.within_frame = self.frame.unused_data, not self.frame.eof
            if self.frame.eof:
                self.frame = self.unpack.decompressobj()
        taken = self.output[: len(buffer)]
        self.output = self.output[len(taken) :]
        buffer[: len(taken)] = taken
        return len(taken)
