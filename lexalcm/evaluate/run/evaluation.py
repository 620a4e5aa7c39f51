"""An evaluation on a data set: held-out documents -> predictions -> scores per document -> a report.

Every predictor of a table sees the same documents, the same targets and the same candidates, in the same space: the
data set's normalized space without its clipping, (x - center) / scale, whatever normalizer a model holds inside. No
end-of-text concept is appended. Teacher-forced, each concept but a document's first is predicted from the true ones
before it; free-running, those after a prefix, from the prefix and what was predicted before. Where the data set marks
what is to be learned (pairs, conversations), that alone is predicted; free-running, after a pair's source, and each
answer of a conversation after the true turns before it.
"""

from collections.abc import Iterable
from itertools import chain
from typing import Any

import numpy as np

from lexalcm.codec.base import Codec
from lexalcm.codec.options import CodecChoice
from lexalcm.codec.registry import CODEC_FOLDER, load_codec
from lexalcm.data.format.dataset import Dataset
from lexalcm.errors import DataError
from lexalcm.evaluate.metrics.scored_batch import BatchPrediction, ScoredBatch, Tools
from lexalcm.evaluate.predictors.baselines import spread
from lexalcm.evaluate.report.report import Evaluation, Example, Size
from lexalcm.evaluate.run.assemble import assemble
from lexalcm.evaluate.run.batches import EvaluationBatch, group_documents, order_documents, read_batch
from lexalcm.evaluate.run.evaluation_run import (
    EvaluationRun,
    Outcome,
    Predictor,
    Processes,
    ScoredUnit,
    SingleProcess,
    run_evaluation,
)
from lexalcm.evaluate.run.journal import Journal
from lexalcm.evaluate.run.tally import BINS, bin_name, position_bins, sums_per_document
from lexalcm.evaluate.run.target_spans import SplitAnnotations
from lexalcm.evaluate.settings import EvaluationSettings
from lexalcm.io.progress import Progress, silent
from lexalcm.registries import METRICS

TRUTH = "the true concepts"
EXAMPLES = 5  # continued documents that a report shows

DatasetPredictor = Predictor[EvaluationBatch, BatchPrediction]
"""Something that predicts the targets of a batch."""


def evaluate_predictors(
    predictors: Iterable[DatasetPredictor],
    dataset: Dataset,
    settings: EvaluationSettings,
    *,
    tools: Tools | None = None,
    journal: Journal | None = None,
    processes: Processes | None = None,
    progress: Progress = silent,
) -> Evaluation | None:
    """Score predictors on a split and compare every model with every other predictor.

    Args:
        predictors: taken one after another, so that an iterator may load a model only when its turn comes.
        dataset: what is evaluated on; its normalizer defines the space of all distances.
        settings: what is predicted and measured, and how.
        tools: what metrics are computed with; opened here if not given.
        journal: keeps what is done; None: nothing is kept.
        processes: those that share the work; default: this one does it all.
        progress: opens a report of each predictor's documents.

    Returns:
        The evaluation, on the first process; None on the others.

    Raises:
        DataError: an unknown split, or one with no target or nothing to compare a prediction with.
        UserError: several processes without a journal.
    """
    work = _Work(dataset, settings, tools or open_tools(dataset, settings))
    outcome = run_evaluation(
        chain(predictors, [_truth()] if work.shows_truth else []),
        work.trial,
        journal=journal,
        processes=processes or SingleProcess(),
        progress=progress,
    )
    return None if outcome is None else work.report(outcome)


def open_tools(dataset: Dataset, settings: EvaluationSettings) -> Tools:
    """Open what the chosen metrics are computed with.

    Raises:
        CodecError: the data set's codec cannot be opened, and a metric of text is asked for.
        UserError: no such language model.
    """
    return Tools(
        space=NormalizedSpace(dataset),
        split=settings.split,
        codec=_open_codec(dataset, settings) if needs_text(settings) else None,
        language_model=_open_language_model(settings),
        lm_context=settings.language_model.context if settings.language_model else 0,
    )


def needs_text(settings: EvaluationSettings) -> bool:
    """Whether sentences are read and written."""
    return settings.free is not None or any(
        METRICS.load(name).needs != "embeddings" for name in settings.chosen_metrics
    )


def _open_codec(dataset: Dataset, settings: EvaluationSettings) -> Codec:
    choice = settings.codec
    if choice == CodecChoice():
        return dataset.codec()
    return load_codec(
        dataset.manifest.codec,
        dataset.path / CODEC_FOLDER,
        name=choice.name,
        options=choice.run,
    )


def _open_language_model(settings: EvaluationSettings) -> Any:
    if settings.language_model is None:
        return None
    from lexalcm.device import choose_device
    from lexalcm.evaluate.metrics.language_model import LanguageModel  # with torch, which nothing else here needs

    return LanguageModel.open(settings.language_model.name, choose_device(settings.device))


class NormalizedSpace:
    """The data set's normalized space, without clipping: an affine map, so that means stay means."""

    def __init__(self, dataset: Dataset) -> None:
        normalizer = dataset.normalizer()
        self.center = np.asarray(normalizer["center"], dtype=np.float64)
        self.scale = np.asarray(normalizer["scale"], dtype=np.float64)

    def __call__(self, embeddings: np.ndarray) -> np.ndarray:
        """[n, dim] -> float64 [n, dim]."""
        return (embeddings - self.center) / self.scale


def _truth() -> DatasetPredictor:
    """What a predictor would get that knows the truth, as far as the codec can say it."""
    return Predictor(TRUTH, "reference", lambda batch, number: BatchPrediction(batch.embeddings), {})


class _Work:
    """The documents of an evaluation, how they are scored, and the report of it."""

    def __init__(self, dataset: Dataset, settings: EvaluationSettings, tools: Tools) -> None:
        free = settings.free
        self.free = free is not None
        self.dataset = dataset
        self.settings = settings
        self.tools = tools
        self.split = dataset.split(settings.split)
        self.metrics = settings.chosen_metrics
        self.shows_truth = any("default" not in METRICS.load(name).groups for name in self.metrics)
        self.text = needs_text(settings)
        annotations = SplitAnnotations(dataset, settings.split, longest_answer=free.sentences if free else None)
        size = len(self.split)
        documents = np.arange(size) if settings.limit is None else spread(size, min(settings.limit, size))
        self.documents = order_documents(documents, corpus_order=settings.corpus_order)
        lengths = np.asarray(self.split.lengths[self.documents], dtype=np.int64)
        self.lengths, self.prefixes = lengths, np.ones(len(lengths), dtype=np.int64)
        self.given: str | None = None  # instead of a prefix, where that holds for all documents
        if free:
            sources, chats = annotations.sources(self.documents), annotations.conversations(self.documents)
            self.given = "source" if sources.all() else "turns" if chats.all() else None
            self.prefixes = np.where(chats, 1, np.where(sources > 0, sources, free.prefix))
            self.lengths = np.where(chats, lengths, np.minimum(lengths, self.prefixes + free.sentences))
        self.annotations = annotations if annotations.chooses else None
        self.position_counts = self._position_counts()
        self.counts = self.position_counts.sum(axis=1)
        if not self.counts.any():
            least = (
                "with something to predict" if annotations.chooses else f"of {self.prefixes[0] + 1} concepts or more"
            )
            raise DataError(f"split {settings.split} of {dataset.address} has no document {least}: nothing to predict")
        self.bins = int(np.flatnonzero(self.position_counts.any(axis=0))[-1]) + 1  # those that have targets
        self.scored = np.flatnonzero(self.counts)
        self.shown = {int(document) for document in self.scored[:EXAMPLES]} if free else set()
        self.units = group_documents(self.lengths - annotations.role_counts(self.documents), settings.batch)

    @property
    def trial(self) -> EvaluationRun:
        """What there is to do; not kept, so that codec and language model go when the report is there."""
        return EvaluationRun(self.units, self._score, metrics=len(self.metrics), bins=self.bins)

    def _position_counts(self) -> np.ndarray:
        """Targets of each document by their place: int64 [documents, bins]."""
        if self.annotations is None:
            counts = np.maximum(self.lengths - self.prefixes, 0)
            first, last = np.array(_bin_edges()).T
            return np.clip(counts[:, None] - first, 0, last - first)
        counts = np.zeros((len(self.documents), BINS), dtype=np.int64)
        for place, row in enumerate(counts):
            row += np.bincount(position_bins(self._outline(place), free=self.free), minlength=BINS)
        return counts

    def _outline(self, place: int) -> EvaluationBatch:
        """What is predicted of a document, without its concepts."""
        length = int(self.lengths[place])
        return EvaluationBatch(
            embeddings=np.empty((length, 0)),
            documents=np.zeros(length, dtype=np.int64),
            positions=np.arange(length),
            prefix=int(self.prefixes[place]),
            predicted=None
            if self.annotations is None
            else self.annotations.predicted(int(self.documents[place]), length),
        )

    def _score(self, predictor: DatasetPredictor, unit: int) -> ScoredUnit:
        places = self.units[unit]
        batch = self._read(places)
        scored = ScoredBatch(batch, predictor.predict(batch, unit), self.free, self.tools)
        texts: dict[int, list[str]] = {}
        if self.shown & set(places.tolist()):
            owners = places[batch.documents[scored.targets]]
            for owner, text in zip(owners.tolist(), scored.texts, strict=True):
                if owner in self.shown:
                    texts.setdefault(owner, []).append(text)
        return ScoredUnit(sums_per_document(batch, scored.score(self.metrics), free=self.free, bins=self.bins), texts)

    def _read(self, places: np.ndarray) -> EvaluationBatch:
        return read_batch(
            self.split,
            self.documents[places],
            prefix=self.prefixes[places],
            longest=self.lengths[places],
            text=self.text,
            annotations=self.annotations,
        )

    def report(self, outcome: Outcome) -> Evaluation:
        """Put everything together."""
        settings, free = self.settings, self.settings.free
        counts = self.counts[self.scored]
        languages = [self.split.document(int(number))["lang"] for number in self.documents[self.scored]]
        return assemble(
            outcome.predictors,
            outcome.tallies,
            metrics=self.metrics,
            documents=self.scored,
            languages=np.array(languages),
            targets=counts,
            position_names=[bin_name(number) for number in range(self.bins)],
            position_sizes=[
                Size(int((column > 0).sum()), int(column.sum())) for column in self.position_counts.T[: self.bins]
            ],
            resamples=settings.resamples,
            seed=settings.seed,
            dataset={
                "path": self.dataset.address,
                "split": settings.split,
                "codec": self.dataset.manifest.codec.model_dump(mode="json"),
                "documents_in_split": len(self.split),
                "batches": len(self.units),
                "concepts": int(self.lengths.sum()),
            },
            settings={
                "mode": "free-running" if free else "teacher-forced",
                "free": free.model_dump() | ({"given": self.given} if self.given else {}) if free else None,
                "metrics": list(self.metrics),
                "language_model": settings.language_model.model_dump() if settings.language_model else None,
                "batch": settings.batch,
                "batch_order": "corpus" if settings.corpus_order else "random",
                "limit": settings.limit,
                "space": "normalized by the data set: (x - center) / scale",
            },
            notes=settings.notes,
            examples=[self._example(outcome, place) for place in sorted(self.shown)],
        )

    def _example(self, outcome: Outcome, place: int) -> Example:
        document = self.split.document(int(self.documents[place]))
        _, begin, end = self._outline(place).continuations[-1]  # of a conversation, the last answer
        return Example(
            document=document["id"],
            lang=document["lang"],
            given=document["sentences"][:begin],
            truth=document["sentences"][begin:end],
            written={
                predictor.name: texts[place][begin - end :]
                for predictor, texts in zip(outcome.predictors, outcome.texts, strict=True)
                if predictor.kind != "reference"
            },
        )


def _bin_edges() -> list[tuple[int, int]]:
    """Targets before each bin, and up to its end."""
    starts = [0, *(2**number for number in range(BINS - 1))]
    return list(zip(starts, [*starts[1:], 2**62], strict=True))
