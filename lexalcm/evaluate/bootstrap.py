"""Intervals by resampling documents, the unit that is independent: sentences of one document are not.

Each resample draws as many documents as there are, with replacement, and takes the mean over all their targets. All
rows of a table share the draws, so a difference of two rows is resampled in pairs: what makes a document hard for
both cancels. Costs one matrix product of [resamples, documents] draws, in blocks of 32 MB.

With few documents (under about 20) percentile intervals are somewhat too narrow.
"""

import numpy as np

BLOCK = 2**22  # draws held at a time


def resampled_means(sums: np.ndarray, counts: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Means over targets in resampled sets of documents.

    Args:
        sums: float [k, documents], the sum of each of k metrics over a document's targets.
        counts: int [documents], its number of targets, none of them 0.
        resamples: how many sets are drawn.
        seed: of the draws; the same seed and number of documents give the same draws.

    Returns:
        float64 [resamples, k].
    """
    documents = len(counts)
    generator = np.random.default_rng(seed)
    columns = np.concatenate([np.asarray(sums, dtype=np.float64), np.asarray(counts, dtype=np.float64)[None]]).T
    rows = max(1, BLOCK // documents)
    shares = np.full(documents, 1 / documents)
    totals = np.concatenate(
        [
            generator.multinomial(documents, shares, size=min(rows, resamples - start)).astype(np.float64) @ columns
            for start in range(0, resamples, rows)
        ]
    )
    return totals[:, :-1] / totals[:, -1:]


def percentile_interval(means: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """The central interval that holds `confidence` of the resampled values: [resamples] -> (low, high)."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
