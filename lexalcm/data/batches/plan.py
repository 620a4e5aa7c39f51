"""The batch plan: which concepts stand where in which micro-batch, a pure function of lengths, seed and settings.

    documents    cut into windows (see `lexalcm.data.batches.windows`)
    windows      drawn from each data set as its weight says, and packed into rows (see `lexalcm.data.batches.packing`)
    rows         ordered by a permutation keyed with (seed, epoch)
    micro-batch  `micro_batch` rows; `global_batch` micro-batches are an optimizer step

The lengths and weights alone fix how long the windows in each row are. Which windows of those lengths meet in a row,
and which rows in a step, is drawn anew each epoch by keyed permutations (see `lexalcm.data.batches.permutation`) that
are evaluated for the rows of a step alone. So the plan has no state but numbers, any step of any epoch costs the same,
and ten million documents are ready in less than half a second.

Without weights, every document comes once an epoch. With weights, an epoch takes as many concepts as all data sets have
together, and from each the share that its weight is of all weights. So it passes over a data set

    passes = share x concepts of all data sets / concepts of this one

times. Of its n windows of some length, epochs 0 to e - 1 take floor(n x passes x e + phase), phase below 1 for each
length: shares are right to a few windows in each epoch, and exact over many. What is taken goes on from epoch to epoch
through one pass after another, each in an order of its own: no window comes a second time before all of its length have
come once.

All epochs have as many steps as the first. Rows that fill no step are left out, others each epoch; where rows are too
few, because all together fill no step or because windows of other lengths take less space, some are repeated. The plan
knows nothing of ranks.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from lexalcm.data.batches.packing import MIN_FILL, Cut, pack, smallest_first_piece
from lexalcm.data.batches.permutation import derive_key, permute
from lexalcm.data.batches.windows import Documents, SetWindows, group_by
from lexalcm.errors import ConfigError, DataError

MIN_SENTENCES = 2
"""Shorter documents are left out unless special concepts stand before them: there is no next sentence to predict."""

_BLOCK_ROWS = 2048
"""Rows planned together, if a step does not have more: numpy calls cost the same for one row and for hundreds."""

_ROWS, _MEETINGS, _DRAWS = range(3)
"""What a key is for."""


class Windows(NamedTuple):
    """Stretches of documents and where they stand; int64 arrays of one entry a window."""

    row: np.ndarray
    """The row that it stands in, 0, 1, ... in the order of rows asked for."""
    place: np.ndarray
    """Its place among the windows of the row."""
    begin: np.ndarray
    """Its first position in the row."""
    data_set: np.ndarray
    """Number of the data set."""
    document: np.ndarray
    """Number of the document in it."""
    start: np.ndarray
    """Its first concept, counted in the document with its special concepts."""
    length: np.ndarray
    """Its concepts."""
    context: np.ndarray
    """How many of them, from the first, are context only; the others are targets, but for gaps in conversations."""
    targets: np.ndarray
    """How many of them are targets."""


class PackedRows:
    """The rows of every epoch: their places are fixed, which window of the right length takes a place is not."""

    def __init__(self, data_sets: Sequence[Documents], row_length: int, *, cut: bool = True) -> None:
        """Pack documents into rows.

        Args:
            data_sets: the documents of each data set; either all have a weight or none has.
            row_length: positions in a row.
            cut: cut windows where rows would have too many gaps, though not those of pairs and conversations.

        Raises:
            ConfigError: `row_length` is below 2, or a weight is missing.
            DataError: no document, or none of a data set with a weight, has anything to predict.
        """
        self.row_length = row_length
        self.sets = [SetWindows(documents, row_length) for documents in data_sets]
        self._per_epoch = _draws_per_epoch(self.sets, row_length)
        self._phase = (np.cumsum(self._per_epoch, axis=1) - self._per_epoch) % 1
        self._cuttable = [
            documents.sources is None
            and documents.targets is None
            and documents.prefix < smallest_first_piece(row_length)
            for documents in data_sets
        ]
        self._min_fill = MIN_FILL if cut else 0
        self._packed = lru_cache(maxsize=4)(self._pack)

    def draws(self, epoch: int) -> np.ndarray:
        """Windows of each length that an epoch takes from each data set: int64 [data sets, row_length + 1]."""
        return self._drawn_before(epoch + 1) - self._drawn_before(epoch)

    def epoch_rows(self, epoch: int) -> "EpochRows":
        """The rows of an epoch."""
        return EpochRows(self.sets, self._drawn_before(epoch), self._packed(self.draws(epoch).tobytes()))

    def _drawn_before(self, epoch: int) -> np.ndarray:
        """How many windows of each length all epochs before have taken from each data set."""
        return np.floor(self._per_epoch * epoch + self._phase).astype(np.int64)

    def _pack(self, draws: bytes) -> "_Table":
        counts = np.frombuffer(draws, np.int64).reshape(self._per_epoch.shape)
        return _Table(counts, self._cuttable, self.row_length, self._min_fill)


class EpochRows:
    """The rows of one epoch."""

    def __init__(self, sets: Sequence[SetWindows], drawn_before: np.ndarray, table: "_Table") -> None:
        self._sets = sets
        self._drawn_before = drawn_before
        self._table = table

    def __len__(self) -> int:
        return self._table.rows

    @property
    def fill(self) -> float:
        """Share of positions that hold a concept."""
        return self._table.fill

    def windows(self, rows: np.ndarray, key: int | None = None) -> Windows:
        """What stands in the given rows, in their order, each row's in the order of its places.

        Args:
            rows: int64 [n], from 0 to the number of rows.
            key: of the order in which windows take places, together with the epochs before; None: as they come.
        """
        table = self._table
        pattern = np.searchsorted(table.pattern_starts, rows, side="right") - 1
        places = table.slot_counts[pattern]
        row = np.repeat(np.arange(len(rows)), places)
        place = np.arange(len(row)) - np.repeat(np.cumsum(places) - places, places)
        slot = np.repeat(table.slot_starts[pattern], places) + place
        number = table.slot_first[slot] + np.repeat(rows - table.pattern_starts[pattern], places)
        run = np.searchsorted(table.run_starts, number, side="right") - 1
        rank = table.run_ranks[run] + number - table.run_starts[run]
        data_set, document, start, context = self._draw(table.run_lengths[run], rank, key)
        piece = table.run_pieces[run]
        start, length, context = start + piece, table.slot_lengths[slot], np.maximum(context - piece, 1)
        targets = length - context
        for chosen, windows in enumerate(self._sets):
            if windows.documents.targets is not None:
                at = np.flatnonzero(data_set == chosen)
                targets[at] = windows.count_targets(document[at], start[at], length[at], context[at])
        return Windows(
            row=row,
            place=place,
            begin=table.slot_begins[slot],
            data_set=data_set,
            document=document,
            start=start,
            length=length,
            context=context,
            targets=targets,
        )

    def _draw(
        self, length: np.ndarray, rank: np.ndarray, key: int | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The window of some rank among the epoch's windows of a length: data set, document, start, context."""
        table = self._table
        if key is not None and len(self._sets) > 1:  # what may be cut stays in front
            first = np.where(rank < table.cuttable[length], 0, table.cuttable[length])
            size = np.where(rank < table.cuttable[length], table.cuttable[length], table.counts[length] - first)
            drawn = self._drawn_before.sum(axis=0)[length]  # differs from epoch to epoch
            rank = first + permute(rank - first, size, derive_key(key, _MEETINGS, drawn, length, first))
        turn = (rank >= table.draw_ends[:, length]).sum(axis=0)
        data_set = table.set_order[turn]
        number = rank - np.where(turn > 0, table.draw_ends[turn - 1, length], 0) + self._drawn_before[data_set, length]
        document, start, context = np.empty((3, len(rank)), np.int64)
        for chosen, at in group_by(data_set):
            windows = self._sets[chosen]
            size = windows.counts[length[at]]
            passed, within = np.divmod(number[at], size)
            if key is not None:
                within = permute(within, size, derive_key(key, _DRAWS, chosen, length[at], passed))
            document[at], start[at], context[at] = windows.find(length[at], within)
        return data_set, document, start, context


class _Table:
    """The rows of an epoch by pattern, the places of each pattern, and which window takes a place.

    Places are numbered by length; of one length, by pattern, place in the pattern, and row. Runs are places that
    windows of one length take in the order of their ranks.
    """

    def __init__(self, draws: np.ndarray, cuttable: list[bool], row_length: int, min_fill: float) -> None:
        """Pack windows, so many of each length from each data set, of which the `cuttable` ones may be cut."""
        self.set_order = np.argsort(~np.array(cuttable), kind="stable")  # what may be cut takes the first places
        self.draw_ends = np.cumsum(draws[self.set_order], axis=0)
        self.cuttable = draws[cuttable].sum(axis=0)
        self.counts = self.draw_ends[-1]
        packing = pack(self.counts, row_length, min_fill, self.cuttable)

        pattern_rows = np.array([pattern.rows for pattern in packing.patterns])
        self.pattern_starts = np.cumsum(pattern_rows) - pattern_rows
        self.rows = int(pattern_rows.sum())
        self.slot_counts = np.array([len(pattern.lengths) for pattern in packing.patterns])
        self.slot_starts = np.cumsum(self.slot_counts) - self.slot_counts
        self.slot_lengths = np.array([length for pattern in packing.patterns for length in pattern.lengths])
        begins = np.cumsum(self.slot_lengths) - self.slot_lengths
        self.slot_begins = begins - np.repeat(begins[self.slot_starts], self.slot_counts)

        slot_rows = np.repeat(pattern_rows, self.slot_counts)
        self.fill = float(slot_rows @ self.slot_lengths / (self.rows * row_length))
        by_length = np.argsort(self.slot_lengths, kind="stable")
        self.slot_first = np.empty(len(slot_rows), np.int64)
        self.slot_first[by_length] = np.cumsum(slot_rows[by_length]) - slot_rows[by_length]
        places = np.bincount(self.slot_lengths, slot_rows, minlength=len(self.counts)).astype(np.int64)
        runs = sorted(_runs(packing.cuts, self.counts, np.cumsum(places) - places))
        self.run_starts, self.run_lengths, self.run_ranks, self.run_pieces = np.array(runs).T


def _runs(cuts: list[Cut], counts: np.ndarray, free: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Places that windows of one length take in order: (first place, length of windows, first rank, piece's start).

    Of the windows of one length, the first are cut.
    """
    runs = []
    free = free.copy()
    ranks = np.zeros(len(counts), np.int64)
    for cut in cuts:
        concept = 0
        for piece in cut.pieces:
            runs.append((int(free[piece]), cut.length, int(ranks[cut.length]), concept))
            free[piece] += cut.windows
            concept += piece - 1
        ranks[cut.length] += cut.windows
    for length in np.flatnonzero(counts > ranks).tolist():
        runs.append((int(free[length]), length, int(ranks[length]), 0))
    return runs


def _draws_per_epoch(sets: list[SetWindows], row_length: int) -> np.ndarray:
    """Windows of each length that an epoch takes from each data set on average: float64 [data sets, row_length + 1]."""
    counts = np.zeros((len(sets), row_length + 1), np.int64)
    for row, windows in zip(counts, sets, strict=True):
        row[: len(windows.counts)] = windows.counts
    if not counts.any():
        raise DataError("no document has two sentences, so there is nothing to predict: use longer documents")
    given = [windows.documents.weight for windows in sets]
    if all(weight is None for weight in given):
        return counts.astype(np.float64)
    weights = np.array([weight for weight in given if weight is not None], np.float64)
    if len(weights) < len(sets):
        raise ConfigError("some data sets have a weight and some have none: give all a weight, or none")
    concepts = np.array([windows.concepts for windows in sets], np.float64)
    if not concepts.all():
        number = int(np.argmin(concepts))
        raise DataError(f"data set {number} of {len(sets)} has a weight but no document with anything to predict")
    passes = weights / weights.sum() * concepts.sum() / concepts
    return counts * passes[:, None]


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
        self.steps_per_epoch = max(1, len(rows.epoch_rows(0)) // (micro_batch * global_batch))
        self.micro_batches_per_epoch = self.steps_per_epoch * global_batch
        self._steps_per_block = max(1, _BLOCK_ROWS // (micro_batch * global_batch))
        self._block = lru_cache(maxsize=4)(self._plan_block)

    def micro_batch_windows(self, number: int) -> Windows:
        """What stands in the rows of micro-batch `number` (0, 1, ... from the start of training)."""
        step, within = divmod(number, self.global_batch)
        block, place = self._step_block(step)
        return block.micro_batch(place * self.global_batch + within)

    def targets_in_step(self, step: int) -> int:
        """Targets in all micro-batches of an optimizer step."""
        block, place = self._step_block(step)
        return int(block.targets[place * self.global_batch : (place + 1) * self.global_batch].sum())

    def _step_block(self, step: int) -> tuple["_Block", int]:
        """What is planned together with a step, and its place among the steps of that."""
        epoch, within = divmod(step, self.steps_per_epoch)
        block, place = divmod(within, self._steps_per_block)
        return self._block(epoch, block), place

    def _plan_block(self, epoch: int, block: int) -> "_Block":
        rows_per_block = self._steps_per_block * self.micro_batch * self.global_batch
        end = self.steps_per_epoch * self.micro_batch * self.global_batch
        rows = self.rows.epoch_rows(epoch)
        places = np.arange(block * rows_per_block, min((block + 1) * rows_per_block, end)) % len(rows)
        order = permute(places, len(rows), derive_key(self.seed, _ROWS, epoch))
        return _Block(rows.windows(order, self.seed), self.micro_batch)


class FixedPlan:
    """Every row once, always in the same order: what a validation reads."""

    def __init__(self, rows: PackedRows, *, micro_batch: int) -> None:
        self.rows = rows.epoch_rows(0)
        self.micro_batch = micro_batch
        self.micro_batches = -(-len(self.rows) // micro_batch)
        self.targets = int(self.rows.windows(np.arange(len(self.rows))).targets.sum())
        """Targets in all micro-batches."""

    def micro_batch_windows(self, number: int) -> Windows:
        """What stands in the rows of micro-batch `number`; fewer rows in the last, none beyond it."""
        first = number * self.micro_batch
        return self.rows.windows(np.arange(first, max(first, min(first + self.micro_batch, len(self.rows)))))


class _Block:
    """Micro-batches that are planned together."""

    def __init__(self, windows: Windows, micro_batch: int) -> None:
        number, row = np.divmod(windows.row, micro_batch)
        self._windows = windows._replace(row=row)
        self._ends = [0, *np.cumsum(np.bincount(number)).tolist()]
        self.targets = np.bincount(number, windows.targets).astype(np.int64)
        """int64 [micro-batches]"""

    def micro_batch(self, number: int) -> Windows:
        """The windows of one, its rows counted from 0."""
        part = slice(self._ends[number], self._ends[number + 1])
        return Windows(*(column[part] for column in self._windows))
