"""JSON objects one at a time: one a line, the items of one array, or one after another over many lines.

Which of these a file is, its first line says: `[` opens an array, and a line that ends with an open brace or a comma
begins an object that goes on in the next. Memory: one object, and what is read at a time.
"""

import codecs
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, BinaryIO

from lexalcm.data.sources.open_text import check_size
from lexalcm.errors import DataError

_PIECE = 1 << 16
"""Characters read at a time."""

_BYTE_ORDER_MARK = "\ufeff".encode()
_SPACE = re.compile(r"[ \t\n\r\ufeff]*")
_DECODER = json.JSONDecoder()


def json_records(file: BinaryIO, shown: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """The number of each object (of its line or its item, from 1), where it stands for messages, and the object.

    Args:
        file: its bytes, uncompressed.
        shown: how messages call it.

    Raises:
        DataError: bytes that are not UTF-8, JSON that is broken, something else than an object, an item too large.
    """
    start = b""
    while not (first := start.removeprefix(_BYTE_ORDER_MARK).strip()) and (piece := file.readline(_PIECE)):
        start += piece
    is_array = first.startswith(b"[")
    goes_on = start.endswith(b"\n") and first.endswith((b"{", b"[", b":", b","))
    if not (is_array or goes_on):
        yield from _of_lines(chain(io.BytesIO(start + file.readline()), file), shown)
        return
    number = 0
    try:
        for number, value in enumerate(_values(_Text(_decoded(file, start, shown), shown), is_array=is_array), start=1):
            where = f"{shown}: item {number}: "
            yield number, where, _checked(value, where)
    except (ValueError, RecursionError) as error:  # also a number that is too long
        message = getattr(error, "msg", error)
        raise DataError(f"{shown}: item {number + 1}: not valid JSON ({message})") from error


def decoded_lines(file: Iterable[bytes], shown: str) -> Iterator[str]:
    """The lines of a file as text, without the byte order marks that files put together have within.

    Raises:
        DataError: one that is not UTF-8, with its number.
    """
    for number, line in enumerate(file, start=1):
        try:
            yield line.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise _not_utf8(error, shown, number) from error


def _of_lines(lines: Iterable[bytes], shown: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    for number, line in enumerate(decoded_lines(lines, shown), start=1):
        if not line.strip():
            continue
        where = f"{shown}:{number}: "
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:  # also a number that is too long
            raise DataError(f"{where}not valid JSON ({error})") from error
        yield number, where, _checked(value, where)


def _checked(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f'{where}expected a JSON object like {{"text": "..."}}')
    return value


def _not_utf8(error: UnicodeDecodeError, shown: str, number: int) -> DataError:
    byte = f"byte 0x{error.object[error.start]:02x}"
    return DataError(f"{shown}:{number}: not UTF-8 ({byte}): convert the file, e.g. with iconv")


def _decoded(file: BinaryIO, start: bytes, shown: str) -> Callable[[int], str]:
    """A function that reads about that many characters of a file which begins with `start`; none at its end."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    waiting, lines = start, 1

    def read(size: int) -> str:
        nonlocal waiting, lines
        while True:
            piece, waiting = waiting or file.read(size), b""
            try:
                text = decoder.decode(piece, final=not piece)
            except UnicodeDecodeError as error:
                raise _not_utf8(error, shown, lines + error.object[: error.start].count(b"\n")) from error
            lines += piece.count(b"\n")
            if text or not piece:
                return text

    return read


class _Text:
    """Text that is read as far as it is needed."""

    def __init__(self, read: Callable[[int], str], shown: str) -> None:
        self.read = read
        self.shown = shown
        self.buffer = ""
        self.at = 0

    def peek(self) -> str:
        """The next character that is not white space; none at the end."""
        while True:
            space = _SPACE.match(self.buffer, self.at)
            self.at = space.end() if space else self.at
            if self.at < len(self.buffer) or not self._more():
                return self.buffer[self.at : self.at + 1]

    def value(self) -> Any:
        """The JSON value that begins here."""
        while True:
            try:
                value, self.at = _DECODER.raw_decode(self.buffer, self.at)
            except json.JSONDecodeError:
                if not self._more():
                    raise
            else:
                return value

    def fail(self, message: str) -> json.JSONDecodeError:
        """An error that stands here."""
        return json.JSONDecodeError(message, self.buffer, self.at)

    def _more(self) -> bool:
        """Read on, as much as is waiting already, so that a long value is not tried too often."""
        unread = self.buffer[self.at :]
        found = self.read(max(_PIECE, len(unread)))
        self.buffer, self.at = unread + found, 0
        check_size(len(self.buffer), "document", self.shown)
        return bool(found)


def _values(text: _Text, *, is_array: bool) -> Iterator[Any]:
    """The items of an array, or values one after another."""
    if not is_array:
        while text.peek():
            yield text.value()
        return
    text.peek()
    text.at += 1
    separator = ""
    while text.peek() != "]":
        if separator and text.peek() != separator:
            raise text.fail("Expecting ',' or ']'")
        text.at += len(separator)
        text.peek()
        yield text.value()
        separator = ","
    text.at += 1
    if text.peek():
        raise text.fail("the array has ended, and something follows")
