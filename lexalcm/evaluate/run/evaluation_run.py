"""The run of an evaluation: predictors, one after another, are scored on units of work, divided among processes.

A unit is a batch of documents, or of examples of a task. Its numbers depend on nothing but the unit, the predictor and
the seed, so that it makes no difference which process scores it, or when. Process r of w takes the units r, r + w, ...;
what an earlier run has scored is read from its journal. Only sums per document are kept.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar

import numpy as np

from lexalcm.errors import LexaError, UserError
from lexalcm.evaluate.run.journal import Journal
from lexalcm.io.progress import Progress

BatchT = TypeVar("BatchT", contravariant=True)
PredictionT = TypeVar("PredictionT", covariant=True)

TIMEOUT_S = 120.0
"""Seconds to wait for the results of other processes, which may be on a slow network file system."""


class Processes(Protocol):
    """This process among those that share an evaluation."""

    @property
    def rank(self) -> int:
        """Its number, from 0."""

    @property
    def size(self) -> int:
        """How many there are."""

    def barrier(self) -> None:
        """Wait until every process is here."""


class SingleProcess:
    """One process."""

    rank = 0
    size = 1

    def barrier(self) -> None:
        """There is nothing to wait for."""


@dataclass(frozen=True)
class Predictor(Generic[BatchT, PredictionT]):
    """A model, a baseline or the truth, with its function (batch, number of the batch) -> predictions."""

    name: str
    kind: Literal["model", "baseline", "reference"]
    predict: Callable[[BatchT, int], PredictionT]
    settings: dict[str, Any]


@dataclass(frozen=True)
class ScoredUnit:
    """A predictor's results on a unit."""

    tally: np.ndarray  # float64 [2, metrics, documents of the unit, bins]
    texts: dict[int, list[str]] = field(default_factory=dict)  # by document, of those shown as examples


@dataclass(frozen=True)
class EvaluationRun:
    """The units of an evaluation and how one is scored."""

    units: Sequence[np.ndarray]  # the documents of each, 0 ... documents - 1, each in one unit
    score: Callable[[Predictor[Any, Any], int], ScoredUnit]
    metrics: int
    bins: int
    unit_name: str = "documents"

    @property
    def documents(self) -> int:
        """How many."""
        return sum(len(unit) for unit in self.units)


@dataclass(frozen=True)
class Outcome:
    """The results of all predictors."""

    predictors: list[Predictor[Any, Any]]
    tallies: list[np.ndarray]  # of each predictor float64 [2, metrics, bins, documents]
    texts: list[dict[int, list[str]]]  # of each predictor, by document


def run_evaluation(
    predictors: Iterable[Predictor[Any, Any]],
    trial: EvaluationRun,
    *,
    journal: Journal | None,
    processes: Processes,
    progress: Progress,
) -> Outcome | None:
    """Score predictors on all units.

    Args:
        predictors: taken one after another, so that an iterator may load a model only when its turn comes.
        trial: the work.
        journal: where results are kept until the end; None: in memory alone.
        processes: those that share the work, on one file system.
        progress: opens a report of each predictor's documents.

    Returns:
        Everything, on the first process; None on the others.

    Raises:
        UserError: several processes without a journal.
        LexaError: results of another process do not arrive.
    """
    if processes.size > 1 and journal is None:
        raise UserError("several processes need --out FILE, in a folder that all of them can access")
    results = _Results(trial)
    if journal is not None:
        results.read(journal)
    heads: list[Predictor[Any, Any]] = []
    for predictor in predictors:  # without enumerate, which holds the last one until there is a next
        index = len(heads)
        heads.append(Predictor(predictor.name, predictor.kind, _finished, predictor.settings))
        mine = [unit for unit in range(len(trial.units)) if unit % processes.size == processes.rank]
        to_do = [unit for unit in mine if (index, unit) not in results.done]
        total = sum(len(trial.units[unit]) for unit in mine)
        finished = total - sum(len(trial.units[unit]) for unit in to_do)
        with progress(f"evaluating {predictor.name}", trial.unit_name) as report:
            for unit in to_do:
                scored = trial.score(predictor, unit)
                results.put(index, unit, scored)
                if journal is not None:
                    journal.append(_record(index, unit, trial.units[unit], scored))
                finished += len(trial.units[unit])
                report(finished, total)
        del predictor  # and with it a model's weights, before the next one is loaded
    processes.barrier()
    if processes.rank > 0:
        return None
    if journal is not None:
        _wait_for_others(results, journal, len(heads) * len(trial.units))
    order = range(len(heads))
    return Outcome(heads, [results.tally(index) for index in order], [results.texts(index) for index in order])


def _finished(_batch: object, _number: int) -> object:
    raise RuntimeError("the predictor has been released")


def _wait_for_others(results: "_Results", journal: Journal, expected: int) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while len(results.done) < expected:
        results.read(journal)
        if len(results.done) < expected and time.monotonic() > deadline:
            raise LexaError(
                f"{expected - len(results.done)} batches of other processes are not in {journal.folder}: "
                "make sure that it is on a shared file system, and run the command again to resume"
            )
        time.sleep(0.05)


def _record(index: int, unit: int, documents: np.ndarray, scored: ScoredUnit) -> dict[str, Any]:
    numbers = np.moveaxis(scored.tally, 2, 0)
    return {
        "predictor": index,
        "unit": unit,
        "documents": {str(document): numbers[place].tolist() for place, document in enumerate(documents.tolist())},
        "texts": {str(document): texts for document, texts in scored.texts.items()},
    }


class _Results:
    """The results so far."""

    def __init__(self, trial: EvaluationRun) -> None:
        self.done: set[tuple[int, int]] = set()
        self._trial = trial
        self._tallies: dict[int, np.ndarray] = {}
        self._texts: dict[int, dict[int, list[str]]] = {}

    def tally(self, index: int) -> np.ndarray:
        """A predictor's numbers: [2, metrics, bins, documents]."""
        trial = self._trial
        if index not in self._tallies:
            self._tallies[index] = np.zeros((2, trial.metrics, trial.bins, trial.documents))
        return self._tallies[index]

    def texts(self, index: int) -> dict[int, list[str]]:
        """A predictor's texts that are shown, by document."""
        return self._texts.setdefault(index, {})

    def put(self, index: int, unit: int, scored: ScoredUnit) -> None:
        """Add a predictor's results on a unit."""
        self.tally(index)[..., self._trial.units[unit]] = np.swapaxes(scored.tally, 2, 3)
        self.texts(index).update(scored.texts)
        self.done.add((index, unit))

    def read(self, journal: Journal) -> None:
        """Add those that are in a journal and not here yet."""
        for record in journal.read():
            index, unit = record["predictor"], record["unit"]
            if (index, unit) not in self.done:
                numbers = np.array(list(record["documents"].values()), dtype=np.float64)
                texts = {int(document): texts for document, texts in record["texts"].items()}
                self.put(index, unit, ScoredUnit(np.moveaxis(numbers, 0, 2), texts))
