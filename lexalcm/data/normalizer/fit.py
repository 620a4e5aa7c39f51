"""Fit the normalizer: a center and a scale per dimension, so that a model sees numbers near unit size.

Robust scaling (LCM paper, section 2.4): the center is the median; the scale is the distance between two quantiles
divided by what that distance is for a standard normal variable, 0.7413 x IQR for the quartiles, as scikit-learn's
`RobustScaler(unit_variance=True)`. The published code intends the quartiles but, giving 0.25 and 0.75 to a parameter
that counts in percent, measures between the 0.25th and the 0.75th percentile; `quantiles=(0.0025, 0.0075)` does that.

Up to `max_concepts` the fit is exact; above, it is made on a seeded uniform sample of that size, whose quartiles
have a standard error of 0.001 standard deviations at two million. Data sets in float16 may raise `max_concepts` to any
number: they are counted by value in bounded memory (see `lexalcm.data.normalizer.quantiles`), about 5 s a million
concepts of SONAR. Data sets in float32 are kept in memory, up to `MAX_KEPT_BYTES`.

Of a mixture, each data set gets its share of the sample, or all that it has; the shares hold exactly, because every
concept has a weight.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Annotated, Literal, Protocol

import numpy as np
from pydantic import Field, model_validator
from safetensors.numpy import load_file, save_file
from typing_extensions import Self

from lexalcm.config import NonNegativeInt, PositiveInt, Settings
from lexalcm.data.batches.permutation import derive_key, permute
from lexalcm.data.normalizer.quantiles import Counts, Float16Counts, KeptNumbers, merge
from lexalcm.errors import ConfigError, DataError
from lexalcm.io.atomic import atomic_file
from lexalcm.io.reading import reading

NORMALIZER_FILE = "normalizer.safetensors"

MAX_KEPT_BYTES = 8 << 30
"""Of a fit on numbers in float32."""

_BLOCK_CONCEPTS = 1 << 15

Fraction = Annotated[float, Field(gt=0, lt=1)]


class NormalizerSettings(Settings):
    """How the normalizer is fitted."""

    method: Literal["robust", "standard"] = "robust"
    quantiles: tuple[Fraction, Fraction] = (0.25, 0.75)  # robust: the scale is measured between them
    clip_probability: Annotated[float, Field(gt=0, lt=0.5)] | None = None  # clip this share off at either end
    max_concepts: PositiveInt = 2_000_000  # above, a uniform sample of that size is used
    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def _quantiles_ascend(self) -> Self:
        if self.quantiles[0] >= self.quantiles[1]:
            raise ValueError("normalizer quantiles must ascend, e.g. 0.25 and 0.75")
        return self


class Documents(Protocol):
    """What the fit reads of a split: see `lexalcm.data.format.dataset.Split`."""

    lengths: np.ndarray

    def embeddings(self, i: int) -> np.ndarray:
        """The concepts of document i: [n, dim]."""
        ...


def fit_normalizer(concepts: np.ndarray, settings: NormalizerSettings | None = None) -> dict[str, np.ndarray]:
    """Fit center and scale on concepts [n, dim].

    Returns:
        `center`, `scale`, and with a `clip_probability` also `clip_min`, `clip_max` (bounds of the normalized numbers):
        float32 [dim] each.

    Raises:
        DataError: a dimension without spread, whose scale would be zero.
    """
    counts = _counts_for(concepts.dtype, concepts.shape[1])
    counts.add(concepts)
    return _fit([counts], [1.0], settings or NormalizerSettings())


def fit_on_documents(documents: Documents, settings: NormalizerSettings) -> dict[str, np.ndarray]:
    """Fit the normalizer on a split: exactly, or on a sample if it is large. Raises as `fit_on_mixture`."""
    return fit_on_mixture([documents], None, settings)


def fit_on_mixture(
    sets: Sequence[Documents], weights: Sequence[float] | None, settings: NormalizerSettings
) -> dict[str, np.ndarray]:
    """Fit the normalizer on several data sets.

    Args:
        sets: splits of data sets of one codec.
        weights: share of each, relative to the others; None: every concept counts the same.
        settings: how.

    Returns:
        As `fit_normalizer`.

    Raises:
        DataError: a data set without a sentence, or a dimension without spread.
    """
    totals = np.array([int(documents.lengths.sum(dtype=np.int64)) for documents in sets], np.float64)
    if not totals.all():
        raise DataError("the train split has no sentence: there is nothing to fit the normalizer on")
    shares = totals / totals.sum() if weights is None else np.array(weights, np.float64) / sum(weights)
    found = []
    for documents, share, total in zip(sets, shares, totals.astype(np.int64).tolist(), strict=True):
        room = settings.max_concepts * (share if totals.sum() > settings.max_concepts else 1)
        count = min(total, max(1, round(room)))
        counts: Counts | None = None
        for block in sample_concepts(documents, count, settings.seed):
            if counts is None:
                counts = _counts_for(block.dtype, block.shape[1])
                if isinstance(counts, KeptNumbers):
                    _check_room(count, block, settings)
            counts.add(block)
        assert counts is not None
        found.append(counts)
    return _fit(found, shares.tolist(), settings)


def sample_concepts(documents: Documents, count: int, seed: int) -> Iterator[np.ndarray]:
    """Yield a uniform sample of `count` concepts without replacement, or all of them, in blocks [n, dim] as stored.

    The sample depends on the lengths, `count` and `seed` only. Memory: a block, and 24 bytes a concept of a sample.
    """
    ends = np.cumsum(documents.lengths, dtype=np.int64)
    total = int(ends[-1])
    if count >= total:
        touched, groups = np.flatnonzero(documents.lengths), None
    else:
        chosen = np.sort(permute(np.arange(count), total, derive_key(seed)))
        document_of = np.searchsorted(ends, chosen, side="right")
        touched, first = np.unique(document_of, return_index=True)
        groups = np.split(chosen - (ends - documents.lengths)[document_of], first[1:])
    block: list[np.ndarray] = []
    held = 0
    for place, document in enumerate(touched.tolist()):
        concepts = documents.embeddings(document)
        block.append(concepts if groups is None else concepts[groups[place]])
        held += len(block[-1])
        if held >= _BLOCK_CONCEPTS:
            yield np.concatenate(block)
            block, held = [], 0
    if block:
        yield np.concatenate(block)


def _counts_for(dtype: np.dtype, dim: int) -> Counts:
    return Float16Counts(dim) if dtype == np.float16 else KeptNumbers()


def _check_room(concepts: int, block: np.ndarray, settings: NormalizerSettings) -> None:
    most = MAX_KEPT_BYTES // block[0].nbytes
    if concepts > most:
        raise ConfigError(
            f"fitting on {settings.max_concepts:,} concepts of {block.dtype} takes more than "
            f"{MAX_KEPT_BYTES >> 30} GiB of memory: set max_concepts to {most:,} or less"
        )


def _fit(sets: Sequence[Counts], shares: Sequence[float], settings: NormalizerSettings) -> dict[str, np.ndarray]:
    low, high = settings.quantiles
    clip = () if settings.clip_probability is None else (settings.clip_probability, 1 - settings.clip_probability)
    unit = NormalDist().inv_cdf(high) - NormalDist().inv_cdf(low)
    found: dict[str, list[float]] = {"center": [], "scale": [], "clip_min": [], "clip_max": []}
    for column in merge(sets, shares):
        if settings.method == "standard":
            center, scale = column.mean_and_deviation()
            bounds = column.quantiles(clip)
        else:
            lower, center, upper, *bounds = column.quantiles((low, 0.5, high, *clip)).tolist()
            scale = (upper - lower) / unit
        found["center"].append(center)
        found["scale"].append(scale)
        for name, bound in zip(("clip_min", "clip_max"), bounds, strict=False):
            found[name].append((bound - center) / scale if scale > 0 else 0.0)
    stats = {name: np.array(values, np.float32) for name, values in found.items() if values}
    flat = np.flatnonzero(~(stats["scale"] > 0))
    if len(flat):
        shown = ", ".join(map(str, flat[:8])) + (", ..." if len(flat) > 8 else "")
        raise DataError(
            f"the normalizer's scale is zero in {len(flat)} of {len(stats['scale'])} dimensions ({shown}): "
            f"{sum(counts.rows for counts in sets)} concepts are too few or too much alike; add text"
        )
    return stats


def save_normalizer(folder: Path, stats: dict[str, np.ndarray]) -> None:
    """Write a data set's normalizer in one step."""
    write_stats(folder / NORMALIZER_FILE, stats)


def write_stats(file: Path, stats: dict[str, np.ndarray]) -> None:
    """Write what a fit gave in one step."""
    with atomic_file(file) as temporary:
        save_file(stats, temporary)


def read_stats(file: Path) -> dict[str, np.ndarray]:
    """Read what `write_stats` wrote.

    Raises:
        DataError: missing, damaged, or not what a fit gives.
    """
    with reading(file, "write one with `lcm data normalize ... -o FILE`"):
        stats = load_file(file)
    if not {"center", "scale"} <= set(stats):
        raise DataError(f"{file} holds no normalizer: write one with `lcm data normalize ... -o FILE`")
    return stats


def load_normalizer(folder: Path) -> dict[str, np.ndarray]:
    """Read a data set's normalizer.

    Raises:
        DataError: missing or damaged.
    """
    advice = f"run `lcm data normalize {folder}`"
    with reading(folder / NORMALIZER_FILE, advice, missing=f"{folder} has no {NORMALIZER_FILE}: {advice}"):
        return load_file(folder / NORMALIZER_FILE)
