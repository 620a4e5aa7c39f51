"""The sentences of a split: its concepts without those that stand for roles in conversations.

A role's concept comes again and again, so that it would count as much as all sentences together where a normalizer is
fitted: in a conversation of one-sentence turns it is every second concept, and half of all numbers would be equal.
"""

import numpy as np

from lexalcm.data.format.dataset import Dataset, Split
from lexalcm.data.format.target_spans import Annotations
from lexalcm.data.normalizer.fit import Documents


def sentence_concepts(dataset: Dataset, name: str) -> Documents:
    """A split's documents without their roles' concepts: the split itself where there are no conversations.

    Raises:
        DataError: no such split, or its index is missing or damaged.
    """
    split = dataset.split(name)
    turns = dataset.annotations(name, "turns")
    return split if turns is None else _WithoutRoles(split, turns)


class _WithoutRoles:
    def __init__(self, split: Split, turns: Annotations) -> None:
        self.lengths = split.lengths - turns.counts
        self._split = split
        self._starts = turns.values[:, 0]
        self._ends = np.concatenate([[0], np.cumsum(turns.counts, dtype=np.int64)])

    def embeddings(self, i: int) -> np.ndarray:
        """The concepts of document i: [n, dim]."""
        return np.delete(self._split.embeddings(i), self._starts[self._ends[i] : self._ends[i + 1]], axis=0)
