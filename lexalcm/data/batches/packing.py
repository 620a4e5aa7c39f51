"""Pack windows of documents into rows of one length, on the histogram of window lengths.

First best-fit decreasing: the longest windows first, each into the fullest row that has room. Where lengths fit badly
(37 concepts are typical of the packaged text: three such documents use 87% of a row of 128) the emptiest rows are taken
apart until `MIN_FILL` of all positions is used, and their windows cut to fill the gaps of other rows. So as few
documents as possible lose context, and a cut costs one position: its pieces overlap by one concept.

Work is done on groups of equal rows, so time depends on `row_length` and not on the number of documents: a few
milliseconds for 128, half a second for 2048.
"""

import math
from collections import Counter
from typing import NamedTuple

import numpy as np

MIN_FILL = 0.985
"""Share of positions below which rows are taken apart."""

_SMALLEST_GAP = 1 / 16
"""Smaller gaps, in parts of a row, are left empty: a piece that short has no context worth having."""


def smallest_first_piece(row_length: int) -> int:
    """Concepts that the first piece of a cut window has at least."""
    return max(2, int(row_length * _SMALLEST_GAP))


class Pattern(NamedTuple):
    """Rows whose places are alike."""

    lengths: tuple[int, ...]
    rows: int


class Cut(NamedTuple):
    """Windows that are cut into pieces, each overlapping the one before by one concept."""

    pieces: tuple[int, ...]
    windows: int

    @property
    def length(self) -> int:
        """Concepts in the window."""
        return sum(self.pieces) - len(self.pieces) + 1


class Packing(NamedTuple):
    """The rows, and which of the windows are cut to fit them."""

    patterns: list[Pattern]
    cuts: list[Cut]


def pack(
    counts: np.ndarray, row_length: int, min_fill: float = MIN_FILL, cuttable: np.ndarray | None = None
) -> Packing:
    """Pack windows into as few rows as `min_fill` asks for.

    Args:
        counts: how many windows there are of each length 0..row_length.
        row_length: positions in a row.
        min_fill: cut windows only if less than this share of all positions would be used; 0 cuts none.
        cuttable: how many of each length may be cut; all, if not given.
    """
    rows = _OpenRows(row_length)
    rows.fit(counts)
    concepts = int(counts @ np.arange(len(counts)))
    surplus = len(rows) - math.ceil(concepts / (min_fill * row_length)) if min_fill else 0
    cuts = rows.fill_gaps(rows.take_apart(surplus), counts if cuttable is None else cuttable) if surplus > 0 else []
    return Packing(rows.patterns(), cuts)


class _OpenRows:
    """Rows being filled, in groups of equal ones, by the room that they have left."""

    def __init__(self, row_length: int) -> None:
        self.row_length = row_length
        self.by_room: list[Counter[tuple[int, ...]]] = [Counter() for _ in range(row_length + 1)]
        self.rows = [0] * (row_length + 1)  # with each room left

    def __len__(self) -> int:
        return sum(self.rows)

    def patterns(self) -> list[Pattern]:
        return [Pattern(lengths, rows) for group in self.by_room for lengths, rows in group.items()]

    def fit(self, counts: np.ndarray | Counter[int]) -> None:
        """Add windows by best-fit decreasing."""
        for length in range(self.row_length, 0, -1):
            left = int(counts[length])
            for room in range(length, self.row_length):
                if not left:
                    break
                if self.rows[room]:
                    left -= self._extend_all(room, length, left)
            if left:
                self._add((), -(-left // (self.row_length // length)))
                self._extend_all(self.row_length, length, left)

    def take_apart(self, surplus: int) -> Counter[int]:
        """Remove the `surplus` emptiest rows and return their windows by length."""
        freed: Counter[int] = Counter()
        for room in range(self.row_length, -1, -1):
            for lengths, rows in list(self.by_room[room].items()):
                removed = min(rows, surplus)
                self._remove(room, lengths, removed)
                for length in lengths:
                    freed[length] += removed
                surplus -= removed
                if not surplus:
                    return freed
        return freed

    def fill_gaps(self, freed: Counter[int], cuttable: np.ndarray) -> list[Cut]:
        """Put windows back, cut to fit the gaps; what finds none goes uncut into new rows."""
        cuts: list[Cut] = []
        for length in sorted(freed, reverse=True):
            may_cut = int(cuttable[length])
            while freed[length]:
                gaps = self._gaps_for(length)
                pieces = tuple(piece for _, piece in gaps)
                rooms = Counter(room for room, _ in gaps)
                windows = min(freed[length], *(self.rows[room] // n for room, n in rooms.items())) if gaps else 0
                if len(pieces) > 1:
                    windows = min(windows, may_cut)
                    may_cut -= windows
                if not windows:
                    break
                for room, piece in gaps:
                    self._extend(room, windows, (piece,))
                freed[length] -= windows
                if len(pieces) > 1:
                    cuts.append(Cut(pieces, windows))
        self.fit(freed)
        return cuts

    def _gaps_for(self, length: int) -> list[tuple[int, int]]:
        """Gaps that together hold a window, the largest first, and the piece for each: (room, piece)."""
        free = list(self.rows)
        gaps: list[tuple[int, int]] = []
        smallest = smallest_first_piece(self.row_length)
        while True:
            fitting = next((room for room in range(length, self.row_length) if free[room]), None)
            if fitting is not None:
                return [*gaps, (fitting, length)]
            largest = next((room for room in range(length - 1, smallest - 1, -1) if free[room]), None)
            if largest is None:
                return []
            free[largest] -= 1
            gaps.append((largest, largest))
            length -= largest - 1

    def _extend_all(self, room: int, length: int, windows: int) -> int:
        """Put up to `windows` windows of a length, as many a row as it holds, in rows with `room`: how many went in."""
        per_row = room // length
        full = min(self.rows[room], windows // per_row)
        rest = windows % per_row if self.rows[room] > full and full == windows // per_row else 0
        self._extend(room, full, (length,) * per_row)
        if rest:
            self._extend(room, 1, (length,) * rest)
        return full * per_row + rest

    def _extend(self, room: int, rows: int, added: tuple[int, ...]) -> None:
        """Add the same places to a number of rows with `room`."""
        for lengths, alike in list(self.by_room[room].items()):
            moved = min(rows, alike)
            if moved:
                self._remove(room, lengths, moved)
                self._add(lengths + added, moved)
                rows -= moved

    def _add(self, lengths: tuple[int, ...], rows: int) -> None:
        room = self.row_length - sum(lengths)
        self.by_room[room][lengths] += rows
        self.rows[room] += rows

    def _remove(self, room: int, lengths: tuple[int, ...], rows: int) -> None:
        self.rows[room] -= rows
        self.by_room[room][lengths] -= rows
        if not self.by_room[room][lengths]:
            del self.by_room[room][lengths]
