"""Shards: documents in WebDataset tars, and an index that finds their numbers without the tar.

    train-000000.tar     000000-000000.emb.npy   float16 [n, dim], C order
                         000000-000000.json      id, lang, title, sentences, metadata
                         000000-000001.emb.npy   ...
    train.index.npz      per document: shard, offset of the first number in the tar, n; crc32 of its numbers; and for
                         what a training may choose by: lang, a number in `languages`, and source, the sentences of a
                         pair's source

A key is `SHARD-PLACE`. Plain `webdataset` reads the tars front to back; training maps them into memory and takes an
array by its offset: 16 bytes of index a document, no tar header read. Headers carry no time and no owner, so the same
documents give the same bytes.
"""

import hashlib
import json
import tarfile
import zlib
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lexalcm.atomic import atomic_file
from lexalcm.data.manifest import Dtype, LanguageCount, ShardRecord, SplitRecord
from lexalcm.data.marks import MARKS, Marks, MarksWriter, marks_of
from lexalcm.data.tar import END_OF_TAR, TAR_BLOCK, TarWriter, npy_header, padded
from lexalcm.errors import ConfigError, DataError

_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_UNITS = {"": 1, "b": 1} | {
    f"{letter}{suffix}": base**power
    for power, letter in enumerate("kmgt", start=1)
    for suffix, base in (("", 1024), ("b", 1000), ("ib", 1024))
}


class Index(NamedTuple):
    """Where the documents of a split are; arrays of one entry a document."""

    shard: np.ndarray
    """int32, number of the shard."""
    offset: np.ndarray
    """int64, byte offset of the first number within the shard."""
    n: np.ndarray
    """int32, sentences."""


def parse_size(text: str) -> int:
    """Bytes of a size like `256MiB`, `1GB` or `4096`.

    Raises:
        ConfigError: no number, an unknown unit, or zero.
    """
    digits = text.strip().rstrip("BKMGTbkmgti ")
    unit = text.strip()[len(digits) :].strip()
    try:
        size = int(float(digits) * _UNITS[unit.lower()])
    except (ValueError, KeyError, OverflowError):
        size = 0
    if size <= 0:
        raise ConfigError(f"{text!r} is not a size: write it like 256MiB or 1GB")
    return size


def shard_name(split: str, number: int) -> str:
    """File name of a shard: `train-000000.tar`."""
    return f"{split}-{number:06d}.tar"


def index_name(split: str) -> str:
    """File name of a split's index."""
    return f"{split}.index.npz"


def document_key(shard: int, place: int) -> str:
    """The WebDataset key of the document at a place (0, 1, ...) of a shard."""
    return f"{shard:06d}-{place:06d}"


def read_index(folder: Path, split: str) -> Index:
    """Read a split's index.

    Raises:
        DataError: missing or damaged.
    """
    arrays = read_columns(folder, split, Index._fields)
    index = Index(*(arrays[name] for name in Index._fields if name in arrays))
    if not len(index.shard) == len(index.offset) == len(index.n):
        file = folder / index_name(split)
        raise DataError(f"{file} is damaged (arrays of different lengths): build the data set again")
    return index


def read_columns(folder: Path, split: str, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Read some arrays of a split's index; those that it does not have are left out.

    Raises:
        DataError: the index is missing or damaged, or lacks one of `Index`.
    """
    file = folder / index_name(split)
    try:
        with file.open("rb") as content, np.load(content, allow_pickle=False) as arrays:
            if missing := set(Index._fields) - set(arrays.files):
                raise ValueError(f"no array {min(missing)}")
            return {name: arrays[name] for name in names if name in arrays.files}
    except FileNotFoundError as error:
        raise DataError(f"{file} is missing: build the data set again") from error
    except PermissionError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error
    except Exception as error:
        raise DataError(f"{file} is damaged: build the data set again") from error


def read_marks(folder: Path, split: str, name: str) -> Marks | None:
    """Read a column of `MARKS` of a split's index; None where no document has such.

    Raises:
        DataError: the index is missing or damaged.
    """
    columns = read_columns(folder, split, (*Index._fields, f"{name}_counts", name))
    if name not in columns:
        return None
    marks = Marks(columns.get(f"{name}_counts", np.empty(0, np.int32)), columns[name])
    whole = marks.values.ndim == 2 and int(marks.counts.sum(dtype=np.int64)) == len(marks.values)
    if not whole or len(marks.counts) != len(columns["n"]):
        raise DataError(f"{folder / index_name(split)} is damaged (its {name}): build the data set again")
    return marks


@dataclass(frozen=True)
class FinishedShard:
    """A shard that is written, and what the manifest and the index say of it."""

    record: ShardRecord
    languages: dict[str, LanguageCount]
    offset: np.ndarray
    """int64 [documents]"""
    n: np.ndarray
    """int32 [documents]"""
    lang: np.ndarray
    """uint16 [documents], number in the sorted languages"""
    crc32: np.ndarray
    """uint32 [documents], of a document's numbers as stored"""
    source: np.ndarray
    """int32 [documents], sentences of a pair's source; 0 where there is none"""
    marks: dict[str, Marks]
    """By their names in `MARKS`, of all documents."""

    def to_json(self) -> str:
        """As text, for `from_json`."""
        tree = {
            "record": self.record.model_dump(),
            "languages": {lang: count.model_dump() for lang, count in self.languages.items()},
            "offset": self.offset.tolist(),
            "n": self.n.tolist(),
            "lang": self.lang.tolist(),
            "crc32": self.crc32.tolist(),
            "source": self.source.tolist(),
            **{name: marks.lists() for name, marks in self.marks.items() if len(marks.values)},
        }
        return json.dumps(tree, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "FinishedShard":
        """Read what `to_json` wrote."""
        tree = json.loads(text)
        languages = {lang: LanguageCount.model_validate(count) for lang, count in tree["languages"].items()}
        record = ShardRecord.model_validate(tree["record"])
        columns = {"offset": np.int64, "n": np.int32, "lang": np.uint16, "crc32": np.uint32, "source": np.int32}
        arrays = {name: np.array(tree[name], dtype) for name, dtype in columns.items()}
        marks = {name: Marks.of(tree.get(name, [[]] * len(tree["n"])), numbers) for name, numbers in MARKS.items()}
        return cls(record, languages, **arrays, marks=marks)


def document_json(document: dict[str, Any], *, text: bool = True) -> bytes:
    """What a shard says of a document beside its numbers; without text all but its sentences."""
    if not text:
        document = {name: value for name, value in document.items() if name != "sentences"}
    return _JSON.encode(document).encode()


def stored_numbers(embeddings: np.ndarray, dtype: Dtype, document: str) -> np.ndarray:
    """Embeddings [n, dim] as they are stored.

    Raises:
        DataError: a number that is not finite, or too large for the stored type.
    """
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(embeddings, dtype=np.dtype(dtype).newbyteorder("<"))
    if not np.isfinite(stored).all():
        raise DataError(f"document {document}: an embedding is not finite in {dtype}")
    return stored


class ShardFile:
    """One shard being written."""

    def __init__(self, path: Path, number: int, dtype: Dtype) -> None:
        """Begin a shard at `path`; its `number` within the split is part of its documents' keys."""
        self.number = number
        self.dtype = dtype
        self.documents: Counter[str] = Counter()
        self.sentences: Counter[str] = Counter()
        self._tar = TarWriter(path)
        self._offset, self._n, self._source = array("q"), array("i"), array("i")  # as compact as the index
        self._crc32 = array("I")
        self._lang: list[str] = []
        self._marks = {name: MarksWriter(numbers) for name, numbers in MARKS.items()}

    def has_room(self, text: bytes, numbers: np.ndarray, shard_size: int) -> bool:
        """Whether a document fits; an empty shard takes any."""
        n, dim = numbers.shape
        return not self._n or self._tar.position + size_at_most(len(text), n, dim, self.dtype) <= shard_size

    def add(self, document: dict[str, Any], text: bytes, numbers: np.ndarray) -> None:
        """Write a document, and what `document_json` and `stored_numbers` gave of it."""
        n, dim = numbers.shape
        key = document_key(self.number, len(self._n))
        header = npy_header(n, dim, self.dtype)
        self._offset.append(self._tar.position + TAR_BLOCK + len(header))
        lang = document["lang"]
        self._n.append(n)
        self._lang.append(lang)
        self._source.append(document.get("source", 0))
        for name, marks in self._marks.items():
            marks.add(marks_of(document, name))
        content = np.ascontiguousarray(numbers).reshape(-1).view(np.uint8).data
        self._crc32.append(zlib.crc32(content))
        self._tar.add((f"{key}.emb.npy", (header, content)), (f"{key}.json", (text,)))
        self.documents[lang] += 1
        self.sentences[lang] += n

    def close(self, name: str) -> FinishedShard:
        """Finish the shard, which is to be called `name`."""
        self._tar.close()
        record = ShardRecord(
            file=name,
            documents=len(self._n),
            sentences=sum(self._n),
            bytes=self._tar.position,
            sha256=self._tar.hash.hexdigest(),
        )
        languages = {
            lang: LanguageCount(documents=count, sentences=self.sentences[lang])
            for lang, count in sorted(self.documents.items())
        }
        return FinishedShard(
            record,
            languages,
            offset=np.array(self._offset, np.int64),
            n=np.array(self._n, np.int32),
            lang=_numbered(self._lang, languages),
            crc32=np.array(self._crc32, np.uint32),
            source=np.array(self._source, np.int32),
            marks={name: marks.finish() for name, marks in self._marks.items()},
        )


class ShardWriter:
    """Writes the documents of one split, one after another, opening a new shard when the last is full."""

    def __init__(self, folder: Path, split: str, dtype: Dtype, shard_size: int, *, text: bool = True) -> None:
        """Begin a split.

        Args:
            folder: where the shards go.
            split: `train` or `validation`.
            dtype: type of the numbers as stored.
            shard_size: bytes after which a shard is closed; only a single document may make one larger.
            text: whether the sentences are stored.
        """
        self.folder = folder
        self.split = split
        self.dtype = dtype
        self.shard_size = shard_size
        self.text = text
        self.shards: list[FinishedShard] = []
        self._open: ShardFile | None = None

    def add(self, document: dict[str, Any], embeddings: np.ndarray) -> None:
        """Write one document.

        Args:
            document: what the JSON holds: `id`, `lang`, `title`, `sentences`, ..., for a pair `source`: how many of the
                sentences, from the first, are its source; for a conversation `turns` and `targets`.
            embeddings: float [n, dim], one for each sentence.

        Raises:
            DataError: a number that is not finite, or too large for the stored type.
        """
        self.add_stored(document, stored_numbers(embeddings, self.dtype, document["id"]))

    def add_stored(self, document: dict[str, Any], numbers: np.ndarray) -> None:
        """Write one document whose numbers are as `stored_numbers` gives them."""
        text = document_json(document, text=self.text)
        if self._open is not None and not self._open.has_room(text, numbers, self.shard_size):
            self._close_shard()
        if self._open is None:
            self._open = ShardFile(self.folder / self._name(), len(self.shards), self.dtype)
        self._open.add(document, text, numbers)

    def close(self) -> SplitRecord:
        """Finish the last shard, write the index, and say what was written."""
        if self._open is not None:
            self._close_shard()
        return write_index(self.folder, self.split, self.shards)

    def _close_shard(self) -> None:
        assert self._open is not None
        self.shards.append(self._open.close(self._name()))
        self._open = None

    def _name(self) -> str:
        return shard_name(self.split, len(self.shards))


def size_at_most(text_bytes: int, n: int, dim: int, dtype: Dtype) -> int:
    """Bytes that a document takes of a shard, at most: two headers, two paddings, its numbers and its text."""
    return 4 * TAR_BLOCK + len(npy_header(n, dim, dtype)) + n * dim * np.dtype(dtype).itemsize + text_bytes


def write_index(folder: Path, split: str, shards: Iterable[FinishedShard]) -> SplitRecord:
    """Write a split's index in one step, and say what is in the split."""
    shards = list(shards)
    documents: Counter[str] = Counter()
    sentences: Counter[str] = Counter()
    for shard in shards:
        for lang, count in shard.languages.items():
            documents[lang] += count.documents
            sentences[lang] += count.sentences
    counts = [shard.record.documents for shard in shards]
    names = sorted(documents)
    sources = np.concatenate([np.empty(0, np.int32), *(shard.source for shard in shards)])
    numbers = [_numbered(sorted(shard.languages), names)[shard.lang] for shard in shards]
    with atomic_file(folder / index_name(split)) as path, path.open("wb") as file:
        arrays = {
            "shard": np.repeat(np.arange(len(shards), dtype=np.int32), counts),
            "offset": np.concatenate([np.empty(0, np.int64), *(shard.offset for shard in shards)]),
            "n": np.concatenate([np.empty(0, np.int32), *(shard.n for shard in shards)]),
            "lang": np.concatenate([np.empty(0, np.uint16), *numbers]),
            "languages": np.array(names, np.str_),
            "crc32": np.concatenate([np.empty(0, np.uint32), *(shard.crc32 for shard in shards)]),
        }
        if sources.any():
            arrays["source"] = sources
        arrays |= _marks_arrays(shards, sources, arrays["n"])
        np.savez(file, allow_pickle=False, **arrays)
    languages = {
        lang: LanguageCount(documents=documents[lang], sentences=sentences[lang]) for lang in sorted(documents)
    }
    return SplitRecord(languages=languages, shards=[shard.record for shard in shards])


def read_shard(path: Path) -> FinishedShard:
    """Read a whole shard again, for what was known of it when it was written.

    Raises:
        DataError: not a whole shard of this format.
    """
    digest = hashlib.sha256()
    offset, n, source, crc32 = array("q"), array("i"), array("i"), array("I")
    marked = {name: MarksWriter(numbers) for name, numbers in MARKS.items()}
    langs: list[str] = []
    documents: Counter[str] = Counter()
    sentences: Counter[str] = Counter()
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            end = 0
            for member in tar:
                end = member.offset_data + padded(member.size)
                file.seek(member.offset_data)
                if member.name.endswith(".npy"):
                    np.lib.format.read_magic(file)
                    (length, _), _, _ = np.lib.format.read_array_header_1_0(file)
                    offset.append(file.tell())
                    n.append(length)
                    crc32.append(zlib.crc32(file.read(member.offset_data + member.size - file.tell())))
                else:
                    document = json.loads(file.read(member.size))
                    lang = document["lang"]
                    langs.append(lang)
                    source.append(document.get("source", 0))
                    for name, marks in marked.items():
                        marks.add(marks_of(document, name))
                    documents[lang] += 1
                    sentences[lang] += n[-1]
            file.seek(0)
            while block := file.read(1 << 20):
                digest.update(block)
            size = file.tell()
    except (tarfile.TarError, ValueError, LookupError, TypeError, EOFError) as error:
        raise DataError(f"{path} is not a whole shard: delete it") from error
    if size != end + len(END_OF_TAR) or len(n) != documents.total():
        raise DataError(f"{path} is not a whole shard: delete it")
    record = ShardRecord(file=path.name, documents=len(n), sentences=sum(n), bytes=size, sha256=digest.hexdigest())
    languages = {
        lang: LanguageCount(documents=count, sentences=sentences[lang]) for lang, count in sorted(documents.items())
    }
    return FinishedShard(
        record,
        languages,
        offset=np.array(offset, np.int64),
        n=np.array(n, np.int32),
        lang=_numbered(langs, languages),
        crc32=np.array(crc32, np.uint32),
        source=np.array(source, np.int32),
        marks={name: marks.finish() for name, marks in marked.items()},
    )


def _marks_arrays(shards: Sequence[FinishedShard], sources: np.ndarray, n: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of an index for marks; none where no document has any."""
    arrays: dict[str, np.ndarray] = {}
    for name, numbers in MARKS.items():
        marks = Marks.concatenate([shard.marks[name] for shard in shards], numbers)
        if len(marks.values):
            if name == "targets":
                marks = marks.filled(np.stack([sources, n], axis=1))
            arrays |= {f"{name}_counts": marks.counts, name: marks.values}
    return arrays


def _numbered(langs: Iterable[str], languages: Iterable[str]) -> np.ndarray:
    """The number that each language has in the sorted `languages`: uint16."""
    numbers = {lang: number for number, lang in enumerate(sorted(languages))}
    return np.array([numbers[lang] for lang in langs], np.uint16)
