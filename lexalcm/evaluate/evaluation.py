"""The whole way of an evaluation: held-out documents -> predictions -> scores per document -> intervals.

Every predictor of a table sees the same documents, the same targets and the same candidates, in the same space: the
data set's normalized space without its clipping, (x - center) / scale, whatever normalizer a model holds inside. The
first concept of a document has no context and is no target; no end-of-text concept is appended. Only sums per
document are kept, so memory does not grow with the split beyond a few numbers per document.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from lexalcm import __version__
from lexalcm.data.dataset import Dataset, Split
from lexalcm.data.progress import Progress, silent
from lexalcm.errors import DataError
from lexalcm.evaluate.baselines import repeat_last, spread, training_mean
from lexalcm.evaluate.batches import EvaluationBatch, group_documents, order_documents, read_batches
from lexalcm.evaluate.bootstrap import percentile_interval, resampled_means
from lexalcm.evaluate.metrics import contrastive_accuracy, squared_l2
from lexalcm.evaluate.report import ALL, METRICS, Difference, Estimate, Evaluation, Row, Size

CONFIDENCE = 0.95
REPEAT = "repeat the last concept"
MEAN = "the training mean"

Predict = Callable[[EvaluationBatch, int], np.ndarray]
"""(batch, its number) -> predictions [n, dim] in the space of the embeddings."""


@dataclass(frozen=True)
class Predictor:
    """Something that predicts each concept from those before it."""

    name: str
    kind: Literal["model", "baseline"]
    predict: Predict
    settings: dict[str, Any]


def baselines(train: Split) -> list[Predictor]:
    """The predictors that every model is compared with."""
    mean, concepts = training_mean(train)
    return [
        Predictor(REPEAT, "baseline", lambda batch, number: repeat_last(batch.embeddings), {}),
        Predictor(
            MEAN,
            "baseline",
            lambda batch, number: np.broadcast_to(mean, batch.embeddings.shape),
            {"training_concepts": concepts},
        ),
    ]


def evaluate_predictors(
    predictors: Iterator[Predictor] | Sequence[Predictor],
    dataset: Dataset,
    *,
    split: str = "validation",
    batch: int = 512,
    corpus_order: bool = False,
    limit: int | None = None,
    resamples: int = 2000,
    seed: int = 0,
    progress: Progress = silent,
) -> Evaluation:
    """Score predictors on a split and compare every model with every baseline.

    Args:
        predictors: taken one after another, so that an iterator may load a model only when its turn comes.
        dataset: what is evaluated on; its normalizer defines the space of all distances.
        split: name of the held-out split.
        batch: least number of concepts that are compared with one another in contrastive accuracy.
        corpus_order: group neighbouring documents of the corpus, which are alike, into a batch; default random ones.
        limit: use this many documents, evenly spaced over the split; default all.
        resamples: bootstrap resamples of documents.
        seed: of the bootstrap.
        progress: opens a report of each predictor's documents.

    Raises:
        DataError: an unknown split, or one with no target or nothing to compare a prediction with.
    """
    held_out = dataset.split(split)
    documents = np.arange(len(held_out)) if limit is None else spread(len(held_out), min(limit, len(held_out)))
    documents = order_documents(documents, corpus_order=corpus_order)
    counts = np.maximum(np.asarray(held_out.lengths[documents], dtype=np.int64) - 1, 0)
    if not counts.any():
        raise DataError(
            f"split {split} of {dataset.address} has no document of two concepts or more: nothing to predict"
        )
    scored = np.flatnonzero(counts)
    languages = np.array([held_out.document(int(document))["lang"] for document in documents[scored]])
    groups = {ALL: np.ones(len(scored), dtype=bool)}
    groups |= {str(language): languages == language for language in np.unique(languages)}

    space = NormalizedSpace(dataset)
    rows: list[Row] = []
    sums = []
    for predictor in predictors:
        totals = np.zeros((len(METRICS), len(documents)))
        with progress(f"evaluating {predictor.name}", "documents") as report:
            for number, (places, held) in enumerate(read_batches(held_out, documents, batch)):
                totals[:, places] = _score(predictor.predict(held, number), held, space, split)
                report(int(places[-1]) + 1, len(documents))
        rows.append(Row(predictor.name, predictor.kind, {}, predictor.settings))
        sums.append(totals[:, scored])
        del predictor  # and with it a model's weights, before the next one is loaded
    scores_PMD = np.stack(sums)
    pairs = [
        (m, b)
        for m, model in enumerate(rows)
        for b, baseline in enumerate(rows)
        if model.kind == "model" and baseline.kind == "baseline"
    ]
    contrasts_CMD = np.concatenate([scores_PMD, *(scores_PMD[m : m + 1] - scores_PMD[b : b + 1] for m, b in pairs)])
    estimates = {
        language: _estimates(contrasts_CMD[:, :, chosen], counts[scored][chosen], resamples, seed)
        for language, chosen in groups.items()
    }

    def scores(contrast: int) -> dict[str, dict[str, Estimate]]:
        return {language: dict(zip(METRICS, found[contrast], strict=True)) for language, found in estimates.items()}

    return Evaluation(
        dataset={
            "path": dataset.address,
            "split": split,
            "codec": dataset.manifest.codec.model_dump(mode="json"),
            "documents_in_split": len(held_out),
            "batches": len(group_documents(held_out.lengths[documents], batch)),
            "concepts": int(held_out.lengths[documents].sum()),
        },
        settings={
            "batch": batch,
            "batch_order": "corpus" if corpus_order else "random",
            "limit": limit,
            "seed": seed,
            "resamples": resamples,
            "confidence": CONFIDENCE,
            "space": "normalized by the data set: (x - center) / scale",
            "lexalcm": __version__,
        },
        sizes={
            language: Size(int(chosen.sum()), int(counts[scored][chosen].sum())) for language, chosen in groups.items()
        },
        rows=[replace(row, scores=scores(index)) for index, row in enumerate(rows)],
        differences=[
            Difference(rows[m].name, rows[b].name, scores(len(rows) + index)) for index, (m, b) in enumerate(pairs)
        ],
    )


class NormalizedSpace:
    """The data set's normalized space, without clipping: an affine map, so that means stay means."""

    def __init__(self, dataset: Dataset) -> None:
        normalizer = dataset.normalizer()
        self.center = np.asarray(normalizer["center"], dtype=np.float64)
        self.scale = np.asarray(normalizer["scale"], dtype=np.float64)

    def __call__(self, embeddings: np.ndarray) -> np.ndarray:
        """[n, dim] -> float64 [n, dim]."""
        return (embeddings - self.center) / self.scale


def _score(predictions: np.ndarray, batch: EvaluationBatch, space: NormalizedSpace, split: str) -> np.ndarray:
    """Sums of each metric over the targets of each document of a batch: [metrics, documents of the batch]."""
    targets = batch.targets
    truth = space(batch.embeddings)
    predictions = space(predictions)
    distances = squared_l2(predictions[targets], truth[targets])
    accuracies = contrastive_accuracy(predictions, truth, batch.documents, targets)
    if np.isnan(accuracies).any():
        raise DataError(
            f"split {split} holds too few concepts for contrastive accuracy: "
            "after a target and its two neighbours, none is left to compare with"
        )
    owners = batch.documents[targets]
    documents = int((batch.positions == 0).sum())
    return np.stack([np.bincount(owners, weights=values, minlength=documents) for values in (distances, accuracies)])


def _estimates(scores: np.ndarray, counts: np.ndarray, resamples: int, seed: int) -> list[list[Estimate]]:
    """Means over targets with their intervals: [contrasts, metrics, documents] -> [contrast][metric]."""
    contrasts, metrics, documents = scores.shape
    values = scores.sum(-1) / counts.sum()
    if documents < 2:
        return [[Estimate(float(value), None, None) for value in row] for row in values]
    means = resampled_means(scores.reshape(contrasts * metrics, documents), counts, resamples, seed)
    intervals = [percentile_interval(column, CONFIDENCE) for column in means.T]
    return [
        [Estimate(float(values[c, m]), *intervals[c * metrics + m]) for m in range(metrics)] for c in range(contrasts)
    ]
