"""A batch with one predictor's predictions: what metrics of a data set are computed from.

A prediction's context is one of two. Teacher-forced, it is the document itself up to the target. Free-running, it is
the beginning of the document and then what the predictor wrote. A `Passage` is such a context with its targets: a
whole document, or a continuation with what it continues.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from lexalcm.codec.base import Codec
from lexalcm.evaluate.metrics.distances import largest_context_cosines
from lexalcm.evaluate.metrics.text_of_concepts import decode_texts
from lexalcm.evaluate.run.batches import EvaluationBatch
from lexalcm.registries import METRICS

Values = tuple[np.ndarray, np.ndarray]
"""A metric's numbers times their weights, and the weights: float64 [targets] each. The metric is sum / sum."""


@dataclass(frozen=True)
class BatchPrediction:
    """The predictions of a batch's targets."""

    embeddings: np.ndarray  # [n, dim] in the codec's space; rows of other concepts have no meaning
    texts: Sequence[str] | None = None  # of each target, where the predictor wrote them itself


class Space(Protocol):
    """The space that distances are measured in."""

    def __call__(self, embeddings: np.ndarray) -> np.ndarray:
        """[n, dim] -> float64 [n, dim]."""


class ScoringModel(Protocol):
    """A language model, see `lexalcm.evaluate.metrics.language_model`."""

    def gain(self, texts: Sequence[tuple[Sequence[str], str]]) -> tuple[np.ndarray, np.ndarray]:
        """For each (preceding sentences, sentence): log p(sentence | preceding) - log p(sentence), number of tokens."""


@dataclass(frozen=True)
class Tools:
    """What metrics are computed with, beside the batch."""

    space: Space
    split: str  # name, for messages
    codec: Codec | None = None
    language_model: ScoringModel | None = None
    lm_context: int = 10


@dataclass(frozen=True)
class Passage:
    """A range of a batch, from the beginning of a document: true sentences, then those that the predictor wrote."""

    start: int
    written: int
    """From here on the predictor wrote it; `stop` if teacher-forced."""
    stop: int
    targets: np.ndarray
    """Indices into the batch, in order."""

    def context(self, truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """The true part of the passage, then the written part: [n, ...] each -> [stop - start, ...]."""
        return np.concatenate([truth[self.start : self.written], predicted[self.written : self.stop]])


@dataclass
class ScoredBatch:
    """A batch with its predictions. Metrics are computed from it."""

    batch: EvaluationBatch
    prediction: BatchPrediction
    free: bool
    tools: Tools

    def score(self, metrics: Sequence[str]) -> list[Values]:
        """The metrics, by name, of every target."""
        return [compute(self) for name in metrics if (compute := METRICS.load(name).compute)]

    @cached_property
    def targets(self) -> np.ndarray:
        """Which concepts are predicted, bool [n]."""
        return self.batch.targets

    @cached_property
    def predictions(self) -> np.ndarray:
        """The predictions of the targets, [targets, dim]."""
        return np.asarray(self.prediction.embeddings)[self.targets]

    @cached_property
    def truth(self) -> np.ndarray:
        """The true concepts of the targets, [targets, dim]."""
        return self.batch.embeddings[self.targets]

    @cached_property
    def passages(self) -> list[Passage]:
        """All targets, in order, with their contexts."""
        if self.free:
            return [
                Passage(start, begin, stop, np.arange(begin, stop)) for start, begin, stop in self.batch.continuations
            ]
        whole = [(span, span.start + np.flatnonzero(self.targets[span])) for span in self.batch.spans]
        return [Passage(span.start, span.stop, span.stop, targets) for span, targets in whole if len(targets)]

    @cached_property
    def codec(self) -> Codec:
        """The codec, for metrics that need text."""
        if self.tools.codec is None:
            raise ValueError("a metric that needs text, without a codec")
        return self.tools.codec

    @cached_property
    def languages(self) -> list[str]:
        """The language of each target."""
        return [self.batch.languages[document] for document in self.batch.documents[self.targets]]

    @cached_property
    def texts(self) -> list[str]:
        """The predictions as text: decoded, or as the predictor wrote them."""
        if self.prediction.texts is not None:
            return list(self.prediction.texts)
        return decode_texts(self.codec, self.predictions, self.languages)

    @cached_property
    def true_texts(self) -> list[str]:
        """The true sentences of the targets."""
        return [self.batch.sentences[place] for place in np.flatnonzero(self.targets)]

    @cached_property
    def has_context(self) -> np.ndarray:
        """Whether a sentence precedes each target, not a role alone: bool [targets]."""
        return self.batch.sentences_before[self.targets] > 0

    def context_cosines(self, concepts: np.ndarray) -> np.ndarray:
        """The largest cosine of each concept [n, dim] at a target to a preceding sentence of its passage.

        0 where there is none.
        """
        is_sentence, before = self.batch.is_sentence, self.batch.sentences_before
        found = [
            largest_context_cosines(
                concepts[passage.targets],
                passage.context(self.batch.embeddings, concepts)[is_sentence[passage.start : passage.stop]],
                before[passage.targets],
            )
            for passage in self.passages
        ]
        return np.where(self.has_context, np.concatenate(found), 0)

    def where_context(self, values: np.ndarray) -> Values:
        """Comparisons with the context; an answer that opens a conversation has none, and no weight."""
        return np.where(self.has_context, values, 0), self.has_context.astype(np.float64)


def unweighted(values: np.ndarray) -> Values:
    """The values of a metric that is a plain mean."""
    return values, np.ones(len(values))
