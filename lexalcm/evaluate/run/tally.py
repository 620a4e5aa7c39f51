"""Sums of numbers and weights per document and position, which are all that is kept of predictions, and their means.

The position of a target is the number of concepts before it; free-running, it is counted from the first target of the
continuation. Bins of positions are 1, 2, 3-4, 5-8, ..., each twice as wide as the one before.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lexalcm.evaluate.metrics.resampling import p_value, percentile_interval, ratios, resampled_totals
from lexalcm.evaluate.metrics.scored_batch import Values
from lexalcm.evaluate.report.report import Change, Estimate
from lexalcm.evaluate.run.batches import EvaluationBatch

CONFIDENCE = 0.95
BINS = 11  # the last one holds all positions from 513 on


def position_bins(batch: EvaluationBatch, *, free: bool = False) -> np.ndarray:
    """The bin of each target: int64 [targets]."""
    targets = batch.targets
    return bins_of(np.flatnonzero(targets) - batch.begins + 1 if free else batch.positions[targets])


def bins_of(positions: np.ndarray) -> np.ndarray:
    """The bin of each position, from 1: int64."""
    return np.minimum(np.ceil(np.log2(positions)).astype(np.int64), BINS - 1)


def bin_name(number: int) -> str:
    """Its positions, e.g. `5-8`."""
    first, last = (2 ** (number - 1) + 1 if number else 1), 2**number
    if number == BINS - 1:
        return f"{first}+"
    return str(last) if first == last else f"{first}-{last}"


def sums_per_document(
    batch: EvaluationBatch, values: Sequence[Values], *, free: bool = False, bins: int = BINS
) -> np.ndarray:
    """Add up metrics over the targets of each document and bin: float64 [2, metrics, documents, bins].

    The first half holds the numbers times their weights, the second the weights. All targets are in the first `bins`.
    """
    documents = len(batch.starts)
    cells = batch.documents[batch.targets] * bins + position_bins(batch, free=free)
    size = documents * bins
    return np.stack(
        [
            np.stack([np.bincount(cells, pair[half], minlength=size).reshape(documents, bins) for pair in values])
            for half in (0, 1)
        ]
    )


@dataclass(frozen=True)
class Summary:
    """Estimates of a group of documents."""

    scores: list[list[Estimate | None]]  # [predictor][metric]; None if there is no weight
    positions: list[list[list[Estimate | None]]]  # [bin][predictor][metric]
    changes: dict[tuple[int, int], list[Change | None]]  # (predictor, other) -> [metric], the first minus the second


def summarize(
    tallies: Sequence[np.ndarray],
    documents: np.ndarray,
    pairs: Sequence[tuple[int, int]],
    resamples: int,
    seed: int,
    *,
    by_position: bool,
) -> Summary:
    """Means with their intervals, for each predictor and for pairs of them.

    A number that rests on a single document has no interval and no p-value: the variance over documents is unknown.

    Args:
        tallies: of each predictor [2, metrics, bins, documents], as in `Outcome`.
        documents: int, those that are reported on.
        pairs: predictors that are compared.
        resamples, seed: of the bootstrap.
        by_position: also for each bin of positions.
    """
    _, metrics, bins, total = tallies[0].shape
    predictors = len(tallies)
    counts = np.zeros(total)
    counts[documents] = 1
    values = _means(np.stack([tally @ counts for tally in tallies]), by_position)
    carried = np.stack([_carriers(tally[1], counts) for tally in tallies]) > 1  # by more than one document
    means = None
    if carried.any():
        drawn = resampled_totals([tally.reshape(-1, total) for tally in tallies], documents, resamples, seed)
        means = _means(drawn.reshape(resamples, predictors, 2, metrics, bins), by_position)

    def estimate(part: int, predictor: int, metric: int) -> Estimate | None:
        value = float(values[predictor, metric, part])
        if np.isnan(value):
            return None
        if means is None or not carried[predictor, metric, part]:
            return Estimate(value, None, None)
        return Estimate(value, *percentile_interval(means[:, predictor, metric, part], CONFIDENCE))

    def change(one: int, other: int, metric: int) -> Change | None:
        value = float(values[one, metric, 0] - values[other, metric, 0])
        if np.isnan(value):
            return None
        if means is None or not (carried[one, metric, 0] and carried[other, metric, 0]):
            return Change(value, None, None)
        found = means[:, one, metric, 0] - means[:, other, metric, 0]
        return Change(value, *percentile_interval(found, CONFIDENCE), p_value(found))

    table = [
        [[estimate(part, predictor, metric) for metric in range(metrics)] for predictor in range(predictors)]
        for part in range(values.shape[-1])
    ]
    return Summary(
        scores=table[0],
        positions=table[1:],
        changes={(one, other): [change(one, other, metric) for metric in range(metrics)] for one, other in pairs},
    )


def _means(totals: np.ndarray, by_position: bool) -> np.ndarray:
    """Of [..., 2, metrics, bins]: the means of all bins together and, by place, of each: [..., metrics, 1 + bins]."""
    parts = totals.sum(axis=-1, keepdims=True)
    if by_position:
        parts = np.concatenate([parts, totals], axis=-1)
    return ratios(parts[..., 0, :, :], parts[..., 1, :, :])


def _carriers(weights: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """How many documents have weight, in all bins and in each: [metrics, bins, documents] -> [metrics, 1 + bins]."""
    whole = (weights.sum(axis=1) != 0) @ counts
    return np.concatenate([whole[:, None], (weights != 0) @ counts], axis=1)
