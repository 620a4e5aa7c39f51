"""Sums of numbers and weights per document and place in it: all that is kept of predictions, and what is made of it.

Places are counted from the first target of a free text, and by the concepts before a target where the truth is read:
1, 2, 3-4, 5-8, ..., each twice as wide as the one before.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lexalcm.evaluate.batches import EvaluationBatch
from lexalcm.evaluate.bootstrap import p_value, percentile_interval, resampled_means
from lexalcm.evaluate.report import Change, Estimate
from lexalcm.evaluate.scene import Values

CONFIDENCE = 0.95
BINS = 11  # the last one holds all places from 513 on


def place_bins(batch: EvaluationBatch, *, free: bool = False) -> np.ndarray:
    """The bin of each target: int64 [targets]."""
    targets = batch.targets
    return bins_of(np.flatnonzero(targets) - batch.begins + 1 if free else batch.positions[targets])


def bins_of(places: np.ndarray) -> np.ndarray:
    """The bin of each place, from 1: int64."""
    return np.minimum(np.ceil(np.log2(places)).astype(np.int64), BINS - 1)


def bin_name(number: int) -> str:
    """Its places, e.g. `5-8`."""
    first, last = (2 ** (number - 1) + 1 if number else 1), 2**number
    if number == BINS - 1:
        return f"{first}+"
    return str(last) if first == last else f"{first}-{last}"


def sums_per_document(batch: EvaluationBatch, values: Sequence[Values], *, free: bool = False) -> np.ndarray:
    """Add up metrics over the targets of each document and bin: float64 [2, metrics, documents, bins].

    The first half holds the numbers times their weights, the second the weights.
    """
    documents = len(batch.starts)
    cells = batch.documents[batch.targets] * BINS + place_bins(batch, free=free)
    size = documents * BINS
    return np.stack(
        [
            np.stack([np.bincount(cells, pair[half], minlength=size).reshape(documents, BINS) for pair in values])
            for half in (0, 1)
        ]
    )


@dataclass(frozen=True)
class Summary:
    """Estimates of a group of documents."""

    scores: list[list[Estimate | None]]  # [predictor][metric]; none where there is no weight
    places: list[list[list[Estimate | None]]]  # [bin][predictor][metric]
    changes: dict[tuple[int, int], list[Change | None]]  # (predictor, other) -> [metric], the first minus the second


def summarize(
    tallies: np.ndarray, pairs: Sequence[tuple[int, int]], resamples: int, seed: int, *, places: bool
) -> Summary:
    """Means with their intervals, for each predictor and for pairs of them.

    A number that a single document carries has no interval and no p-value: nothing is known of how documents differ.

    Args:
        tallies: [predictors, 2, metrics, documents, bins], as `sums_per_document` gives them.
        pairs: predictors that are compared.
        resamples, seed: of the bootstrap.
        places: also by bin.
    """
    predictors, _, metrics, documents, bins = tallies.shape
    parts = [tallies.sum(-1)]
    parts += [tallies[..., place] for place in range(bins)] if places else []
    columns = np.stack(parts)  # [1 + bins, predictors, 2, metrics, documents]
    shape = (len(parts), predictors, metrics)
    sums = columns[:, :, 0].reshape(-1, documents)
    weights = columns[:, :, 1].reshape(-1, documents)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = (sums.sum(-1) / weights.sum(-1)).reshape(shape)
    values[~np.isfinite(values)] = np.nan
    carried = ((weights != 0).sum(-1) > 1).reshape(shape)  # by more than one document
    means = resampled_means(sums, weights, resamples, seed).reshape(resamples, *shape) if carried.any() else None

    def estimate(part: int, predictor: int, metric: int) -> Estimate | None:
        value = float(values[part, predictor, metric])
        if np.isnan(value):
            return None
        if means is None or not carried[part, predictor, metric]:
            return Estimate(value, None, None)
        return Estimate(value, *percentile_interval(means[:, part, predictor, metric], CONFIDENCE))

    def change(one: int, other: int, metric: int) -> Change | None:
        value = float(values[0, one, metric] - values[0, other, metric])
        if np.isnan(value):
            return None
        if means is None or not (carried[0, one, metric] and carried[0, other, metric]):
            return Change(value, None, None)
        found = means[:, 0, one, metric] - means[:, 0, other, metric]
        return Change(value, *percentile_interval(found, CONFIDENCE), p_value(found))

    table = [
        [[estimate(part, predictor, metric) for metric in range(metrics)] for predictor in range(predictors)]
        for part in range(len(parts))
    ]
    return Summary(
        scores=table[0],
        places=table[1:],
        changes={(one, other): [change(one, other, metric) for metric in range(metrics)] for one, other in pairs},
    )
