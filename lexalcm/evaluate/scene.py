"""One batch with one predictor's predictions, and every metric of it: a number and a weight for each target.

Predictions come before their truth in one of two ways. Teacher-forced, the text before a target is the document's own.
Free-running, it is the document's beginning and then what the predictor wrote. A `Passage` is such a text with its
targets: a whole document, or what a continuation goes on from and the continuation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from lexalcm.codec.base import Codec
from lexalcm.errors import DataError
from lexalcm.evaluate.batches import EvaluationBatch
from lexalcm.evaluate.metrics import contrastive_accuracy, cosines, largest_context_cosines, squared_l2
from lexalcm.evaluate.text_metrics import RepeatedNgrams, chrf, rouge_l
from lexalcm.evaluate.text_of_concepts import decode_texts, encode_texts

Values = tuple[np.ndarray, np.ndarray]
"""A metric's numbers times their weights, and the weights: float64 [targets] each."""


@dataclass(frozen=True)
class Prediction:
    """What a predictor says of a batch."""

    embeddings: np.ndarray  # [n, dim] in the codec's space; rows that are no targets mean nothing
    texts: Sequence[str] | None = None  # of each target, where the predictor wrote them itself


class Space(Protocol):
    """The space that distances are measured in."""

    def __call__(self, embeddings: np.ndarray) -> np.ndarray:
        """[n, dim] -> float64 [n, dim]."""


class ScoresText(Protocol):
    """A language model, see `lexalcm.evaluate.language_model`."""

    def gain(self, texts: Sequence[tuple[Sequence[str], str]]) -> tuple[np.ndarray, np.ndarray]:
        """Of (sentences before, sentence): what the former adds to the latter's log probability, and its tokens."""


@dataclass(frozen=True)
class Tools:
    """What metrics are computed with."""

    space: Space
    split: str  # name, for messages
    codec: Codec | None = None
    language_model: ScoresText | None = None
    lm_context: int = 10


@dataclass(frozen=True)
class Passage:
    """A stretch of a batch, from the beginning of a document: true sentences, then those that the predictor wrote."""

    start: int
    written: int
    """From here on it is the predictor's; teacher-forced, nothing is."""
    stop: int
    targets: np.ndarray
    """Places in the batch, in order."""

    def tell(self, truth: np.ndarray, predictor: np.ndarray) -> np.ndarray:
        """The passage of two versions of the batch: [n, ...] each -> [stop - start, ...]."""
        return np.concatenate([truth[self.start : self.written], predictor[self.written : self.stop]])


@dataclass
class Scene:
    """A batch with its predictions."""

    batch: EvaluationBatch
    prediction: Prediction
    free: bool
    tools: Tools

    def score(self, metrics: Sequence[str]) -> list[Values]:
        """The metrics of every target."""
        return [_METRICS[name](self) for name in metrics]

    @cached_property
    def targets(self) -> np.ndarray:
        """Which concepts are predicted, bool [n]."""
        return self.batch.targets

    @cached_property
    def guesses(self) -> np.ndarray:
        """The predictions of the targets, [targets, dim]."""
        return np.asarray(self.prediction.embeddings)[self.targets]

    @cached_property
    def truth(self) -> np.ndarray:
        """The true concepts of the targets, [targets, dim]."""
        return self.batch.embeddings[self.targets]

    @cached_property
    def passages(self) -> list[Passage]:
        """All targets, in order, each with what stands before it."""
        if self.free:
            return [
                Passage(start, begin, stop, np.arange(begin, stop)) for start, begin, stop in self.batch.continuations
            ]
        whole = [(span, span.start + np.flatnonzero(self.targets[span])) for span in self.batch.spans]
        return [Passage(span.start, span.stop, span.stop, targets) for span, targets in whole if len(targets)]

    @cached_property
    def codec(self) -> Codec:
        """The codec, which metrics of text need."""
        if self.tools.codec is None:
            raise ValueError("metrics of text without a codec")
        return self.tools.codec

    @cached_property
    def languages(self) -> list[str]:
        """Of each target."""
        return [self.batch.languages[document] for document in self.batch.documents[self.targets]]

    @cached_property
    def texts(self) -> list[str]:
        """The predictions as text."""
        if self.prediction.texts is not None:
            return list(self.prediction.texts)
        return decode_texts(self.codec, self.guesses, self.languages)

    @cached_property
    def true_texts(self) -> list[str]:
        """The true sentences of the targets."""
        return [self.batch.sentences[place] for place in np.flatnonzero(self.targets)]

    @cached_property
    def heard(self) -> np.ndarray:
        """Whether a sentence stands before each target, not a role alone: bool [targets]."""
        return self.batch.spoken_before[self.targets] > 0

    def context_cosines(self, concepts: np.ndarray) -> np.ndarray:
        """The largest cosine of each concept [n, dim] at a target to a sentence before it in its passage.

        0 where there is none.
        """
        spoken, before = self.batch.spoken, self.batch.spoken_before
        found = [
            largest_context_cosines(
                concepts[passage.targets],
                passage.tell(self.batch.embeddings, concepts)[spoken[passage.start : passage.stop]],
                before[passage.targets],
            )
            for passage in self.passages
        ]
        return np.where(self.heard, np.concatenate(found), 0)


def _squared_l2(scene: Scene) -> Values:
    return _evenly(squared_l2(scene.tools.space(scene.guesses), scene.tools.space(scene.truth)))


def _contrastive_accuracy(scene: Scene) -> Values:
    batch, space = scene.batch, scene.tools.space
    accuracies = contrastive_accuracy(
        space(scene.prediction.embeddings), space(batch.embeddings), batch.documents, scene.targets, batch.spoken
    )
    if np.isnan(accuracies).any():
        raise DataError(
            f"split {scene.tools.split} holds too few concepts for contrastive accuracy: "
            "after a target and its two neighbours, none is left to compare with"
        )
    return _evenly(accuracies)


def _cosine(scene: Scene) -> Values:
    return _evenly(cosines(scene.guesses, scene.truth))


def _context_cosine(scene: Scene) -> Values:
    return _where_heard(scene, scene.context_cosines(np.asarray(scene.prediction.embeddings)))


def _paraphrasing(scene: Scene) -> Values:
    return _context_cosine(scene)[0], scene.context_cosines(scene.batch.embeddings)


def _coherence(scene: Scene) -> Values:
    truth, last = scene.batch.embeddings, scene.batch.last_spoken[scene.targets]
    neighbours = truth[last]
    if scene.free:
        neighbours = np.where((last >= scene.batch.begins)[:, None], scene.prediction.embeddings[last], neighbours)
    return _where_heard(scene, cosines(scene.guesses, neighbours))


def _round_trip_l2(scene: Scene) -> Values:
    again = encode_texts(scene.codec, scene.texts, scene.languages)
    return _evenly(squared_l2(scene.tools.space(again), scene.tools.space(scene.truth)))


def _compare_texts(measure: Callable[[str, str], float]) -> Callable[[Scene], Values]:
    def metric(scene: Scene) -> Values:
        pairs = zip(scene.texts, scene.true_texts, strict=True)
        return _evenly(np.array([measure(written, true) for written, true in pairs], dtype=np.float64))

    return metric


def _repetition(scene: Scene) -> Values:
    repeated, counts = [], []
    written, spoken = iter(scene.texts), scene.batch.spoken
    for passage in scene.passages:
        # Of a free text its own continuation alone is looked at (rep-4), of a guess the document before it.
        before = RepeatedNgrams()
        for place in range(passage.written if scene.free else passage.start, passage.stop):
            if scene.targets[place]:
                found = before.add(next(written)) if scene.free else before.count(next(written))
                repeated.append(found[0])
                counts.append(found[1])
            if not scene.free and spoken[place]:
                before.add(scene.batch.sentences[place])
    return np.array(repeated, dtype=np.float64), np.array(counts, dtype=np.float64)


def _mutual_information(scene: Scene) -> Values:
    if scene.tools.language_model is None:
        raise ValueError("mutual information without a language model")
    pairs = []
    truth, spoken = np.array(scene.batch.sentences, dtype=object), scene.batch.spoken
    own = truth.copy()
    own[scene.targets] = scene.texts
    for passage in scene.passages:
        told = passage.tell(truth, own)
        for place in passage.targets.tolist():
            before = told[: place - passage.start][spoken[passage.start : place]]
            pairs.append((before[-scene.tools.lm_context :].tolist(), own[place]))
    return scene.tools.language_model.gain(pairs)


def _evenly(values: np.ndarray) -> Values:
    return values, np.ones(len(values))


def _where_heard(scene: Scene, values: np.ndarray) -> Values:
    """A comparison with what stands before, which an answer that opens a conversation does not have."""
    return np.where(scene.heard, values, 0), scene.heard.astype(np.float64)


_METRICS: dict[str, Callable[[Scene], Values]] = {
    "squared_l2": _squared_l2,
    "contrastive_accuracy": _contrastive_accuracy,
    "cosine": _cosine,
    "context_cosine": _context_cosine,
    "paraphrasing": _paraphrasing,
    "coherence": _coherence,
    "round_trip_l2": _round_trip_l2,
    "rouge_l": _compare_texts(rouge_l),
    "chrf": _compare_texts(chrf),
    "repetition": _repetition,
    "mutual_information": _mutual_information,
}
