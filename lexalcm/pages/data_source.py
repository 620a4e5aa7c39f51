"""The data of a data report, from either source.

A data set, in a folder or at an address, and parquet of embedded text as other tools write it (see
`lexalcm.pages.parquet_source`) give the same: lengths, and a sample with text and embeddings.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lexalcm.data.format.dataset import Dataset, Split
from lexalcm.data.format.manifest import MANIFEST_FILE
from lexalcm.data.format.storage import SPARSE_BLOCK
from lexalcm.data.normalizer.fit import fit_normalizer
from lexalcm.errors import DataError
from lexalcm.io.progress import Progress
from lexalcm.io.remote import is_remote, local_path
from lexalcm.pages.data_statistics import Sample, collect
from lexalcm.pages.parquet_source import ParquetSplit, open_parquet


@dataclass(frozen=True)
class SplitSize:
    """A line of the table of splits."""

    name: str
    documents: int
    concepts: int
    median: float | None
    longest: int | None


@dataclass(frozen=True)
class DataSource:
    """One split, ready to be drawn."""

    address: str
    split: str
    codec: str | None
    """Its name, or None where it is not known."""
    fingerprint: str | None
    dim: int
    splits: list[SplitSize]
    languages: int | None
    """Languages in all splits, or None where they are not known."""
    sample: Sample
    lengths: np.ndarray
    """Concepts of each document: of all where an index knows them, else of the sample."""
    lengths_of: str
    """What has these lengths: `documents` or `documents of the sample`."""
    notes: list[str]
    """How the sample was drawn, and problems of the data."""
    normalizer: Mapping[str, np.ndarray] | None
    normalizer_note: str


def open_source(path: Path | str, split: str, sentences: int, seed: int, batch: int, progress: Progress) -> DataSource:
    """Draw a sample of a split of a data set or of parquet files.

    Args:
        path: data set folder or address; a parquet file, a folder of such, or one with `Train/` and `Val/`.
        split: which to sample.
        sentences: how many, in whole documents.
        seed: of the draw.
        batch: documents read at a time.
        progress: opens a report of the documents read.

    Raises:
        DataError: nothing to read there, no such split, or no sentence in it.
    """
    if is_remote(path) or (local_path(path) / MANIFEST_FILE).exists():
        return _from_dataset(Dataset.open(path, block=SPARSE_BLOCK), split, sentences, seed, batch, progress)
    splits = open_parquet(local_path(path))
    if not splits:
        Dataset.open(path)  # raises an error that names what is missing
    if split not in splits:
        raise DataError(f"{path} has no split {split!r}: it has {', '.join(splits)}")
    return _from_parquet(str(path), splits, split, sentences, seed, batch, progress)


def _from_dataset(dataset: Dataset, name: str, sentences: int, seed: int, batch: int, progress: Progress) -> DataSource:
    split = dataset.split(name)
    chosen = choose_documents(split.lengths, sentences, seed)
    with progress("reading", "documents") as report:
        sample = collect(_documents(split, chosen, batch, lambda done: report(done, len(chosen))))
    total = int(split.lengths.sum(dtype=np.int64))
    whole = len(sample.embeddings) == total
    scale = dataset.normalizer()["scale"]
    manifest = dataset.manifest
    return DataSource(
        address=dataset.address,
        split=name,
        codec=manifest.codec.name,
        fingerprint=manifest.codec.fingerprint,
        dim=dataset.dim,
        splits=[_size(dataset, other, split if other == name else None) for other in manifest.splits],
        languages=len({language for record in manifest.splits.values() for language in record.languages}),
        sample=sample,
        lengths=split.lengths,
        lengths_of="documents",
        notes=[_sample_note(sample, total, seed) + ("" if whole else " Document lengths are those of all documents.")],
        normalizer=dataset.normalizer(),
        normalizer_note=f"normalizer scales {scale.min():.3g} to {scale.max():.3g} over {len(scale):,} dimensions",
    )


def choose_documents(lengths: np.ndarray, sentences: int, seed: int) -> np.ndarray:
    """Numbers of documents drawn at random until they have `sentences` in all: int64, ascending; empty ones left out.

    Raises:
        DataError: there is no sentence.
    """
    generator = np.random.default_rng(seed)
    total = int(lengths.sum(dtype=np.int64))
    if not total:
        raise DataError("the split has no sentences: there is nothing to show")
    if 2 * sentences >= total:
        order = generator.permutation(len(lengths))
        wanted = int(np.searchsorted(np.cumsum(lengths[order], dtype=np.int64), sentences)) + 1
        chosen = order[:wanted]
    else:  # a permutation of all would cost more than the rest of the report
        found: dict[int, int] = {}
        while sum(found.values()) < sentences:
            for document in generator.integers(len(lengths), size=max(64, sentences // 64)).tolist():
                found[document] = int(lengths[document])
        ends = np.cumsum(list(found.values()))
        chosen = np.array(list(found))[: int(np.searchsorted(ends, sentences)) + 1]
    return np.sort(chosen[lengths[chosen] > 0])


def _documents(
    split: Split, chosen: np.ndarray, batch: int, report: Callable[[int], None]
) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    for start in range(0, len(chosen), batch):
        some = chosen[start : start + batch].tolist()
        split.prefetch(some)
        for document in some:
            yield split.document(document), np.asarray(split.embeddings(document), dtype=np.float32)
        report(start + len(some))


def _size(dataset: Dataset, name: str, split: Split | None) -> SplitSize:
    lengths = (split or dataset.split(name)).lengths
    return SplitSize(
        name=name,
        documents=len(lengths),
        concepts=int(lengths.sum(dtype=np.int64)),
        median=float(np.median(lengths)) if len(lengths) else 0.0,
        longest=int(lengths.max(initial=0)),
    )


def _from_parquet(
    address: str,
    splits: dict[str, ParquetSplit],
    name: str,
    sentences: int,
    seed: int,
    batch: int,
    progress: Progress,
) -> DataSource:
    split = splits[name]
    with progress("reading", "rows") as report:
        drawn = list(split.draw(sentences, seed, batch, report))
    left_out = ", ".join(f"{count:,} with {reason}" for reason, count in split.left_out.most_common())
    if not drawn:
        raise DataError(f"{address} holds no row that can be used in {name}{f': {left_out}' if left_out else ''}")
    sample = collect(iter(drawn))
    whole = sentences >= split.sentences
    notes = [_sample_note(sample, None if whole else split.sentences, seed)]
    if left_out:
        notes.append(f"{split.left_out.total():,} rows that were drawn are left out: {left_out}.")
    normalizer, note = _fitted(sample)
    return DataSource(
        address=address,
        split=name,
        codec=None,
        fingerprint=None,
        dim=sample.embeddings.shape[1],
        splits=[SplitSize(other, part.documents, part.sentences, None, None) for other, part in splits.items()],
        languages=None,
        sample=sample,
        lengths=np.bincount(sample.documents),
        lengths_of="documents" if whole else "documents of the sample",
        notes=notes,
        normalizer=normalizer,
        normalizer_note=note,
    )


def _fitted(sample: Sample) -> tuple[dict[str, np.ndarray] | None, str]:
    try:
        return fit_normalizer(sample.embeddings), "normalizer fitted to the sample"
    except DataError as error:
        return None, f"no normalizer: {error}"


def _sample_note(sample: Sample, total: int | None, seed: int) -> str:
    """How much the page rests on; `total` is that of the split, None where the sample is all of it."""
    size = len(sample.embeddings)
    if total in (None, size):
        return f"Measured on all {size:,} sentences of the split."
    return (
        f"Measured on {size:,} of {total:,} sentences: {len(sample.names):,} whole documents drawn at random (seed "
        f"{seed})."
    )
