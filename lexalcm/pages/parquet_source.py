"""Draw documents from parquet files of embedded text, as Meta's preparation pipeline and LexaLCM write them.

    FOLDER/*.parquet                      a row a document: `text_sentences`, list of text, and
    FOLDER/Train/*.parquet, Val/*.parquet `text_sentences_sonar_emb`, a vector for each: list of lists, of fixed-size
                                          lists or of bytes, or the bytes of them all (float32)

Sizes come from the files' footers alone. For a sample, row groups are drawn until they hold some times the sentences
that are wanted, read some rows at a time, and of their rows as many kept as give that number: each row of the files has
the same chance, memory is that of the sample and a batch. Rows that cannot be used are left out and counted.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lexalcm.errors import DataError
from lexalcm.io.folders import entries, files_below

TEXT = "text_sentences"
EMBEDDINGS = "text_sentences_sonar_emb"
_ID, _LANGUAGE, _TITLE = ("id", "doc_id"), ("lang", "language"), ("title",)
_FOLDERS = {"train": "train", "val": "validation", "validation": "validation"}

UNKNOWN_LANGUAGE = "und"

READ_FOR_ONE = 4
"""Row groups with this many times the wanted number of sentences are read, so that neighbours do not dominate."""


@dataclass(frozen=True)
class _RowGroup:
    file: int
    number: int
    rows: int
    sentences: int


@dataclass
class ParquetSplit:
    """Parquet files of one split."""

    files: list[Path]
    left_out: Counter[str] = field(default_factory=Counter)
    """Rows of the sample that could not be used, by reason."""

    def __post_init__(self) -> None:
        self._groups = [group for number, file in enumerate(self.files) for group in _row_groups(number, file)]

    @property
    def documents(self) -> int:
        """Rows of all files."""
        return sum(group.rows for group in self._groups)

    @property
    def sentences(self) -> int:
        """Sentences of all files; an empty row counts as one, as parquet has it."""
        return sum(group.sentences for group in self._groups)

    def draw(
        self, sentences: int, seed: int, batch: int, report: Callable[[int, int | None], None]
    ) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
        """Yield about `sentences` of them, in whole rows: (id, lang, title, sentences), and float32 [n, dim].

        Raises:
            DataError: a file is damaged.
        """
        generator = np.random.default_rng(seed)
        everything = sentences >= self.sentences
        chosen, held = [], 0
        for place in generator.permutation(len(self._groups)).tolist():
            if not everything and held >= READ_FOR_ONE * sentences:
                break
            chosen.append(self._groups[place])
            held += self._groups[place].sentences
        share = 1.0 if everything else min(1.0, sentences / max(1, held))
        rows, done, dim = sum(group.rows for group in chosen), 0, None
        for group in sorted(chosen, key=lambda group: (group.file, group.number)):
            for records in self._batches(group, batch):
                kept = np.flatnonzero(generator.random(len(records)) < share)
                for row in kept.tolist():
                    number = f"{self.files[group.file].stem}:{group.number}:{done + row}"
                    document = _read_row(records, row, number, dim)
                    if isinstance(document, str):
                        self.left_out[document] += 1
                    else:
                        dim = document[1].shape[1]
                        yield document
                done += len(records)
                report(done, rows)

    def _batches(self, group: _RowGroup, batch: int) -> Iterator[pa.RecordBatch]:
        path = self.files[group.file]
        try:
            with pq.ParquetFile(path) as file:
                wanted = {TEXT, EMBEDDINGS, *_ID, *_LANGUAGE, *_TITLE}
                columns = [name for name in file.schema_arrow.names if name in wanted]
                yield from file.iter_batches(batch_size=batch, row_groups=[group.number], columns=columns)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path} is damaged: {error}") from error


def open_parquet(path: Path) -> dict[str, ParquetSplit]:
    """The splits of a parquet file, a folder of such, or one with `Train/` and `Val/`; none if there is no parquet.

    Raises:
        DataError: a file is damaged or lacks a column.
    """
    if path.is_file() and path.suffix == ".parquet":
        return {"train": ParquetSplit([path])}
    if not path.is_dir():
        return {}
    splits = {}
    for folder in entries(path):
        if folder.is_dir() and folder.name.lower() in _FOLDERS and (files := _parquet_below(folder)):
            splits[_FOLDERS[folder.name.lower()]] = ParquetSplit(files)
    if not splits and (files := _parquet_below(path)):
        splits["train"] = ParquetSplit(files)
    return splits


def _parquet_below(folder: Path) -> list[Path]:
    return [folder / name for name in files_below(folder) if name.suffix == ".parquet"]


def _row_groups(number: int, file: Path) -> Iterator[_RowGroup]:
    try:
        metadata = pq.read_metadata(file)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} is not parquet, or damaged: {error}") from error
    names = metadata.schema.to_arrow_schema().names
    for column in (TEXT, EMBEDDINGS):
        if column not in names:
            raise DataError(f"{file} has no column {column}: it has {', '.join(names)}")
    leaves = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
    text = next(i for i, leaf in enumerate(leaves) if leaf.split(".")[0] == TEXT)
    for i in range(metadata.num_row_groups):
        group = metadata.row_group(i)
        yield _RowGroup(number, i, group.num_rows, group.column(text).num_values)


def _read_row(
    records: pa.RecordBatch, row: int, number: str, dim: int | None
) -> tuple[dict[str, Any], np.ndarray] | str:
    """A row's document, or why it cannot be used."""
    sentences = records.column(TEXT)[row].as_py()
    if not sentences:
        return "no sentence"
    try:
        embeddings = _vectors(records.column(EMBEDDINGS)[row], len(sentences))
    except ValueError:
        return "vectors that do not fit the sentences"
    if dim is not None and embeddings.shape[1] != dim:
        return "another dimension"
    if not np.isfinite(embeddings).all():
        return "NaN or infinity"
    if not embeddings.any(axis=1).all():
        return "a zero vector"
    document = {"id": _first(records, row, _ID) or number, "lang": _first(records, row, _LANGUAGE) or UNKNOWN_LANGUAGE}
    return document | {"title": _first(records, row, _TITLE) or "", "sentences": [text or "" for text in sentences]}, (
        embeddings
    )


def _vectors(value: pa.Scalar, n: int) -> np.ndarray:
    """The vectors of a row: float32 [n, dim]."""
    if value is None or not value.is_valid:
        raise ValueError("null")
    if isinstance(value, pa.BinaryScalar):  # large binary is one too
        return np.frombuffer(value.as_py(), np.float32).reshape(n, -1)
    vectors = value.values
    if pa.types.is_binary(vectors.type) or pa.types.is_large_binary(vectors.type):
        return np.stack([np.frombuffer(vector, np.float32) for vector in vectors.to_pylist()]).reshape(n, -1)
    widths = {len(vector) for vector in vectors}
    if len(vectors) != n or len(widths) != 1:
        raise ValueError("ragged")
    flat = vectors.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    return flat.reshape(n, -1)


def _first(records: pa.RecordBatch, row: int, names: tuple[str, ...]) -> str:
    for name in names:
        if name in records.schema.names and (value := records.column(name)[row].as_py()) is not None:
            return str(value)
    return ""
