"""Read parquet of sentences and embeddings: the layout of Meta's preparation pipeline, and that of LexaLCM's data sets.

A row is a document. `text_sentences` is a list of its sentences; `text_sentences_sonar_emb` their embeddings, as a list
of lists, a list of lists of fixed size, or the bytes of an array [n, dim] of little-endian float32 or float16
(`lexalcm.data.convert.embedding_bytes` tells which). LexaLCM keeps such files in two folders, `Train/` and
`Val/`; elsewhere a column `split` may say which side a row is on.

What a conversion to parquet wrote, as the file's schema says, is read back: whole numbers `source`, JSON text `turns`
and `targets` as annotations, and JSON objects in `metadata`; unless it is asked for as metadata by its name. In others
columns of these names are anybody's.

Files are read in record batches, whose numbers become one numpy array without a Python object in between; memory holds
a few batches, however large the files and their row groups. Arrow's decoding of nested lists takes longer than all that
follows, so it has a thread of its own.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lexalcm.data.build.segmented_store import document_position
from lexalcm.data.build.units import SplitName
from lexalcm.data.convert.blocks import BLOCK_BYTES, Block, read_ahead
from lexalcm.data.convert.document_annotations import ANNOTATION_TYPES, read_annotations_of
from lexalcm.data.convert.embedding_bytes import itemsize_of, look_like_float16
from lexalcm.data.convert.settings import ALL_COLUMNS, WRITER, ConvertSettings
from lexalcm.data.sources.arrow_columns import (
    as_array,
    as_python,
    check_unique,
    is_bytes,
    is_list,
    is_text,
    list_lengths,
    open_parquet,
    or_zero,
    plain_bytes,
    rows_not_utf8,
)
from lexalcm.errors import DataError
from lexalcm.io.folders import files_below
from lexalcm.text.absent import first_present, is_absent
from lexalcm.text.languages import LANGUAGE_FIELDS, record_language
from lexalcm.text.writable import writable

SONAR_DIM = 1024

SPLIT_NAMES: dict[str, SplitName] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
}


_FACTS = ("id", "title", "split", *LANGUAGE_FIELDS)
"""Columns that are used if they are there."""


@dataclass(frozen=True)
class ParquetSource:
    """A file."""

    path: Path
    name: str
    """How the report and the documents' ids call it."""
    split: SplitName | None = None
    """The side that all of its rows are on, if that is known."""


def find_parquet(path: Path) -> list[ParquetSource]:
    """The parquet files of a folder, in the order of their names; below `Train/` and `Val/` they know their side."""
    if path.is_file():
        return [ParquetSource(path, writable(path.name))]
    files = (file for file in files_below(path) if file.suffix.lower() == ".parquet")
    visible = [file for file in files if not any(part.startswith("_") for part in file.parts)]
    return [
        ParquetSource(
            path / file, writable(file.as_posix()), SPLIT_NAMES.get(file.parts[0].lower()) if file.parts[1:] else None
        )
        for file in visible
    ]


class ParquetReader:
    """Reads files as blocks."""

    def __init__(self, sources: Sequence[ParquetSource], settings: ConvertSettings) -> None:
        self.sources = sources
        self.settings = settings
        self.dim = settings.dim
        self._itemsize: int | None = None
        """Bytes of a number in the file that is read, once a batch of bytes was seen."""

    def count(self) -> int:
        """Rows in all files.

        Raises:
            DataError: a file that is not parquet, or lacks a column.
        """
        rows = 0
        for source in self.sources:
            with _opened(source) as file:
                self._check_columns(source, file.schema_arrow)
                rows += file.metadata.num_rows
        return rows

    def __iter__(self) -> Iterator[Block]:
        for source in self.sources:
            try:
                yield from self._read(source)
            except pa.ArrowException as error:
                raise DataError(f"{source.path} is damaged: {str(error).splitlines()[0]}") from error

    def _check_columns(self, source: ParquetSource, schema: pa.Schema) -> None:
        wanted = {"--embedding-column": self.settings.embedding_column}
        if self.settings.text:
            wanted["--text-column"] = self.settings.text_column
        for option, column in wanted.items():
            if column not in schema.names:
                also = " (or --no-text)" if option == "--text-column" else ""
                raise DataError(f"{source.path} has no column {column!r}: choose with {option}{also}: {_some(schema)}")
        for column in self.settings.metadata:
            if column != ALL_COLUMNS and column not in schema.names:
                raise DataError(f"{source.path} has no column {column!r}: choose with --metadata: {_some(schema)}")
        check_unique(schema, self._columns(schema), source.path)
        if self.settings.text:
            kind = schema.field(self.settings.text_column).type
            if not (is_list(kind) and is_text(kind.value_type)):
                raise DataError(f"{source.path}: column {self.settings.text_column!r} holds {kind}, not lists of text")

    def _read(self, source: ParquetSource) -> Iterator[Block]:
        with _opened(source) as file:
            schema = file.schema_arrow
            self._check_columns(source, schema)
            columns = [name for name in schema.names if name in self._columns(schema)]
            row = 0
            self._itemsize = None
            batches = file.iter_batches(batch_size=_batch_rows(file), columns=columns, use_threads=False)
            for batch in read_ahead(batches):
                yield self._block(source, batch, row)
                row += len(batch)

    def _columns(self, schema: pa.Schema) -> set[str]:
        settings = self.settings
        wanted = {settings.embedding_column, *_FACTS}
        wanted |= {*self._metadata(schema), *self._ours(schema)}
        return wanted | ({settings.text_column} if settings.text or self._counts_by_text(schema) else set())

    def _counts_by_text(self, schema: pa.Schema) -> bool:
        """Whether the text column tells the number of sentences of embeddings that are bytes."""
        return (
            self.settings.text_column in schema.names
            and is_list(schema.field(self.settings.text_column).type)
            and is_bytes(schema.field(self.settings.embedding_column).type)
        )

    def _metadata(self, schema: pa.Schema) -> list[str]:
        taken = {self.settings.embedding_column, self.settings.text_column, "id", "lang", "title", "split"}
        if ALL_COLUMNS in self.settings.metadata:
            return [name for name in schema.names if name not in taken | set(self._ours(schema))]
        return list(self.settings.metadata)

    def _ours(self, schema: pa.Schema) -> list[str]:
        """Columns that our own conversion wrote: annotations, and metadata as JSON."""
        found: list[str] = []
        if WRITER not in (schema.metadata or {}):
            return found
        for name, kind in [*ANNOTATION_TYPES.items(), ("metadata", str)]:
            if name in schema.names and name not in self.settings.metadata:
                stored = schema.field(name).type
                if pa.types.is_integer(stored) if kind is int else is_text(stored):
                    found.append(name)
        return found

    def _block(self, source: ParquetSource, batch: pa.RecordBatch, first: int) -> Block:
        rows = len(batch)
        problems = _Problems(rows)
        sentences: list[list[str]] | None = None
        counts: np.ndarray | None = None
        if self.settings.text:
            sentences, counts = _sentences(batch.column(self.settings.text_column), problems)
        stated = counts
        if counts is None and self._counts_by_text(batch.schema):
            stated = list_lengths(batch.column(self.settings.text_column))
        numbers, n = self._numbers(source, batch.column(self.settings.embedding_column), stated, problems)
        if counts is not None:
            for i in np.flatnonzero((counts != n) & problems.none).tolist():
                problems.add(i, "embeddings and sentences differ in number", f"{n[i]} and {counts[i]}")
        for i in np.flatnonzero((n == 0) & problems.none).tolist():
            problems.add(i, "no sentence")
        facts = {name: as_python(batch.column(name)) for name in _FACTS if name in batch.schema.names}
        metadata = {name: as_python(batch.column(name)) for name in self._metadata(batch.schema)}
        ours = {name: as_python(batch.column(name)) for name in self._ours(batch.schema)}
        written = ours.pop("metadata", None)
        documents: list[dict[str, Any]] = []
        splits: list[SplitName] = []
        for i in range(rows):
            given = {name: values[i] for name, values in facts.items()}
            given_id = first_present(given, "id")
            document: dict[str, Any] = {
                "id": f"{source.name}:{first + i}" if given_id is None else str(given_id),
                "lang": self._language(given, i, problems),
                "title": str(first_present(given, "title") or ""),
            }
            if sentences is not None:
                document["sentences"] = sentences[i]
            document |= _annotations({name: values[i] for name, values in ours.items()}, i, int(n[i]), problems)
            document["metadata"] = {} if written is None else _written_metadata(written[i], i, problems)
            document["metadata"] |= {name: _plain(values[i]) for name, values in metadata.items()}
            documents.append(document)
            splits.append(self._split(source, given.get("split"), i, document["id"], problems))
        found = [(first + i, kind, detail) for i, (kind, detail) in problems.found.items()]
        whole = Block(source.name, list(range(first, first + rows)), documents, splits, n, numbers, found)
        return whole.choose(problems.none)

    def _language(self, given: dict[str, Any], i: int, problems: "_Problems") -> str:
        try:
            return record_language(given, self.settings.lang)
        except DataError as error:
            problems.add(i, "unknown language", str(error))
            return self.settings.lang

    def _split(self, source: ParquetSource, given: Any, i: int, document_id: str, problems: "_Problems") -> SplitName:
        if source.split is not None:
            return source.split
        if not is_absent(given):
            if str(given).lower() not in SPLIT_NAMES:
                problems.add(i, "neither train nor validation", f"split {given!r}")
            return SPLIT_NAMES.get(str(given).lower(), "train")
        return "validation" if document_position(document_id) < self.settings.validation else "train"

    def _numbers(
        self, source: ParquetSource, column: pa.Array, counts: np.ndarray | None, problems: "_Problems"
    ) -> tuple[np.ndarray, np.ndarray]:
        """All vectors of the rows without a problem so far, [vectors, dim], and how many each row has, [rows]."""
        kind = column.type
        if is_bytes(kind):
            return self._from_bytes(source, plain_bytes(column), counts, problems)
        if not (is_list(kind) and (is_list(kind.value_type))):
            name = self.settings.embedding_column
            raise DataError(f"{source.path}: column {name!r} holds {kind}, not lists of vectors or bytes")
        n = list_lengths(column)
        vectors = column.flatten()
        lengths = list_lengths(vectors)
        values = vectors.flatten()
        if not pa.types.is_floating(values.type):
            raise DataError(f"{source.path}: column {self.settings.embedding_column!r} holds {kind}, not floats")
        numbers = as_array(pc.fill_null(values, math.nan) if values.null_count else values)
        if self.dim is None and len(lengths):
            found, times = np.unique(lengths, return_counts=True)
            self.dim = int(found[times.argmax()]) or None
        if self.dim is None:
            return np.empty((0, 1), np.float32), n * 0
        wrong = lengths != self.dim
        if wrong.any():
            row_of = np.repeat(np.arange(len(n)), n)
            for i, length in zip(row_of[wrong].tolist(), lengths[wrong].tolist(), strict=True):
                problems.add(i, "wrong dimension", f"{length}, expected {self.dim}")
            numbers = numbers[np.repeat(~wrong, lengths)]
            n = n - np.bincount(row_of[wrong], minlength=len(n))
        return numbers.reshape(-1, self.dim), n

    def _from_bytes(
        self, source: ParquetSource, column: pa.Array, counts: np.ndarray | None, problems: "_Problems"
    ) -> tuple[np.ndarray, np.ndarray]:
        if self.dim is None:
            if not self.settings.codec.startswith("sonar"):
                raise DataError(f"{source.path}: embeddings as bytes do not say their dimension: give --dim")
            self.dim = SONAR_DIM
        sizes = or_zero(pc.binary_length(column))
        itemsize = itemsize_of(sizes, counts, self.dim, self._itemsize)
        if itemsize is None:
            itemsize = 2 if look_like_float16(column, sizes) else 4
        if counts is None and self._itemsize not in (None, itemsize):
            raise DataError(
                f"{source.path}: embeddings as bytes that look like float32 and then like float16: without a column "
                "of sentences (--text-column) it is unknown which they are"
            )
        if sizes.any():
            self._itemsize = itemsize
        bytes_each = self.dim * itemsize
        wrong = sizes % bytes_each != 0
        for i in np.flatnonzero(wrong).tolist():
            problems.add(i, "wrong dimension", f"{sizes[i]} bytes, not a multiple of {self.dim} numbers")
        pieces = [column[i].as_buffer() for i in np.flatnonzero(~wrong & (sizes > 0)).tolist()]
        dtype = np.dtype(f"<f{itemsize}")
        arrays = [np.frombuffer(piece, dtype) for piece in pieces]
        numbers = np.concatenate(arrays) if arrays else np.empty(0, dtype)
        return numbers.reshape(-1, self.dim), np.where(wrong, 0, sizes // bytes_each)


class _Problems:
    """Why rows of a batch cannot be used; the first reason counts."""

    def __init__(self, rows: int) -> None:
        self.none = np.ones(rows, dtype=bool)
        self.found: dict[int, tuple[str, str]] = {}

    def add(self, row: int, kind: str, detail: str = "") -> None:
        self.none[row] = False
        self.found.setdefault(row, (kind, detail))


def _annotations(given: dict[str, Any], i: int, n: int, problems: _Problems) -> dict[str, Any]:
    """The annotations of row i, which has `n` sentences."""
    try:
        given = {name: json.loads(value) if isinstance(value, str) else value for name, value in given.items()}
        for name, value in given.items():
            if value is not None and type(value) is not ANNOTATION_TYPES[name]:
                raise ValueError(f"{name} {str(value)[:60]}")
        return read_annotations_of(given, n)
    except (ValueError, RecursionError) as error:
        problems.add(i, "impossible annotations", str(error))
        return {}


def _written_metadata(value: str | None, i: int, problems: _Problems) -> dict[str, Any]:
    """The metadata of row i, a JSON object."""
    try:
        found = json.loads(value or "{}")
        if not isinstance(found, dict):
            raise ValueError("no object")
        json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        problems.add(i, "impossible metadata", str(error))
        return {}
    return {name: _plain(item) for name, item in found.items()}


def _sentences(column: pa.Array, problems: _Problems) -> tuple[list[list[str]], np.ndarray]:
    """The sentences of each row, and how many they are."""
    counts = list_lengths(column)
    texts = column.flatten()
    flat = as_python(texts)
    ends = np.cumsum(counts)
    for i, byte in rows_not_utf8(column).items():
        problems.add(i, "not UTF-8", f"its sentences have the {byte}")
    if texts.null_count:
        missing = as_array(pc.indices_nonzero(texts.is_null()))
        for i in np.searchsorted(ends, missing, side="right").tolist():
            problems.add(i, "no sentence", "one of its sentences is missing")
    starts = (ends - counts).tolist()
    return [flat[start:end] for start, end in zip(starts, ends.tolist(), strict=True)], counts


def _plain(value: Any) -> Any:
    """A value as JSON can hold it; what it cannot, such as a time, as text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    return value if value is None or isinstance(value, str | int) else str(value)


def _some(schema: pa.Schema) -> str:
    return ", ".join(schema.names[:12]) + (", ..." if len(schema.names) > 12 else "")


def _opened(source: ParquetSource) -> pq.ParquetFile:
    try:
        return open_parquet(source.path, buffer_size=1 << 20, pre_buffer=False)
    except OSError as error:
        raise DataError(f"cannot read {source.path}: {error.strerror or error}") from error


def _batch_rows(file: pq.ParquetFile) -> int:
    """Rows that have about `BLOCK_BYTES` together, by the file's own account of its sizes."""
    metadata = file.metadata
    size = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    return max(1, min(4096, BLOCK_BYTES * max(1, metadata.num_rows) // max(1, size)))
