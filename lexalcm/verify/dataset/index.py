"""Check the index of a split against the manifest; whether the tars agree is seen when they are read."""

import numpy as np

from lexalcm.data.format.dataset import Dataset
from lexalcm.data.format.index import Index, index_name
from lexalcm.data.format.target_spans import ANNOTATIONS, Annotations
from lexalcm.errors import DataError
from lexalcm.verify.dataset.report import DataVerification
from lexalcm.verify.dataset.shards import ShardIndex


class CheckedIndex:
    """An index whose documents are in the order of their shards."""

    def __init__(self, index: Index, columns: dict[str, np.ndarray], annotations: dict[str, Annotations]) -> None:
        self.index = index
        self.columns = columns
        self.annotations = annotations

    def of_shard(self, number: int) -> ShardIndex:
        """The part of one shard."""
        begin, end = np.searchsorted(self.index.shard, [number, number + 1])
        columns = {name: column[begin:end] for name, column in self.columns.items()}
        annotations = {
            name: annotations.part(int(begin), int(end)).lists() for name, annotations in self.annotations.items()
        }
        return ShardIndex(self.index.offset[begin:end], self.index.n[begin:end], columns, annotations)


def check_index(dataset: Dataset, name: str, found: DataVerification) -> CheckedIndex | None:
    """The index of a split, or None where it is of no use."""
    file = index_name(name)
    split = dataset.manifest.splits[name]
    try:
        index = dataset.index(name)
        columns = dataset.columns(name, ("lang", "languages", "source", "crc32"))
        annotations = {
            column: annotations
            for column in ANNOTATIONS
            if (annotations := dataset.annotations(name, column)) is not None
        }
    except DataError as error:
        found.error(file, str(error))
        return None
    if len(index.shard) and not 0 <= index.shard.min() <= index.shard.max() < len(split.shards):
        found.error(file, "documents in shards that the manifest does not list")
        return None
    if (np.diff(index.shard) < 0).any():
        found.error(file, "its documents are not in the order of their shards")
        return None
    documents = np.bincount(index.shard, minlength=len(split.shards))
    sentences = np.bincount(index.shard, weights=index.n, minlength=len(split.shards))
    for number, shard in enumerate(split.shards):
        counts = int(documents[number]), int(sentences[number])
        if counts != (shard.documents, shard.sentences):
            indexed = f"{shard.file}: {counts[0]} documents of {counts[1]} sentences"
            found.error(file, f"{indexed}, the manifest says {shard.documents} of {shard.sentences}")
    width = dataset.dim * np.dtype(dataset.manifest.dtype).itemsize
    bytes_of = np.array([shard.bytes for shard in split.shards], np.int64)
    outside = index.offset > bytes_of[index.shard] - index.n * np.int64(width)
    if outside.any():
        found.error(file, f"{outside.sum()} documents lie outside their shards, the first is {outside.argmax()}")
    return CheckedIndex(index, _check_columns(dataset, name, columns, found), annotations)


def _check_columns(
    dataset: Dataset, name: str, columns: dict[str, np.ndarray], found: DataVerification
) -> dict[str, np.ndarray]:
    """The columns of an index that are compared with each document's JSON, languages as text."""
    file = index_name(name)
    usable: dict[str, np.ndarray] = {column: columns[column] for column in ("source", "crc32") if column in columns}
    if "lang" in columns:
        names = columns.get("languages", np.empty(0, np.str_))
        lang = columns["lang"]
        counts = dict(zip(names.tolist(), np.bincount(lang, minlength=len(names)).tolist(), strict=True))
        expected = {key: count.documents for key, count in dataset.manifest.splits[name].languages.items()}
        if {key: count for key, count in counts.items() if count} != {k: n for k, n in expected.items() if n}:
            found.error(file, "numbers of documents per language differ from the manifest's")
        usable["lang"] = names[lang] if len(lang) else names
    return usable
