"""Fit the normalizer: a center and a scale per dimension, so that a model sees numbers near unit size.

Robust scaling (LCM paper, section 2.4): the center is the median; the scale is the distance between two quantiles
divided by what that distance is for a standard normal variable, 0.7413 x IQR for the quartiles, as scikit-learn's
`RobustScaler(unit_variance=True)`. The published code intends the quartiles but, giving 0.25 and 0.75 to a parameter
that counts in percent, measures between the 0.25th and the 0.75th percentile; `quantiles=(0.0025, 0.0075)` does that.

Up to `max_concepts` the fit is exact; above, it is made on a seeded uniform sample of so many concepts, whose quartiles
have a standard error of 0.0014 standard deviations at one million. Memory: the sample in its stored type (2 GB for a
million SONAR concepts in float16) and 64 columns of it in float64.
"""

from pathlib import Path
from statistics import NormalDist
from typing import Annotated, Literal, Protocol

import numpy as np
from pydantic import Field, model_validator
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from typing_extensions import Self

from lexalcm.atomic import atomic_file
from lexalcm.config import NonNegativeInt, PositiveInt, Settings
from lexalcm.errors import DataError

NORMALIZER_FILE = "normalizer.safetensors"

_COLUMNS_AT_ONCE = 64

Fraction = Annotated[float, Field(gt=0, lt=1)]


class NormalizerSettings(Settings):
    """How the normalizer is fitted."""

    method: Literal["robust", "standard"] = "robust"
    quantiles: tuple[Fraction, Fraction] = (0.25, 0.75)  # robust: the scale is measured between them
    clip_probability: Annotated[float, Field(gt=0, lt=0.5)] | None = None  # clip this share off at either end
    max_concepts: PositiveInt = 1_000_000  # above, a uniform sample of so many is used
    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def _quantiles_ascend(self) -> Self:
        if self.quantiles[0] >= self.quantiles[1]:
            raise ValueError("normalizer quantiles must ascend, e.g. 0.25 and 0.75")
        return self


class Documents(Protocol):
    """What the fit reads of a split: see `lexalcm.data.dataset.Split`."""

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
    settings = settings or NormalizerSettings()
    parts: list[list[np.ndarray]] = []
    for start in range(0, concepts.shape[1], _COLUMNS_AT_ONCE):
        block = concepts[:, start : start + _COLUMNS_AT_ONCE].astype(np.float64)
        if settings.method == "standard":
            center, scale = block.mean(axis=0), block.std(axis=0)
        else:
            low, high = settings.quantiles
            lower, center, upper = np.quantile(block, [low, 0.5, high], axis=0)
            scale = (upper - lower) / (NormalDist().inv_cdf(high) - NormalDist().inv_cdf(low))
        parts.append([center, scale])
        if settings.clip_probability is not None:
            with np.errstate(divide="ignore", invalid="ignore"):  # a zero scale is reported below
                normalized = (block - center) / scale
            parts[-1] += list(
                np.quantile(normalized, [settings.clip_probability, 1 - settings.clip_probability], axis=0)
            )
    names = ("center", "scale", "clip_min", "clip_max")
    columns = zip(*parts, strict=True)
    stats = {name: np.concatenate(part).astype(np.float32) for name, part in zip(names, columns, strict=False)}
    flat = np.flatnonzero(~(stats["scale"] > 0))
    if len(flat):
        shown = ", ".join(map(str, flat[:8])) + (", ..." if len(flat) > 8 else "")
        raise DataError(
            f"the normalizer's scale is zero in {len(flat)} of {concepts.shape[1]} dimensions ({shown}): "
            f"{len(concepts)} concepts are too few or too much alike; add text"
        )
    return stats


def sample_concepts(documents: Documents, max_concepts: int, seed: int) -> np.ndarray:
    """All concepts of a split, or a uniform sample without replacement of `max_concepts`: [n, dim], stored type.

    The sample depends on the lengths, `max_concepts` and `seed` only.
    """
    ends = np.cumsum(documents.lengths, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    if not total:
        raise DataError("the train split has no sentence: there is nothing to fit the normalizer on")
    if total <= max_concepts:
        return np.concatenate([documents.embeddings(i) for i in range(len(ends))])
    chosen = np.sort(np.random.default_rng(seed).choice(total, max_concepts, replace=False))
    document_of = np.searchsorted(ends, chosen, side="right")
    starts = ends - documents.lengths
    touched, first = np.unique(document_of, return_index=True)
    groups = zip(touched.tolist(), np.split(chosen, first[1:]), strict=True)
    return np.concatenate([documents.embeddings(i)[group - starts[i]] for i, group in groups])


def fit_on_documents(documents: Documents, settings: NormalizerSettings) -> dict[str, np.ndarray]:
    """Fit the normalizer on a split: exactly, or on a sample if it is large."""
    return fit_normalizer(sample_concepts(documents, settings.max_concepts, settings.seed), settings)


def save_normalizer(folder: Path, stats: dict[str, np.ndarray]) -> None:
    """Write a data set's normalizer in one step."""
    with atomic_file(folder / NORMALIZER_FILE) as file:
        save_file(stats, file)


def load_normalizer(folder: Path) -> dict[str, np.ndarray]:
    """Read a data set's normalizer.

    Raises:
        DataError: missing or damaged.
    """
    try:
        return load_file(folder / NORMALIZER_FILE)
    except FileNotFoundError as error:
        raise DataError(f"{folder} has no {NORMALIZER_FILE}: run `lcm data normalize {folder}`") from error
    except SafetensorError as error:
        raise DataError(f"{folder / NORMALIZER_FILE} is damaged: run `lcm data normalize {folder}`") from error
