"""Annotations of a document's concepts: where its turns begin, and which of its concepts are targets.

Both are lists of any length a document. The document's JSON has them as `turns` ([role, first concept] each) and
`targets` ([first, behind the last] each); the index has them as two flat arrays: how many each document has, and all of
them, one behind the other. A data set in which no document has such annotations has none of these arrays.
"""

from array import array
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from typing_extensions import Self

ANNOTATIONS = {"targets": 2, "turns": 1}
"""Their names, and the numbers of an entry: a target span's first concept and what lies behind its last; a turn's
first concept."""


class Annotations(NamedTuple):
    """Any number of entries a document."""

    counts: np.ndarray
    """int32 [documents], entries of each."""
    values: np.ndarray
    """int32 [entries of all documents, numbers of an entry]"""

    @classmethod
    def of(cls, documents: Iterable[Iterable[Sequence[int]]], numbers: int) -> Self:
        """Put lists together; each of their entries has `numbers` numbers."""
        writer = AnnotationsWriter(numbers)
        for entries in documents:
            writer.add(entries)
        return cls(*writer.finish())

    @classmethod
    def concatenate(cls, parts: Iterable["Annotations"], numbers: int) -> Self:
        """The documents of all parts."""
        parts = list(parts)
        return cls(
            np.concatenate([np.empty(0, np.int32), *(part.counts for part in parts)]),
            np.concatenate([np.empty((0, numbers), np.int32), *(part.values for part in parts)]),
        )

    def filled(self, entries: np.ndarray) -> Self:
        """The same, but documents that have none get theirs of `entries`, [documents, numbers]."""
        none = np.flatnonzero(self.counts == 0)
        before = np.cumsum(self.counts, dtype=np.int64)[none]
        return type(self)(np.maximum(self.counts, 1), np.insert(self.values, before, entries[none], axis=0))

    def part(self, begin: int, end: int) -> Self:
        """Those of the documents from `begin` to before `end`."""
        ends = np.concatenate([[0], np.cumsum(self.counts, dtype=np.int64)])
        return type(self)(self.counts[begin:end], self.values[ends[begin] : ends[end]])

    def lists(self) -> list[list[list[int]]]:
        """The entries of each document."""
        ends = np.cumsum(self.counts, dtype=np.int64)
        return [entries.tolist() for entries in np.split(self.values, ends[:-1])] if len(ends) else []


class AnnotationsWriter:
    """Gathers annotations, document by document, as compact as they will be stored."""

    def __init__(self, numbers: int) -> None:
        self._numbers = numbers
        self._counts, self._values = array("i"), array("i")

    def add(self, entries: Iterable[Sequence[int]]) -> None:
        """Those of the next document."""
        before = len(self._values)
        for entry in entries:
            self._values.extend(entry)
        self._counts.append((len(self._values) - before) // self._numbers)

    def finish(self) -> Annotations:
        """All of them."""
        return Annotations(
            np.array(self._counts, np.int32), np.array(self._values, np.int32).reshape(-1, self._numbers)
        )


def annotations_of(document: dict[str, Any], name: str) -> list[list[int]]:
    """What a document's JSON notes under a name of `ANNOTATIONS`, as the index has it; nothing for most."""
    if name == "turns":
        return [[start] for start in turn_starts(document)]
    return document.get(name, [])


def turn_starts(document: dict[str, Any]) -> list[int]:
    """The concepts of a document that stand for roles; none if it is not a conversation."""
    return [start for _, start in document.get("turns", ())]


def without_roles(document: dict[str, Any]) -> list[str]:
    """The sentences of a document that somebody says."""
    starts = set(turn_starts(document))
    return [sentence for place, sentence in enumerate(document["sentences"]) if place not in starts]


class TargetSpans:
    """Which concepts of the documents of a split are targets, found without a list of all of them.

    Concepts are counted in the document, without special concepts around it. All documents lie on one line, each one
    place apart from the next, so that one search answers for concepts of any number of documents. Memory: 16 bytes a
    document, 24 a span.
    """

    def __init__(self, spans: Annotations, lengths: np.ndarray) -> None:
        """Lay them out.

        Args:
            spans: (first concept, behind the last) in ascending order, none empty.
            lengths: int [documents], concepts of each.
        """
        counts = spans.counts
        places = lengths.astype(np.int64) + 1
        self._base = np.cumsum(places) - places
        base = np.repeat(self._base, counts)
        self._begin = base + spans.values[:, 0]
        self._end = base + spans.values[:, 1]
        sizes = self._end - self._begin
        self._before = np.cumsum(sizes) - sizes
        behind = np.cumsum(counts, dtype=np.int64)
        some = counts > 0
        self.first = np.zeros(len(counts), np.int32)
        """Of each document the first target; 0 if it has none."""
        self.first[some] = spans.values[(behind - counts)[some], 0]
        self.end = np.zeros(len(counts), np.int32)
        """Of each document what lies behind its last target; 0 if it has none."""
        self.end[some] = spans.values[behind[some] - 1, 1]

    def contains(self, documents: np.ndarray, concepts: np.ndarray) -> np.ndarray:
        """Whether each concept, within its document, is a target: bool."""
        place = self._base[documents] + concepts
        span = np.searchsorted(self._begin, place, side="right") - 1
        return (span >= 0) & (place < self._end[np.maximum(span, 0)])

    def count(self, documents: np.ndarray, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Targets among the concepts from `begin` to before `end` of each document: int64."""
        base = self._base[documents]
        return self._count_before(base + end) - self._count_before(base + begin)

    def _count_before(self, place: np.ndarray) -> np.ndarray:
        """Targets of all documents before a place."""
        span = np.searchsorted(self._begin, place, side="left") - 1
        held = np.maximum(span, 0)
        counted = self._before[held] + np.minimum(place, self._end[held]) - self._begin[held]
        return np.where(span < 0, 0, counted)
