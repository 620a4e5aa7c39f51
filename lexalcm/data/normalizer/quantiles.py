"""Quantiles of every column of many numbers, weighted, and exact.

Numbers in float16 have 65,536 values at most. So each column is counted value by value: counts of several data sets add
up, memory does not grow with how many numbers are counted (256 KiB a column, 256 MB for SONAR), and any quantile is
exact. Numbers in float32 have too many values for that; they are kept and sorted, so that their number must be bounded.

With masses m_1, m_2, ... of the sorted values, which sum to M, the quantile q is the value at rank (M - 1) q, where a
value of mass m takes up m ranks, linearly interpolated between whole ranks. With masses of one this is numpy's and
scikit-learn's definition.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

_ROWS_AT_ONCE = 1 << 15
_COLUMNS_AT_ONCE = 64
_VALUES = 1 << 16


class Column(NamedTuple):
    """The distribution of one column."""

    values: np.ndarray
    """float64 [n], ascending."""
    mass: np.ndarray
    """float64 [n], how much there is of each."""

    def mean_and_deviation(self) -> tuple[float, float]:
        """Mean and standard deviation."""
        mean = float(self.mass @ self.values / self.mass.sum())
        return mean, float(np.sqrt(self.mass @ (self.values - mean) ** 2 / self.mass.sum()))

    def quantiles(self, fractions: Sequence[float]) -> np.ndarray:
        """The quantiles at some fractions from 0 to 1."""
        ends = np.cumsum(self.mass)
        rank = (ends[-1] - 1) * np.asarray(fractions)
        whole = np.floor(rank)
        below, above = (self._at(ends, whole + shift) for shift in (0, 1))
        return below + (rank - whole) * (above - below)

    def _at(self, ends: np.ndarray, rank: np.ndarray) -> np.ndarray:
        # sums of weights that should be whole are so only up to rounding: a millionth of a rank is as good as none
        at = np.searchsorted(ends, rank + 1e-6, side="right")
        return self.values[np.minimum(at, len(self.values) - 1)]


class Counts(Protocol):
    """The numbers of one data set, column by column."""

    rows: int

    def add(self, concepts: np.ndarray) -> None:
        """Count the numbers of [n, dim]."""

    def columns(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Values and their counts, column by column."""


class Float16Counts:
    """Counts of float16 numbers by value."""

    def __init__(self, dim: int) -> None:
        self.rows = 0
        self._counts = np.zeros((dim, _VALUES), np.uint32)

    def add(self, concepts: np.ndarray) -> None:
        """Count the numbers of float16 [n, dim]."""
        dim = concepts.shape[1]
        together = math.gcd(dim, 4)  # columns that are transposed as one number of 8 bytes: in half the time
        for first in range(0, len(concepts), _ROWS_AT_ONCE):
            rows = np.ascontiguousarray(concepts[first : first + _ROWS_AT_ONCE]).view(f"u{2 * together}")
            columns = np.ascontiguousarray(rows.T).view(np.uint16).reshape(dim // together, len(rows), together)
            for i, counts in enumerate(self._counts):
                column = columns[i // together, :, i % together]
                counts += np.bincount(column, minlength=_VALUES).astype(np.uint32)
        self.rows += len(concepts)

    def columns(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """See `Counts`; values ascend."""
        values = _ascending(np.arange(_VALUES, dtype=np.uint16).view(np.float16).astype(np.float64))
        for counts in self._counts:
            in_order = _ascending(counts)
            present = np.flatnonzero(in_order != 0)  # of booleans: three times as fast
            yield values[present], in_order[present].astype(np.float64)


class KeptNumbers:
    """Numbers of any type, kept as they are."""

    def __init__(self) -> None:
        self.rows = 0
        self._parts: list[np.ndarray] = []

    def add(self, concepts: np.ndarray) -> None:
        """Keep the numbers of [n, dim]."""
        self._parts.append(concepts)
        self.rows += len(concepts)

    def columns(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """See `Counts`; values ascend."""
        ones = np.ones(self.rows)
        for first in range(0, self._parts[0].shape[1], _COLUMNS_AT_ONCE):
            block = np.concatenate([part[:, first : first + _COLUMNS_AT_ONCE] for part in self._parts])
            for column in np.sort(block.T.astype(np.float64), axis=1):
                yield column, ones


def merge(sets: Sequence[Counts], shares: Sequence[float]) -> Iterator[Column]:
    """The columns of a mixture in which each data set has a given share; the shares sum to 1.

    The mass of all is the number of rows of all; where each share is the data set's share of the rows, every number has
    mass 1.
    """
    rows = sum(one.rows for one in sets)
    masses = [share * rows / one.rows for one, share in zip(sets, shares, strict=True)]
    for parts in zip(*(one.columns() for one in sets), strict=True):
        if len(parts) == 1:
            yield Column(*parts[0])
            continue
        values = np.concatenate([values for values, _ in parts])
        mass = np.concatenate([mass * counts for mass, (_, counts) in zip(masses, parts, strict=True)])
        order = np.argsort(values, kind="stable")
        yield Column(values[order], mass[order])


def _ascending(by_bits: np.ndarray) -> np.ndarray:
    """What is given for every float16 by its bits, in the order of the values: -infinity to -0, 0 to infinity, NaN."""
    return np.concatenate([by_bits[0xFC00:0x7FFF:-1], by_bits[:0x8000], by_bits[0xFC01:]])
