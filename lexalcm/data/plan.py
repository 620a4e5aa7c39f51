"""The batch plan: which concepts stand where in which micro-batch, a pure function of lengths, seed and settings.

    documents    cut into windows of at most `row_length` concepts
    windows      packed into rows of `row_length` positions (see `lexalcm.data.packing`)
    rows         ordered by a permutation seeded with (seed, epoch)
    micro-batch  `micro_batch` rows; `global_batch` micro-batches are an optimizer step

Windows of one document overlap by one concept: the last of one is the first of the next, where it is context only. So
every concept but a document's first is a target exactly once, at the cost of one position a further window.

The lengths alone fix how many rows there are and how long the windows in each are, in every epoch alike; which windows
of those lengths meet in a row is drawn anew each epoch. Of the packaged text, 98% of positions are used at a row length
of 128, and 1% of documents are cut for it.

The last rows of an epoch that fill no step are left out, others each epoch. If all rows together fill no step, they are
repeated until they do. The plan knows nothing of ranks and has no state but numbers, so any micro-batch can be had at
once. Time is O(n log n) for n documents, all in numpy, and it holds a few arrays of n integers.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from lexalcm.data.packing import MIN_FILL, Cut, pack
from lexalcm.errors import ConfigError, DataError

MIN_SENTENCES = 2
"""Shorter documents are left out: there is no next sentence to predict."""


class Windows(NamedTuple):
    """Stretches of documents; arrays of one entry a window."""

    document: np.ndarray
    """int64, number of the document."""
    start: np.ndarray
    """int32, its first concept."""
    length: np.ndarray
    """int32, concepts; the first is context only, the others are targets."""


def cut_windows(lengths: np.ndarray, row_length: int) -> Windows:
    """Cut documents into windows of at most `row_length` concepts that overlap by one.

    Args:
        lengths: concepts of each document; those below 2 get no window.
        row_length: at least 2.
    """
    lengths = lengths.astype(np.int32).clip(min=1)
    stride = row_length - 1
    pieces = (lengths + (stride - 2)) // stride  # a window of m concepts has m - 1 targets
    document = np.repeat(np.arange(len(lengths)), pieces)
    first = np.repeat(np.cumsum(pieces) - pieces, pieces)
    start = (np.arange(len(document)) - first).astype(np.int32) * np.int32(stride)
    length = np.minimum(lengths[document] - start, np.int32(row_length))
    return Windows(document, start, length)


def concept_counts(sentences: np.ndarray, end_of_text: bool) -> np.ndarray:
    """Concepts that each document brings to a plan: int64 [documents].

    Args:
        sentences: sentences of each document.
        end_of_text: one more concept ends every document.

    Returns:
        Zero for documents of fewer than `MIN_SENTENCES` sentences.
    """
    return np.where(sentences >= MIN_SENTENCES, sentences.astype(np.int64) + end_of_text, 0)


class PackedRows:
    """The rows of an epoch: their places are fixed, which window of the right length takes a place is not."""

    def __init__(self, lengths: np.ndarray, row_length: int, *, cut: bool = True) -> None:
        """Pack documents of `lengths` concepts into rows.

        Args:
            lengths: concepts of each document.
            row_length: positions in a row.
            cut: cut windows where rows would have too many gaps.

        Raises:
            ConfigError: `row_length` is below 2.
            DataError: no document has two concepts, so there is nothing to predict.
        """
        if row_length < 2:
            raise ConfigError(f"data.row_length must be at least 2 (a concept and one to predict), got {row_length}")
        self.row_length = row_length
        self.windows = cut_windows(lengths, row_length)
        if not len(self.windows.document):
            raise DataError("no document has two sentences, so there is nothing to predict: use longer documents")
        counts = np.bincount(self.windows.length, minlength=row_length + 1)
        packing = pack(counts, row_length, MIN_FILL if cut else 0)
        places_per_row = [np.full(pattern.rows, len(pattern.lengths)) for pattern in packing.patterns]
        self._row_starts = np.concatenate([[0], np.cumsum(np.concatenate(places_per_row))])
        lengths_by_pattern = [np.tile(pattern.lengths, pattern.rows) for pattern in packing.patterns]
        self._place_length = np.concatenate(lengths_by_pattern).astype(np.int32)
        self._place_rank, self._place_start = _take_places(self._place_length, counts, packing.cuts)
        self.targets = np.add.reduceat(self._place_length.astype(np.int64) - 1, self._row_starts[:-1])
        """int64 [rows]: targets in each row."""

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def fill(self) -> float:
        """Share of positions that hold a concept."""
        return float(self._place_length.sum(dtype=np.int64) / (len(self) * self.row_length))

    def assign(self, order: np.ndarray) -> np.ndarray:
        """The window in each place when windows of one length are taken in the given order: int64 [places]."""
        by_length = order[_stable_argsort(self.windows.length[order])]
        return by_length[self._place_rank]

    def row(self, row: int, in_places: np.ndarray) -> Windows:
        """The windows, or pieces of such, that stand in a row, given what `assign` put in the places."""
        places = slice(self._row_starts[row], self._row_starts[row + 1])
        windows = in_places[places]
        start = self.windows.start[windows] + self._place_start[places]
        return Windows(self.windows.document[windows], start, self._place_length[places])


def _take_places(place_length: np.ndarray, counts: np.ndarray, cuts: list[Cut]) -> tuple[np.ndarray, np.ndarray]:
    """Give every place to a window, by its rank among the windows sorted by length.

    Returns:
        The rank of the window that stands in each place, and the concept of it that the place begins with. Of the
        windows of one length, the first are cut.
    """
    places = _stable_argsort(place_length)
    lengths = np.arange(len(counts))
    free = np.searchsorted(place_length[places], lengths)  # of each length: the next place to take, the next window
    ranks = np.cumsum(counts) - counts
    ends = ranks + counts
    rank = np.empty(len(place_length), np.int64)
    start = np.zeros(len(place_length), np.int32)

    for cut in cuts:
        concept = 0
        for piece in cut.pieces:
            taken = places[free[piece] : free[piece] + cut.windows]
            free[piece] += cut.windows
            rank[taken] = ranks[cut.length] + np.arange(cut.windows)
            start[taken] = concept
            concept += piece - 1
        ranks[cut.length] += cut.windows
    for length in lengths:
        whole = ends[length] - ranks[length]
        rank[places[free[length] : free[length] + whole]] = ranks[length] + np.arange(whole)
    return rank, start


def _stable_argsort(lengths: np.ndarray) -> np.ndarray:
    """Sort lengths; numpy sorts 16-bit integers in linear time."""
    narrow = lengths.astype(np.uint16) if lengths.max() < 2**16 else lengths
    return np.argsort(narrow, kind="stable")


class TrainingPlan:
    """Batches without end: epoch after epoch, each in its own order."""

    def __init__(self, rows: PackedRows, *, micro_batch: int, global_batch: int, seed: int) -> None:
        """Plan a training.

        Args:
            rows: what there is to train on.
            micro_batch: rows in a micro-batch.
            global_batch: micro-batches in an optimizer step.
            seed: of the order.
        """
        self.rows = rows
        self.micro_batch = micro_batch
        self.global_batch = global_batch
        self.seed = seed
        self.steps_per_epoch = max(1, len(rows) // (micro_batch * global_batch))
        self.micro_batches_per_epoch = self.steps_per_epoch * global_batch
        self._epoch = lru_cache(maxsize=2)(self._plan_epoch)

    def micro_batch_rows(self, number: int) -> list[Windows]:
        """What stands in each row of micro-batch `number` (0, 1, ... from the start of training)."""
        epoch, within = divmod(number, self.micro_batches_per_epoch)
        order, in_places = self._epoch(epoch)
        chosen = order[within * self.micro_batch : (within + 1) * self.micro_batch].tolist()
        return [self.rows.row(row, in_places) for row in chosen]

    def targets_in_step(self, step: int) -> int:
        """Targets in all micro-batches of an optimizer step."""
        epoch, within = divmod(step, self.steps_per_epoch)
        rows_in_step = self.micro_batch * self.global_batch
        order, _ = self._epoch(epoch)
        return int(self.rows.targets[order[within * rows_in_step : (within + 1) * rows_in_step]].sum())

    def _plan_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows in the order of the epoch, and the window in each place."""
        rng = np.random.default_rng([self.seed, epoch])
        in_places = self.rows.assign(rng.permutation(len(self.rows.windows.length)))
        return np.resize(rng.permutation(len(self.rows)), self.micro_batches_per_epoch * self.micro_batch), in_places


class FixedPlan:
    """Every row once, always in the same order: what a validation reads."""

    def __init__(self, rows: PackedRows, *, micro_batch: int) -> None:
        self.rows = rows
        self.micro_batch = micro_batch
        self.micro_batches = -(-len(rows) // micro_batch)
        self._in_places = rows.assign(np.arange(len(rows.windows.length)))

    def micro_batch_rows(self, number: int) -> list[Windows]:
        """What stands in each row of micro-batch `number`; fewer rows in the last, none beyond it."""
        first = number * self.micro_batch
        rows = range(first, min(first + self.micro_batch, len(self.rows)))
        return [self.rows.row(row, self._in_places) for row in rows]
