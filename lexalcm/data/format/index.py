"""The index of a split: where each document's numbers are in the shards, and what a training may choose documents by.

    train.index.npz      per document: shard, offset of the first number in the tar, n; crc32 of its numbers; and for
                         what a training may choose by: lang, a number in `languages`, and source, the sentences of a
                         pair's source

16 bytes a document are held in memory: shard, offset and n.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lexalcm.data.format.finished_shard import FinishedShard, number_languages
from lexalcm.data.format.manifest import LanguageCount, SplitRecord
from lexalcm.data.format.target_spans import ANNOTATIONS, Annotations
from lexalcm.errors import DataError
from lexalcm.io.atomic import atomic_file
from lexalcm.io.folders import inside
from lexalcm.io.reading import reading


class Index(NamedTuple):
    """Where the documents of a split are; arrays of one entry a document."""

    shard: np.ndarray
    """int32, number of the shard."""
    offset: np.ndarray
    """int64, byte offset of the first number within the shard."""
    n: np.ndarray
    """int32, sentences."""


_OF_DOCUMENTS: dict[str, type[np.generic]] = {
    **{"shard": np.int32, "offset": np.int64, "n": np.int32, "lang": np.uint16, "crc32": np.uint32, "source": np.int32},
    **{f"{name}_counts": np.int32 for name in ANNOTATIONS},
}
"""The columns with an entry a document, and their types."""

_TYPES = {**_OF_DOCUMENTS, "languages": np.str_, **dict.fromkeys(ANNOTATIONS, np.int32)}


def index_name(split: str) -> str:
    """File name of a split's index."""
    return f"{split}.index.npz"


def read_index(folder: Path, split: str) -> Index:
    """Read a split's index.

    Raises:
        DataError: missing or damaged.
    """
    return Index(**read_columns(folder, split, Index._fields))


def read_columns(folder: Path, split: str, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Read some arrays of a split's index; those that it does not have are left out.

    Raises:
        DataError: the index is missing or damaged, or lacks one of `Index`.
    """
    file = inside(folder, index_name(split))
    with reading(file, "build the data set again"), np.load(file, allow_pickle=False) as arrays:
        if missing := set(Index._fields) - set(arrays.files):
            raise ValueError(f"no array {min(missing)}")
        columns = {name: _checked(name, arrays[name]) for name in names if name in arrays.files}
        documents = len(columns["n"] if "n" in columns else arrays["n"])
        if any(len(column) != documents for name, column in columns.items() if name in _OF_DOCUMENTS):
            raise ValueError("arrays of different lengths")
        if "lang" in columns and (columns["lang"] >= len(arrays["languages"])).any():
            raise ValueError("languages without a name")
        return columns


def _checked(name: str, column: np.ndarray) -> np.ndarray:
    """A column in its type; raises `ValueError` where it holds anything else."""
    kind: Any = _TYPES[name]
    if column.ndim != (2 if name in ANNOTATIONS else 1) or column.dtype.kind not in ("U" if kind is np.str_ else "iu"):
        raise ValueError(f"{name} is {column.dtype} with {column.ndim} dimensions")
    if kind is not np.str_ and column.size and not 0 <= int(column.min()) <= int(column.max()) <= np.iinfo(kind).max:
        raise ValueError(f"{name} has a number that cannot be")
    return column.astype(kind, copy=False)


def read_annotations(folder: Path, split: str, name: str) -> Annotations | None:
    """Read a column of `ANNOTATIONS` of a split's index; None where no document has such.

    Raises:
        DataError: the index is missing or damaged.
    """
    columns = read_columns(folder, split, (*Index._fields, f"{name}_counts", name))
    if name not in columns:
        return None
    annotations = Annotations(columns.get(f"{name}_counts", np.empty(0, np.int32)), columns[name])
    whole = len(annotations.counts) == len(columns["n"]) and int(annotations.counts.sum(dtype=np.int64)) == len(
        annotations.values
    )
    if not whole or annotations.values.shape[1] != ANNOTATIONS[name]:
        raise DataError(f"{inside(folder, index_name(split))} is damaged (its {name}): build the data set again")
    return annotations


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
    numbers = [number_languages(sorted(shard.languages), names)[shard.lang] for shard in shards]
    with atomic_file(inside(folder, index_name(split))) as path, path.open("wb") as file:
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


def _marks_arrays(shards: Sequence[FinishedShard], sources: np.ndarray, n: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of an index for annotations; none where no document has any."""
    arrays: dict[str, np.ndarray] = {}
    for name, numbers in ANNOTATIONS.items():
        annotations = Annotations.concatenate([shard.annotations[name] for shard in shards], numbers)
        if len(annotations.values):
            if name == "targets":
                annotations = annotations.filled(np.stack([sources, n], axis=1))
            arrays |= {f"{name}_counts": annotations.counts, name: annotations.values}
    return arrays
