"""Which concepts of a split are predicted, and which stand for roles, as the data set's index says.

They are those that a training's loss counts: of a pair its target, of a conversation what an assistant says, of other
text all. But for one thing: a role's concept behind an answer, from which training learns when to stop, is none here.
It is the same in every document, so that predicting it says nothing of sentences, and it would be a candidate beside
many copies of itself.
"""

from collections.abc import Sequence

import numpy as np

from lexalcm.data.format.dataset import Dataset
from lexalcm.data.format.target_spans import TargetSpans


class SplitAnnotations:
    """The annotations of a split; a document is named by its number in the split."""

    def __init__(self, dataset: Dataset, name: str, *, longest_answer: int | None = None) -> None:
        """Read them.

        Args:
            dataset: whose.
            name: of the split.
            longest_answer: in conversations, of each answer no more than so many sentences are predicted; None: all.

        Raises:
            DataError: the index is missing or damaged.
        """
        self._longest_answer = longest_answer
        spans, turns = dataset.annotations(name, "targets"), dataset.annotations(name, "turns")
        self._spans = None if spans is None else TargetSpans(spans, dataset.split(name).lengths)
        self._sources = dataset.columns(name, ["source"]).get("source")
        self._turns = turns
        self._turn_ends = None if turns is None else np.cumsum(turns.counts, dtype=np.int64)

    @property
    def has_turns(self) -> bool:
        """Whether conversations are in it."""
        return self._turns is not None

    @property
    def chooses(self) -> bool:
        """Whether some concepts behind a document's first are not predicted."""
        return self._spans is not None or self._sources is not None

    def sources(self, documents: np.ndarray) -> np.ndarray:
        """How many concepts of each document are a pair's source, which is given: int64; 0 for other documents."""
        if self._sources is None:
            return np.zeros(len(documents), dtype=np.int64)
        return np.asarray(self._sources[documents], dtype=np.int64)

    def conversations(self, documents: np.ndarray) -> np.ndarray:
        """Which documents are conversations: bool."""
        return self.role_counts(documents) > 0

    def role_counts(self, documents: np.ndarray) -> np.ndarray:
        """How many concepts of each document stand for roles: int64."""
        if self._turns is None:
            return np.zeros(len(documents), dtype=np.int64)
        return np.asarray(self._turns.counts[documents], dtype=np.int64)

    def roles(self, document: int, length: int) -> np.ndarray:
        """Which of the first concepts of a document stand for roles: bool [length]."""
        mask = np.zeros(length, dtype=bool)
        if self._turns is not None and self._turn_ends is not None:
            end = int(self._turn_ends[document])
            starts = self._turns.values[end - int(self._turns.counts[document]) : end, 0]
            mask[starts[starts < length]] = True
        return mask

    def predicted(self, document: int, length: int) -> np.ndarray:
        """Which of the first concepts of a document are predicted where the truth is read: bool [length]."""
        places = np.arange(length)
        mask = places >= 1
        if self._spans is not None:
            roles = self.roles(document, length)
            mask &= self._spans.contains(np.full(length, document), places) & ~roles
            if self._longest_answer is not None and roles.any():
                before = np.maximum.accumulate(np.where(mask, -1, places))  # the last concept that is not predicted
                mask &= places - before <= self._longest_answer
        elif self._sources is not None:
            mask &= places >= self._sources[document]
        return mask

    def of_batch(self, documents: Sequence[int], lengths: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """What is predicted and what stands for roles in documents that lie one behind the other: bool [n] each."""
        pairs = list(zip(documents, lengths, strict=True))
        return (
            np.concatenate([self.predicted(document, length) for document, length in pairs]),
            np.concatenate([self.roles(document, length) for document, length in pairs]),
        )
