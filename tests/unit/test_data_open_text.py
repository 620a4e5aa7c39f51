"""Compressed text and its limits."""

import gzip
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import zstandard

from lexalcm.data.sources import open_text as module
from lexalcm.data.sources.corpus import TextDocuments, find_sources, read_documents
from lexalcm.data.sources.open_text import open_text
from lexalcm.errors import DataError

PACKED = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor(level=19).compress}


def with_window(content: bytes, log: int) -> bytes:
    """A Zstandard frame of unknown length whose reader has to look back 2^log bytes."""
    settings = zstandard.ZstdCompressionParameters(window_log=log, enable_ldm=True, write_content_size=False)
    packer = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    return packer.compress(content) + packer.flush()


def declared_window(content: bytes, log: int) -> bytes:
    """A frame of one stored block (RFC 8878, section 3.1.1) that says its window has 2^log bytes."""
    block = (len(content) << 3 | 1).to_bytes(3, "little")
    return b"\x28\xb5\x2f\xfd" + b"\x00" + bytes([(log - 10) << 3]) + block + content


@pytest.mark.parametrize("log", [20, 27, 28, 31])
def test_windows_up_to_two_gibibytes_are_read(tmp_path: Path, log: int) -> None:
    lines = "".join(json.dumps({"text": f"Document {i}."}) + "\n" for i in range(8))
    file = tmp_path / "long.jsonl.zst"
    file.write_bytes(declared_window(lines.encode(), log))
    assert zstandard.get_frame_parameters(file.read_bytes()).window_size == 1 << log
    assert [document.text for document in read_documents(find_sources([file]))] == [f"Document {i}." for i in range(8)]


def test_a_window_that_is_used_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt.zst").write_bytes(with_window(b"One.\n\nTwo.\n", 28))
    assert [document.text for document in read_documents(find_sources([tmp_path / "a.txt.zst"]))] == [
        "One.\n",
        "Two.\n",
    ]


@pytest.mark.parametrize("log", [32, 40])
def test_a_longer_window_is_said(tmp_path: Path, log: int) -> None:
    file = tmp_path / "long.jsonl.zst"
    file.write_bytes(declared_window(b'{"text": "A document."}\n', log))
    with pytest.raises(
        DataError, match=r"long\.jsonl\.zst was compressed with a window .* above 2 GiB: compress it again"
    ):
        list(read_documents(find_sources([file])))


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("kind", [".txt", ".jsonl"])
def test_a_line_without_end_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: str, kind: str
) -> None:
    monkeypatch.setattr(module, "MAX_TEXT", 1 << 20)
    file = tmp_path / f"bomb{kind}{packed}"
    begin = b'{"text": "Short."}\n' if kind == ".jsonl" else b"Short.\n\n"
    file.write_bytes(PACKED[packed](begin + bytes(1 << 22)))
    with pytest.raises(DataError, match=r"a line of .* is larger than 1 MiB"):
        list(read_documents(find_sources([file])))


@pytest.mark.parametrize(
    ("name", "content", "documents"),
    [
        ("a.txt", b"A short line.\n" * 100_000, "blank-line"),
        ("a.txt", b"A short paragraph.\n\n" * 100_000, "file"),
        ("a.json", b'[\n{"text": ["' + b'A sentence.",\n"' * 100_000 + b'"]}]', "blank-line"),
    ],
)
def test_a_document_without_end_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, documents: TextDocuments
) -> None:
    monkeypatch.setattr(module, "MAX_TEXT", 1 << 20)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=r"a document of .* is larger than 1 MiB"):
        list(read_documents(find_sources([tmp_path / name]), documents=documents))


@pytest.mark.parametrize("packed", PACKED)
def test_lines_at_the_limit_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: str) -> None:
    monkeypatch.setattr(module, "MAX_TEXT", 1000)
    lines = [b"a" * 999 + b"\n", b"\n", b"b" * 1000]
    (tmp_path / f"a.txt{packed}").write_bytes(PACKED[packed](b"".join(lines)))
    with open_text(tmp_path / f"a.txt{packed}", "a") as file:
        assert list(file) == lines


def test_a_bomb_is_unpacked_bit_by_bit(tmp_path: Path) -> None:
    size = 1 << 28
    (tmp_path / "a.txt.zst").write_bytes(zstandard.ZstdCompressor(level=19).compress(bytes(size)))
    largest = done = 0
    with (tmp_path / "a.txt.zst").open("rb") as packed:
        stream = module._ZstdStream(packed, "a")
        buffer = bytearray(1 << 16)
        while taken := stream.readinto(buffer):
            largest, done = max(largest, len(stream.output)), done + taken
    assert done == size
    assert largest <= 1 << 27


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("a.txt", b"One.\n\n", b"Two.\n"),
        ("a.txt", b"One.\n", b"\nTwo.\n"),
        ("a.jsonl", b'{"text": "One."}\n', b'{"text": "Two."}\n'),
        ("a.json", b'{\n"text": "One."\n}\n', b'{\n"text": "Two."\n}\n'),
    ],
)
def test_byte_order_marks_of_files_put_together(tmp_path: Path, name: str, one: bytes, other: bytes) -> None:
    mark = "\ufeff".encode()
    (tmp_path / name).write_bytes(mark + one + mark + other)
    assert [document.text.strip() for document in read_documents(find_sources([tmp_path / name]))] == ["One.", "Two."]


def test_standard_input_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = io.BytesIO(b"One.\nTwo.")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=stdin))
    with open_text(None, "stdin") as file:
        assert list(file) == [b"One.\n", b"Two."]
    assert not stdin.closed
