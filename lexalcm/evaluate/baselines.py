"""The two predictors that a model must beat: repeat the last concept, and the mean of the training concepts.

"Repeat" is strong where neighbouring sentences are alike; the mean is the best constant in squared L2, so a model
that has learnt nothing about order cannot beat it there. Both need one pass over the data and no training.
"""

import numpy as np

from lexalcm.data.dataset import Split
from lexalcm.errors import DataError

MEAN_CONCEPTS = 1_000_000
"""Training concepts that the mean is taken over: of a larger split, documents evenly spaced over it. The mean of
that many differs from the whole split's by about a thousandth of each dimension's spread."""


def repeat_last(concepts: np.ndarray) -> np.ndarray:
    """Predict each concept by the one before it: [n, dim] -> [n, dim], the first row NaN."""
    predictions = np.empty_like(concepts)
    predictions[:1] = np.nan
    predictions[1:] = concepts[:-1]
    return predictions


def training_mean(split: Split, max_concepts: int = MEAN_CONCEPTS) -> tuple[np.ndarray, int]:
    """The mean of a split's concepts, streamed one document at a time.

    Returns:
        The mean, float64 [dim], in the space of the embeddings, and the number of concepts it was taken over.

    Raises:
        DataError: the split holds no concept.
    """
    concepts = int(np.asarray(split.lengths, dtype=np.int64).sum())
    if concepts == 0:
        raise DataError("the training split is empty: its mean, a baseline of the evaluation, does not exist")
    wanted = max(1, min(len(split), len(split) * max_concepts // concepts))
    total, count = 0.0, 0
    for document in spread(len(split), wanted):
        embeddings = split.embeddings(int(document))
        total = total + embeddings.sum(axis=0, dtype=np.float64)
        count += len(embeddings)
    return np.asarray(total / count), count


def spread(documents: int, wanted: int) -> np.ndarray:
    """`wanted` document numbers, evenly spaced over all `documents`: int64 [wanted], ascending, without repeats."""
    return np.arange(wanted, dtype=np.int64) * documents // wanted
