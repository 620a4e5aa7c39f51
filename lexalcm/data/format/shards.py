"""Shards: documents in WebDataset tars.

    train-000000.tar     000000-000000.emb.npy   float16 [n, dim], C order
                         000000-000000.json      id, lang, title, sentences, metadata
                         000000-000001.emb.npy   ...

A key is `SHARD-PLACE`. Plain `webdataset` reads the tars front to back; training maps them into memory and takes an
array by its offset, which the index (`lexalcm.data.format.index`) holds: no tar header is read. Headers carry no time
and no owner, so the same documents give the same bytes.
"""

import hashlib
import json
import tarfile
import zlib
from array import array
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from lexalcm.data.format.finished_shard import FinishedShard, number_languages
from lexalcm.data.format.index import write_index
from lexalcm.data.format.manifest import Dtype, LanguageCount, ShardRecord, SplitRecord
from lexalcm.data.format.tar import END_OF_TAR, TAR_BLOCK, TarWriter, npy_header, padded
from lexalcm.data.format.target_spans import ANNOTATIONS, AnnotationsWriter, annotations_of
from lexalcm.errors import DataError
from lexalcm.json_text import parse_json

_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def shard_name(split: str, number: int) -> str:
    """File name of a shard: `train-000000.tar`."""
    return f"{split}-{number:06d}.tar"


def document_key(shard: int, place: int) -> str:
    """The WebDataset key of the document at a place (0, 1, ...) of a shard."""
    return f"{shard:06d}-{place:06d}"


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
        self._annotations = {name: AnnotationsWriter(numbers) for name, numbers in ANNOTATIONS.items()}

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
        for name, annotations in self._annotations.items():
            annotations.add(annotations_of(document, name))
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
            lang=number_languages(self._lang, languages),
            crc32=np.array(self._crc32, np.uint32),
            source=np.array(self._source, np.int32),
            annotations={name: annotations.finish() for name, annotations in self._annotations.items()},
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


def read_shard(path: Path) -> FinishedShard:
    """Read a whole shard again, for what was known of it when it was written.

    Raises:
        DataError: not a whole shard of this format.
    """
    digest = hashlib.sha256()
    offset, n, source, crc32 = array("q"), array("i"), array("i"), array("I")
    marked = {name: AnnotationsWriter(numbers) for name, numbers in ANNOTATIONS.items()}
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
                    document = parse_json(file.read(member.size))
                    lang = document["lang"]
                    langs.append(lang)
                    source.append(document.get("source", 0))
                    for name, annotations in marked.items():
                        annotations.add(annotations_of(document, name))
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
        lang=number_languages(langs, languages),
        crc32=np.array(crc32, np.uint32),
        source=np.array(source, np.int32),
        annotations={name: annotations.finish() for name, annotations in marked.items()},
    )
