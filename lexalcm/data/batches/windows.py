"""Documents of one data set cut into windows, found by length and number without a list of all windows.

A document is its special concepts before, its sentences, its special concepts behind. Longer than a window, it is cut
into windows that overlap by one concept: the last of one is the first of the next, where it is context only. So every
target is a target exactly once, at the cost of one position a further window. Of a pair (source, target) only concepts
behind the source are targets, of a conversation those in its target spans. Windows that would hold none are not made,
and what follows the last target is left out.

Every document has one last window, of any length; those before it are full. The plan asks for "number k of length n":
the documents sorted by the length of their last window answer that, at 4 bytes a document, and the few documents longer
than a window have the full ones. Sorting goes by stretches of documents, so that it needs little further memory.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from lexalcm.data.format.target_spans import TargetSpans
from lexalcm.errors import ConfigError

_STRETCH = 1 << 18
"""Documents looked at together."""


class Documents(NamedTuple):
    """What a plan has to know of a data set."""

    lengths: np.ndarray
    """int [documents], sentences of each."""
    sources: np.ndarray | None = None
    """int [documents], sentences of the source, which come first and are never targets; None: there are no pairs."""
    targets: TargetSpans | None = None
    """Which of the sentences are targets, and the suffix with the last; None: all behind the source."""
    chosen: np.ndarray | None = None
    """bool [documents], which ones are read; None: all."""
    prefix: int = 0
    """Special concepts before every document; never targets."""
    suffix: int = 0
    """Special concepts behind every document; targets like its sentences."""
    max_length: int | None = None
    """Concepts in a window; None: as many as in a row."""
    weight: float | None = None
    """Share of the concepts of an epoch, relative to the other data sets; None: every document once."""

    def context(self, numbers: slice | np.ndarray) -> np.ndarray:
        """Concepts, special ones included, that stand before the first target of some documents, at least 1: int64."""
        if self.targets is not None:
            before = self.targets.first[numbers].astype(np.int64)
        elif self.sources is not None:
            before = self.sources[numbers].astype(np.int64)
        else:
            before = np.zeros(len(self.lengths[numbers]), np.int64)
        return np.maximum(before + self.prefix, 1)


class _Shape(NamedTuple):
    """Of a stretch of documents; int64 each."""

    last: np.ndarray
    """Concepts in the last window; 0 where the document has nothing to predict."""
    last_start: np.ndarray
    """Its first concept."""
    context: np.ndarray
    """Concepts at the document's beginning before the first target, at least 1."""
    skipped: np.ndarray
    """Windows at its beginning that would hold no target and are not made."""
    full: np.ndarray
    """Full windows between those and the last."""


class SetWindows:
    """The windows of one data set."""

    def __init__(self, documents: Documents, row_length: int) -> None:
        """Cut all documents.

        Args:
            documents: what there is.
            row_length: positions in a row.

        Raises:
            ConfigError: `row_length` or `max_length` is below 2.
        """
        self.documents = documents
        self.window = min(documents.max_length or row_length, row_length)
        if self.window < 2:
            name = "data.row_length" if row_length < 2 else "max_length of a data set"
            raise ConfigError(f"{name} must be at least 2 (a concept and one to predict), got {self.window}")
        count = len(documents.lengths)
        narrow = np.uint16 if self.window < 2**16 else np.int32  # numpy sorts 16-bit integers in linear time
        last = np.empty(count, narrow)
        stretches = [slice(first, first + _STRETCH) for first in range(0, count, _STRETCH)]
        counts = np.zeros((len(stretches), self.window + 1), np.int64)
        long, full, pieces = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for number, stretch in enumerate(stretches):
            shape = self._shape(stretch)
            last[stretch] = shape.last
            counts[number] = np.bincount(shape.last, minlength=self.window + 1)
            cut = np.flatnonzero(shape.full)
            long.append(cut + stretch.start)
            full.append(shape.full[cut])
            if documents.targets is not None:
                kept, full[-1] = self._with_targets(long[-1], shape.skipped[cut], full[-1])
                pieces.append(kept)
        self._pieces = np.concatenate(pieces)
        """Of conversations, the number within its document of each full window."""
        self._long = np.concatenate(long)
        self._full_ends = np.cumsum(np.concatenate(full))
        self._full = int(self._full_ends[-1]) if len(self._long) else 0
        totals = counts.sum(axis=0)
        self._first = np.cumsum(totals) - totals
        self._sorted = self._sort(last, stretches, counts)
        self.counts = totals.copy()
        """int64 [window + 1]: windows of each length."""
        self.counts[0] = 0
        self.counts[-1] += self._full

    @property
    def concepts(self) -> int:
        """Concepts in all windows; where two overlap, the one that they share counts for both."""
        return int(self.counts @ np.arange(len(self.counts)))

    def count_targets(
        self, document: np.ndarray, start: np.ndarray, length: np.ndarray, context: np.ndarray
    ) -> np.ndarray:
        """Targets in windows that begin at the concepts `start`, the first `context` of them context only: int64."""
        targets, prefix = self.documents.targets, self.documents.prefix
        if targets is None:
            return length - context
        begin, end, n = start + context - prefix, start + length - prefix, self.documents.lengths[document]
        behind = np.maximum(end - n, 0) - np.maximum(begin - n, 0)
        return targets.count(document, begin.clip(0, n), end.clip(0, n)) + behind

    def find(self, length: np.ndarray, number: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Window `number` of those with `length` concepts: document, first concept, concepts that are context; int64.

        A window of all the document's first concepts has as many for context as the document has; any other has one.
        """
        in_full = (length == self.window) & (number < self._full)
        at = self._first[length] + number - np.where(length == self.window, self._full, 0)
        document = self._sorted[np.where(in_full, 0, at)].astype(np.int64)
        long = np.searchsorted(self._full_ends, number[in_full], side="right")
        document[in_full] = self._long[long]
        shape = self._shape(document)
        start = shape.last_start
        if len(long):
            if self.documents.targets is not None:
                piece = self._pieces[number[in_full]]
            else:
                piece = number[in_full] - self._full_ends[long] + shape.full[in_full] + shape.skipped[in_full]
            start[in_full] = piece * (self.window - 1)
        return document, start, np.maximum(shape.context - start, 1)

    def _shape(self, documents: slice | np.ndarray) -> _Shape:
        given = self.documents
        lengths = given.lengths[documents].astype(np.int64)
        context = given.context(documents)
        stride = self.window - 1
        usable = lengths >= max(2 - given.prefix, 1)
        if given.sources is not None:
            usable &= lengths > given.sources[documents]
        suffix = np.full(len(lengths), given.suffix)
        if given.targets is not None:
            end = given.targets.end[documents].astype(np.int64)
            suffix[end < lengths] = 0
            lengths = end
            usable &= end + given.prefix > context
        if given.chosen is not None:
            usable &= given.chosen[documents]
        lengths += given.prefix + suffix
        before_last = np.maximum(lengths - 2, 0) // stride
        last_start = before_last * stride
        last = (lengths - last_start) * usable
        skipped = np.maximum(context - self.window + stride, 0) // stride
        return _Shape(last, last_start, context, skipped, (before_last - skipped) * usable)

    def _with_targets(self, long: np.ndarray, skipped: np.ndarray, full: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of the full windows of documents, those that hold a target: their numbers, and how many each document has."""
        document = np.repeat(np.arange(len(long)), full)
        piece = np.arange(len(document)) - np.repeat(np.cumsum(full) - full - skipped, full)
        one = np.ones(len(document), np.int64)
        start = piece * (self.window - 1)
        kept = self.count_targets(long[document], start, one * self.window, one) > 0
        return piece[kept], np.bincount(document[kept], minlength=len(long))

    def _sort(self, last: np.ndarray, stretches: list[slice], counts: np.ndarray) -> np.ndarray:
        """Document numbers sorted by the length of their last window, those of one length in order: int32 or int64."""
        ordered = np.empty(len(last), np.int32 if len(last) < 2**31 else np.int64)
        goes_to = self._first.copy()
        for stretch, in_stretch in zip(stretches, counts, strict=True):
            order = np.argsort(last[stretch], kind="stable") + stretch.start
            ends = np.cumsum(in_stretch)
            for length in np.flatnonzero(in_stretch).tolist():
                n, end = int(in_stretch[length]), int(ends[length])
                ordered[goes_to[length] : goes_to[length] + n] = order[end - n : end]
                goes_to[length] += n
        return ordered


def group_by(values: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Every different value, and where it is."""
    for value in np.unique(values).tolist():
        yield value, np.flatnonzero(values == value)
