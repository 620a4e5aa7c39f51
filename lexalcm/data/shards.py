"""Shards: documents in WebDataset tars, and an index that finds their numbers without the tar.

    train-000000.tar     000000-000000.emb.npy   float16 [n, dim], C order
                         000000-000000.json      id, lang, title, sentences, metadata
                         000000-000001.emb.npy   ...
    train.index.npz      per document: shard, offset of the first number in the tar, n

A key is `SHARD-PLACE`. Plain `webdataset` reads the tars front to back; training maps them into memory and takes an
array by its offset: 16 bytes of index a document, no tar header read. Headers carry no time and no owner, so the same
documents give the same bytes.
"""

import hashlib
import io
import json
import tarfile
from array import array
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lexalcm.data.manifest import Dtype, LanguageCount, ShardRecord, SplitRecord
from lexalcm.errors import ConfigError, DataError

TAR_BLOCK = 512
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
    file = folder / index_name(split)
    try:
        with file.open("rb") as content, np.load(content, allow_pickle=False) as arrays:
            index = Index(arrays["shard"], arrays["offset"], arrays["n"])
    except FileNotFoundError as error:
        raise DataError(f"{file} is missing: build the data set again") from error
    except PermissionError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error
    except Exception as error:
        raise DataError(f"{file} is damaged: build the data set again") from error
    if not len(index.shard) == len(index.offset) == len(index.n):
        raise DataError(f"{file} is damaged (arrays of different lengths): build the data set again")
    return index


class ShardWriter:
    """Writes the documents of one split, one after another, opening a new shard when the last is full."""

    def __init__(self, folder: Path, split: str, dtype: Dtype, shard_size: int) -> None:
        """Begin a split.

        Args:
            folder: where the shards go.
            split: `train` or `validation`.
            dtype: type of the numbers as stored.
            shard_size: bytes after which a shard is closed; only a single document may make one larger.
        """
        self.folder = folder
        self.split = split
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self.shard_size = shard_size
        self.shards: list[ShardRecord] = []
        self.entries = (array("i"), array("q"), array("i"))  # shard, offset, n: as compact as the index
        self.documents: Counter[str] = Counter()
        self.sentences: Counter[str] = Counter()
        self._tar: _Tar | None = None

    def add(self, document: dict[str, Any], embeddings: np.ndarray) -> None:
        """Write one document.

        Args:
            document: what the JSON holds: `id`, `lang`, `title`, `sentences`, ...
            embeddings: float [n, dim], one for each sentence.

        Raises:
            DataError: a number that is not finite, or too large for the stored type.
        """
        with np.errstate(over="ignore"):
            stored = np.ascontiguousarray(embeddings, dtype=self.dtype)
        if not np.isfinite(stored).all():
            raise DataError(f"document {document['id']}: an embedding is not finite in {self.dtype.name}")
        numbers = io.BytesIO()
        np.lib.format.write_array(numbers, stored, version=(1, 0), allow_pickle=False)
        text = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
        size = 4 * TAR_BLOCK + len(numbers.getbuffer()) + len(text)
        if self._tar is not None and self._tar.position + size > self.shard_size:
            self._close_shard()
        if self._tar is None:
            self._tar = _Tar(self.folder / shard_name(self.split, len(self.shards)))
        key = document_key(len(self.shards), self._tar.documents)
        end = self._tar.add(f"{key}.emb.npy", numbers.getvalue())
        self._tar.add(f"{key}.json", text)
        self._tar.documents += 1
        self._tar.sentences += len(stored)
        for column, value in zip(self.entries, (len(self.shards), end - stored.nbytes, len(stored)), strict=True):
            column.append(value)
        self.documents[document["lang"]] += 1
        self.sentences[document["lang"]] += len(stored)

    def close(self) -> SplitRecord:
        """Finish the last shard, write the index, and say what was written."""
        if self._tar is not None:
            self._close_shard()
        shard, offset, n = (np.array(column, dtype=f"i{column.itemsize}") for column in self.entries)
        np.savez(self.folder / index_name(self.split), shard=shard, offset=offset, n=n)
        languages = {
            lang: LanguageCount(documents=count, sentences=self.sentences[lang])
            for lang, count in sorted(self.documents.items())
        }
        return SplitRecord(languages=languages, shards=self.shards)

    def _close_shard(self) -> None:
        assert self._tar is not None
        self.shards.append(self._tar.close())
        self._tar = None


class _Tar:
    """A tar being written: knows its position and its hash at any time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path.open("wb")
        self.hash = hashlib.sha256()
        self.position = 0
        self.documents = 0
        self.sentences = 0

    def add(self, name: str, content: bytes) -> int:
        """Append a member; returns the position of the end of its content."""
        member = tarfile.TarInfo(name)
        member.size = len(content)
        self._write(member.tobuf(tarfile.USTAR_FORMAT))
        self._write(content)
        end = self.position
        self._write(bytes(-len(content) % TAR_BLOCK))
        return end

    def close(self) -> ShardRecord:
        """Write the tar's end and describe it."""
        self._write(bytes(2 * TAR_BLOCK))
        self.file.close()
        return ShardRecord(
            file=self.path.name,
            documents=self.documents,
            sentences=self.sentences,
            bytes=self.position,
            sha256=self.hash.hexdigest(),
        )

    def _write(self, data: bytes) -> None:
        self.file.write(data)
        self.hash.update(data)
        self.position += len(data)
