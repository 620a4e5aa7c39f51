"""Check a data set against its manifest, down to the numbers, and go on after what is found.

    files      every shard is there, of its size and SHA-256; no shard is there that the manifest does not list
    index      agrees with manifest and tars: places, lengths, languages, pairs
    tar        each document's two members are in order, and nothing else is in the shard
    content    the array has the manifest's type and dimension and a row a sentence; the JSON is whole
    numbers    no NaN, no infinity, no zero vector; norms far from all others (a warning)
    text       no document twice (a warning)
    codec      is there (a warning if not), has the manifest's fingerprint, embeds sample sentences as they are stored,
               and decodes them
    the rest   normalizer and special concepts: their SHA-256, their numbers

Everything is read once, front to back, each document one at a time. A quick check reads a sample of the documents
instead, wherever the index says that they are, and takes no hashes; manifest, index, sidecar files and the sizes of
local shards are checked in full.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from lexalcm.codec.special import SPECIAL_CONCEPTS, SPECIAL_FILE
from lexalcm.data.format.dataset import Dataset
from lexalcm.data.format.manifest import MANIFEST_FILE, ShardRecord
from lexalcm.data.format.sidecar_files import changed_sidecar_files
from lexalcm.data.format.storage import SPARSE_BLOCK
from lexalcm.data.normalizer.fit import NORMALIZER_FILE
from lexalcm.errors import DataError, UserError
from lexalcm.io.remote import is_remote
from lexalcm.verify.dataset.codec import decode_sample, open_dataset_codec
from lexalcm.verify.dataset.documents import DocumentChecks
from lexalcm.verify.dataset.index import CheckedIndex, check_index
from lexalcm.verify.dataset.report import DataVerification
from lexalcm.verify.dataset.shards import CONTENT_CHANGED, ShardReader, stray_shards

QUICK_PLACES = 100
QUICK_DOCUMENTS = 10
"""A quick check reads QUICK_DOCUMENTS consecutive documents at each of QUICK_PLACES places of a split."""


def verify_dataset(
    path: Path | str,
    report: Callable[[int, int | None], None] = lambda _done, _all: None,
    *,
    quick: bool = False,
    seed: int = 0,
) -> DataVerification:
    """Check a data set.

    Args:
        path: its folder or address.
        report: called with (documents read, documents in all).
        quick: read a sample of the documents only.
        seed: of the sample, and of the sentences that are decoded.

    Returns:
        What was found. A folder whose manifest cannot be read gives a report of that one error.

    Raises:
        DataError: no data set at a remote address.
        RemoteError: the address does not answer.
    """
    found = DataVerification(str(path), quick=quick)
    try:
        dataset = Dataset.open(path, check_shards=False, check_sidecar_files=False, block=SPARSE_BLOCK)
    except UserError as error:
        if is_remote(path):
            raise
        found.error(MANIFEST_FILE, str(error))
        return found
    for name in changed_sidecar_files(dataset.path, dataset.manifest.companions):
        found.error(name, CONTENT_CHANGED)
    _check_normalizer(dataset, found)
    _check_special_concepts(dataset, found)
    codec = open_dataset_codec(dataset, found)
    checks = DocumentChecks(dataset.manifest, found)
    splits = dataset.manifest.splits
    indices = {name: check_index(dataset, name, found) for name in splits}
    samples = {name: list(_sample_places(split.shards, seed)) for name, split in splits.items()} if quick else {}
    if quick:
        total = sum(len(places) for sample in samples.values() for _, places in sample)
    else:
        total = sum(split.documents for split in splits.values())
    reader = ShardReader(dataset, found, checks, lambda: report(found.documents, total))
    for name, split in splits.items():
        index = indices[name]
        if quick:
            _read_sample(dataset, name, index, reader, samples[name])
        else:
            for number, shard in enumerate(split.shards):
                reader.read_whole(shard, number, None if index is None else index.of_shard(number))
        if not is_remote(path):
            for stray in stray_shards(dataset.path, name, split.shards):
                found.warn(stray, "not in the manifest")
    checks.finish()
    if codec is not None and dataset.manifest.text:
        decode_sample(dataset, codec, found, seed)
    return found


def _read_sample(
    dataset: Dataset, name: str, index: CheckedIndex | None, reader: ShardReader, sample: list[tuple[int, range]]
) -> None:
    records = dataset.manifest.splits[name].shards
    sampled = {number for number, _ in sample}
    present = {
        number: reader.check_file(record) is not None
        for number, record in enumerate(records)
        if number in sampled or not is_remote(dataset.address)  # asking for each of thousands would take long
    }
    if index is None:
        return
    shards = dataset.shards(name)
    for number, places in sample:
        part = index.of_shard(number)
        if present[number]:
            places = range(places.start, min(places.stop, len(part.n)))
            present[number] = reader.read_some(shards, records[number], number, part, places)


def _sample_places(shards: list[ShardRecord], seed: int) -> Iterator[tuple[int, range]]:
    """(shard, places in it) to read: stretches spread at random over all documents, in their order."""
    documents = np.array([shard.documents for shard in shards], np.int64)
    stretches = -(-documents // QUICK_DOCUMENTS)  # of each shard
    last = np.cumsum(stretches)
    total = int(last[-1]) if len(last) else 0
    chosen = np.sort(np.random.default_rng(seed).choice(total, min(total, QUICK_PLACES), replace=False))
    for stretch in chosen.tolist():
        shard = int(np.searchsorted(last, stretch, side="right"))
        first = (stretch - int(last[shard] - stretches[shard])) * QUICK_DOCUMENTS
        yield shard, range(first, min(first + QUICK_DOCUMENTS, int(documents[shard])))


def _check_normalizer(dataset: Dataset, found: DataVerification) -> None:
    try:
        stats = dataset.normalizer()
    except DataError as error:
        found.error(NORMALIZER_FILE, str(error))
        return
    for name in ("center", "scale"):
        _check_vector(NORMALIZER_FILE, name, stats, dataset.dim, found)
    if "scale" in stats and not (stats["scale"] > 0).all():
        found.error(NORMALIZER_FILE, "a scale is not positive")


def _check_special_concepts(dataset: Dataset, found: DataVerification) -> None:
    try:
        vectors = dataset.special_concepts()
    except DataError as error:
        found.error(SPECIAL_FILE, str(error))
        return
    for name in SPECIAL_CONCEPTS:
        _check_vector(SPECIAL_FILE, name, vectors, dataset.dim, found)


def _check_vector(file: str, name: str, vectors: dict[str, np.ndarray], dim: int, found: DataVerification) -> None:
    if name not in vectors:
        found.error(file, f"{name} is missing")
    elif vectors[name].shape != (dim,) or not np.isfinite(vectors[name]).all():
        found.error(file, f"{name} is not {dim} finite numbers")
