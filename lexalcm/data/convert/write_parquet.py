"""Write blocks as parquet: `Train/` and `Val/`, each folder in the layout of Meta's preparation pipeline.

    text_sentences              list<string>
    text_sentences_sonar_emb    list<fixed_size_list<float16 or float32, dim>>
    id, lang, title             string
    metadata                    string, JSON
    source                      int32: how many sentences are a pair's source
    turns, targets              string, JSON: of a conversation

A file has the last three from the first document on that has such, and null where a document has none: a file that was
begun without them is closed before, so that all of a file is of one schema. The schema says that it is of LexaLCM: only
then are these columns, when they are read back, what they are here.
`conversion.json` beside the two notes the codec, so that reading back needs no option.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lexalcm import __version__
from lexalcm.data.build.units import SplitName
from lexalcm.data.convert.blocks import Block
from lexalcm.data.convert.document_annotations import ANNOTATION_TYPES
from lexalcm.data.convert.settings import EMBEDDING_COLUMN, TEXT_COLUMN, WRITER
from lexalcm.data.format.manifest import Dtype, SplitRecord

FOLDERS: dict[SplitName, str] = {"train": "Train", "validation": "Val"}
NOTE_FILE = "conversion.json"
LEAF = f"{EMBEDDING_COLUMN}.list.element.list.element"  # how parquet calls the numbers: they do not compress


class ParquetSink:
    """Writes the files of all splits."""

    def __init__(self, folder: Path, dtype: Dtype, file_size: int, *, text: bool) -> None:
        self.folder = folder
        self.dtype = dtype
        self.file_size = file_size
        self.text = text
        self._annotations: set[str] = set()
        """Those that a document had so far."""
        self._open: dict[SplitName, pq.ParquetWriter] = {}
        self._bytes: dict[SplitName, int] = {}
        self._files: dict[SplitName, int] = {}

    def write(self, block: Block) -> None:
        """Write a block: a row group in each split that it has documents of."""
        self._annotations |= {name for document in block.documents for name in ANNOTATION_TYPES if name in document}
        side = np.array(block.splits)
        for split in FOLDERS:
            part = block.choose(side == split)
            if len(part):
                self._write(split, self._table(part), part.vectors.size * np.dtype(self.dtype).itemsize)

    def close(self) -> dict[SplitName, SplitRecord]:
        """Finish all files; there are no shards to tell of."""
        for writer in self._open.values():
            writer.close()
        self._open = {}
        return {}

    def _write(self, split: SplitName, table: pa.Table, size: int) -> None:
        if split in self._open:
            is_full = self._bytes[split] + size > self.file_size
            if is_full or self._open[split].schema.names != table.schema.names:
                self._open.pop(split).close()
        if split not in self._open:
            number = self._files.get(split, 0)
            path = self.folder / FOLDERS[split] / f"{number:06d}.parquet"
            path.parent.mkdir(exist_ok=True)
            self._open[split] = pq.ParquetWriter(
                path, table.schema, compression={LEAF: "none"}, use_dictionary=["lang"], write_statistics=["id", "lang"]
            )
            self._files[split], self._bytes[split] = number + 1, 0
        self._open[split].write_table(table)
        self._bytes[split] += size

    def _table(self, block: Block) -> pa.Table:
        offsets = pa.array(np.concatenate([[0], np.cumsum(block.n)]), pa.int32())
        numbers = np.ascontiguousarray(block.vectors, dtype=self.dtype)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(numbers.reshape(-1)), numbers.shape[1])
        columns = {
            name: pa.array([document[name] for document in block.documents], pa.string())
            for name in ("id", "lang", "title")
        }
        if self.text:
            flat = [sentence for document in block.documents for sentence in document["sentences"]]
            columns[TEXT_COLUMN] = pa.ListArray.from_arrays(offsets, pa.array(flat, pa.string()))
        columns[EMBEDDING_COLUMN] = pa.ListArray.from_arrays(offsets, vectors)
        metadata = [json.dumps(document.get("metadata", {}), ensure_ascii=False) for document in block.documents]
        columns["metadata"] = pa.array(metadata, pa.string())
        for name, kind in ANNOTATION_TYPES.items():
            if name in self._annotations:
                annotations = [document.get(name) for document in block.documents]
                columns[name] = (
                    pa.array(annotations, pa.int32()) if kind is int else pa.array(_as_json(annotations), pa.string())
                )
        return pa.table(columns).replace_schema_metadata({WRITER: __version__.encode()})


def _as_json(values: list[Any]) -> list[str | None]:
    return [None if value is None else json.dumps(value) for value in values]
