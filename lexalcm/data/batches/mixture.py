"""The data sets of a training: opened, checked to fit together, and each with what is done to its documents.

All data sets of a mixture have one codec. Each has its own special concepts, longest window, languages, and pairs; the
weights decide how much of each an epoch holds (see `lexalcm.data.batches.plan`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lexalcm.codec.base import CodecRecord
from lexalcm.data.batches.special_concepts import special_vectors
from lexalcm.data.batches.windows import Documents
from lexalcm.data.format.dataset import Dataset, Split
from lexalcm.data.format.storage import check_shard
from lexalcm.data.format.target_spans import TargetSpans
from lexalcm.data.settings import DataSettings, SetSettings
from lexalcm.errors import CodecError, ConfigError, DataError, ShardError
from lexalcm.io.folders import inside
from lexalcm.io.remote import is_remote

TRAIN_SPLIT = "train"


@dataclass(frozen=True)
class Part:
    """One split of one data set of a mixture."""

    split: Split
    documents: Documents
    """What the plan has to know of it."""
    prefix: np.ndarray
    """[concepts before every document, dim]"""
    suffix: np.ndarray
    """[concepts behind every document, dim]"""


class Mixture:
    """One or several data sets."""

    def __init__(self, datasets: Sequence[Dataset], settings: DataSettings) -> None:
        """Put data sets together.

        Args:
            datasets: as many as `settings.all_sets`, in that order.
            settings: what is done to the documents of each.

        Raises:
            CodecError: two of them have different codecs.
        """
        self.datasets = list(datasets)
        self.settings = settings
        check_one_codec(self.datasets)

    @classmethod
    def open(cls, settings: DataSettings) -> "Mixture":
        """Open the data sets that the settings name.

        Raises:
            DataError: as `Dataset.open`; missing and truncated shards only if bad ones are not to be skipped.
            CodecError: two of them have different codecs.
        """
        check = settings.on_bad_shard == "error"
        return cls([Dataset.open(one.path, check_shards=check) for one in settings.all_sets], settings)

    @property
    def codec(self) -> CodecRecord:
        """The codec of all data sets."""
        return self.datasets[0].manifest.codec

    @property
    def dim(self) -> int:
        """Numbers of a concept."""
        return self.datasets[0].dim

    def parts(self, name: str) -> list[Part]:
        """A split of each data set; `train` is required of all, others of none.

        Raises:
            ConfigError: an unknown special concept, language or a pair setting that does not fit the data set.
            DataError: no such split, or its index is missing or damaged.
        """
        pairs = zip(self.datasets, self.settings.all_sets, strict=True)
        if name == TRAIN_SPLIT:
            return [self._part(dataset, one, name) for dataset, one in pairs]
        parts = [self._part(dataset, one, name) for dataset, one in pairs if name in dataset.manifest.splits]
        return [part for part in parts if part.documents.chosen is None or part.documents.chosen.any()]

    def bad_shards(self) -> list[str]:
        """What is wrong with shards of local data sets that are missing or of the wrong size: a line each."""
        found = []
        for dataset in self.datasets:
            if is_remote(dataset.address):
                continue
            for shard in (shard for split in dataset.manifest.splits.values() for shard in split.shards):
                try:
                    check_shard(inside(dataset.path, shard.file), shard.bytes)
                except ShardError as error:
                    found.append(str(error))
        return found

    def _part(self, dataset: Dataset, settings: SetSettings, name: str) -> Part:
        suffix = settings.suffix
        if suffix is None:
            suffix = ("end_of_text",) if self.settings.end_of_text else ()
        split = dataset.split(name)
        split.check_hashes |= self.settings.check_hashes
        documents = Documents(
            lengths=split.lengths,
            **_targets(dataset, settings, split.lengths, name),
            chosen=_chosen(dataset, settings, name),
            prefix=len(settings.prefix),
            suffix=len(suffix),
            max_length=settings.max_length,
            weight=settings.weight,
        )
        dtype = np.dtype(dataset.manifest.dtype)
        prefix, behind = (special_vectors(dataset, names).astype(dtype) for names in (settings.prefix, suffix))
        return Part(split, documents, prefix, behind)


def check_one_codec(datasets: Sequence[Dataset]) -> None:
    """Make sure that the embeddings of data sets may be mixed.

    Raises:
        CodecError: two have different codecs.
    """
    first = datasets[0]
    for other in datasets[1:]:
        codecs = [(dataset.manifest.codec.dim, dataset.manifest.codec.fingerprint) for dataset in (first, other)]
        if codecs[0] != codecs[1]:
            shown = " and ".join(f"{dataset.address} ({_describe(dataset)})" for dataset in (first, other))
            raise CodecError(f"{shown} have different codecs: embed one of them again with the other's codec")


def _describe(dataset: Dataset) -> str:
    codec = dataset.manifest.codec
    return f"{codec.name} {codec.fingerprint[:12]}, {codec.dim} dimensions"


def _targets(dataset: Dataset, settings: SetSettings, lengths: np.ndarray, split: str) -> dict[str, Any]:
    """Which concepts are targets, for `Documents`."""
    if settings.pairs is False:
        return {}
    spans = dataset.annotations(split, "targets")
    if spans is not None:  # of pairs among the conversations too
        return {"targets": TargetSpans(spans, lengths)}
    sources = dataset.columns(split, ["source"]).get("source")
    if sources is None and settings.pairs:
        raise ConfigError(f"{dataset.address} has no pairs of source and target ({split}): remove pairs: true")
    return {"sources": sources}


def _chosen(dataset: Dataset, settings: SetSettings, split: str) -> np.ndarray | None:
    if settings.languages is None:
        return None
    known = dataset.manifest.splits[TRAIN_SPLIT].languages
    if unknown := [lang for lang in settings.languages if lang not in known]:
        raise ConfigError(f"{dataset.address} has no documents in {unknown[0]}: it has {', '.join(known)}")
    present = dataset.manifest.splits[split].languages
    if set(settings.languages) >= set(present):
        return None
    columns = dataset.columns(split, ["lang", "languages"])
    if len(columns) < 2:
        raise DataError(f"the index of {dataset.address} has no languages to choose by: lcm data convert it once")
    numbers = np.flatnonzero(np.isin(columns["languages"], settings.languages))
    return np.isin(columns["lang"], numbers)
