"""The predictors that a model must beat: repeat the last concept, the mean of the training concepts, and the training
concept that followed the one nearest to the last.

"Repeat" is strong where neighbouring sentences are alike; the mean is the best constant in squared L2, so a model
that has learnt nothing about order cannot beat it there; the nearest continuation is what memory without understanding
can do. All need one pass over the data and no training.
"""

from collections.abc import Callable, Iterator

import numpy as np

from lexalcm.data.normalizer.fit import Documents
from lexalcm.errors import DataError
from lexalcm.evaluate.metrics.distances import BLOCK, unit_rows
from lexalcm.evaluate.metrics.scored_batch import BatchPrediction
from lexalcm.evaluate.run.batches import EvaluationBatch
from lexalcm.evaluate.run.evaluation_run import Predictor
from lexalcm.evaluate.settings import EvaluationSettings

REPEAT = "repeat the last concept"
MEAN = "the training mean"
NEAREST = "the nearest training continuation"

MEAN_CONCEPTS = 1_000_000
"""Training concepts that the mean is taken over: of a larger split, documents evenly spaced over it. The mean of
that many differs from the whole split's by about a thousandth of each dimension's spread."""

PredictNext = Callable[[np.ndarray], np.ndarray]
"""Predicts the concept after each: [n, dim] -> [n, dim]."""


NOTHING_FOLLOWS = (
    "no training document has two concepts, which the baseline nearest needs: omit it with --baselines repeat,mean"
)
EMPTY = "the training split is empty: only --baselines repeat is possible"


def baselines(train: Documents, settings: EvaluationSettings) -> Iterator[Predictor[EvaluationBatch, BatchPrediction]]:
    """The predictors that every model is compared with, each made when its turn comes.

    Args:
        train: the training split, without concepts that stand for roles.
        settings: which, and how.

    Raises:
        DataError: the training split holds nothing to make one of.
    """
    longest, learned = int(train.lengths.max(initial=0)), set(settings.baselines) - {"repeat"}
    if learned and not longest:
        raise DataError(EMPTY)
    if "nearest" in learned and longest < 2:
        raise DataError(NOTHING_FOLLOWS)
    return _each(train, settings)


def _each(train: Documents, settings: EvaluationSettings) -> Iterator[Predictor[EvaluationBatch, BatchPrediction]]:
    for name in settings.baselines:
        match name:
            case "repeat":
                yield _baseline(REPEAT, lambda concepts: concepts, settings)
            case "mean":
                mean, concepts = training_mean(train)
                yield _baseline(MEAN, _always(mean), settings, training_concepts=concepts)
            case "nearest":
                nearest = NearestContinuation(train, settings.neighbours)
                yield _baseline(NEAREST, nearest, settings, training_concepts=nearest.concepts)


def _baseline(
    name: str, after: PredictNext, settings: EvaluationSettings, **about: int
) -> Predictor[EvaluationBatch, BatchPrediction]:
    predict = continue_documents if settings.free else predict_targets
    return Predictor(name, "baseline", lambda batch, number: BatchPrediction(predict(batch, after)), about)


def _always(mean: np.ndarray) -> PredictNext:
    return lambda concepts: np.broadcast_to(mean, concepts.shape)


def predict_targets(batch: EvaluationBatch, after: PredictNext) -> np.ndarray:
    """Predict each target from the true sentence before it: [n, dim], other rows NaN.

    After a role that opens a conversation, from the role's concept.
    """
    places = np.flatnonzero(batch.targets)
    predictions = np.full(batch.embeddings.shape, np.nan)
    predictions[places] = after(batch.embeddings[_before(batch, places)])
    return predictions


def continue_documents(batch: EvaluationBatch, after: PredictNext) -> np.ndarray:
    """Predict each target from what was predicted before it, the first from the true one: [n, dim], other rows NaN."""
    targets = np.flatnonzero(batch.targets)
    behind = targets - batch.begins
    predictions = np.full(batch.embeddings.shape, np.nan)
    first = targets[behind == 0]
    predictions[first] = after(batch.embeddings[_before(batch, first)])
    for step in range(1, int(behind.max(initial=0)) + 1):
        places = targets[behind == step]
        predictions[places] = after(predictions[places - 1])
    return predictions


def _before(batch: EvaluationBatch, places: np.ndarray) -> np.ndarray:
    """The last sentence before each place; behind a role that opens a conversation, the role's concept."""
    return np.where(batch.sentences_before[places] > 0, batch.last_sentence[places], places - 1)


def training_mean(split: Documents, max_concepts: int = MEAN_CONCEPTS) -> tuple[np.ndarray, int]:
    """The mean of a split's concepts, streamed one document at a time.

    Returns:
        The mean, float64 [dim], in the space of the embeddings, and the number of concepts it was taken over.

    Raises:
        DataError: the split holds no concept.
    """
    total, count = 0.0, 0
    for document in _sample(split, max_concepts):
        embeddings = split.embeddings(int(document))
        total = total + embeddings.sum(axis=0, dtype=np.float64)
        count += len(embeddings)
    return np.asarray(total / count), count


class NearestContinuation:
    """Looks up the training concept of the largest cosine, and returns the one that followed it.

    The search is exact over a sample: whole documents, evenly spaced over the training split, with about the wanted
    number of concepts. A document's last concept is followed by nothing and is not looked for.
    """

    def __init__(self, split: Documents, max_concepts: int) -> None:
        """Take the sample.

        Raises:
            DataError: no document of the split has two concepts.
        """
        documents = [np.asarray(split.embeddings(int(number)), np.float32) for number in _sample(split, max_concepts)]
        documents = [document for document in documents if len(document) > 1]
        if not documents:
            raise DataError(NOTHING_FOLLOWS)
        self.concepts = sum(len(document) - 1 for document in documents)
        self._directions = np.concatenate([unit_rows(document[:-1]).astype(np.float32) for document in documents])
        self._followers = np.concatenate([document[1:] for document in documents])

    def __call__(self, concepts: np.ndarray) -> np.ndarray:
        """What follows the nearest neighbour of each: [n, dim] -> float32 [n, dim]."""
        wanted = unit_rows(concepts).astype(np.float32)
        rows = max(1, BLOCK // len(self._directions))
        nearest = [
            (wanted[start : start + rows] @ self._directions.T).argmax(axis=1) for start in range(0, len(wanted), rows)
        ]
        return self._followers[np.concatenate(nearest)] if nearest else np.empty_like(wanted)


def _sample(split: Documents, max_concepts: int) -> np.ndarray:
    """Documents evenly spaced over a split, with about `max_concepts` concepts in all."""
    concepts = int(np.asarray(split.lengths, dtype=np.int64).sum())
    if concepts == 0:
        raise DataError(EMPTY)
    documents = len(split.lengths)
    return spread(documents, max(1, min(documents, documents * max_concepts // concepts)))


def spread(documents: int, wanted: int) -> np.ndarray:
    """`wanted` document numbers, evenly spaced over all `documents`: int64 [wanted], ascending, without repeats."""
    return np.arange(wanted, dtype=np.int64) * documents // wanted
