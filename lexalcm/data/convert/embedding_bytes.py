"""Embeddings as bytes that do not say what they are: float16 or float32.

The number of sentences tells: the text column is read for it without text, too, if there is one. Where there is none, a
row with a number of bytes that only float16 can have does, else the numbers themselves: read as what they are not, they
spread over many more orders of magnitude.
"""

import numpy as np
import pyarrow as pa

_SAMPLED = 1 << 16
"""Bytes looked at to tell float16 from float32."""

_BELOW_HALVES = 2.0**-25
"""Smaller than any float16 but zero, which counts as this."""


def itemsize_of(sizes: np.ndarray, counts: np.ndarray | None, dim: int, before: int | None) -> int | None:
    """Bytes of a number, as most rows have them by their sentences; None if nothing tells.

    Where no number of sentences tells, it is that of the file `before`; but float16 if all rows are whole vectors of it
    and one of them is none of float32.

    Args:
        sizes: bytes of each row, int64 [rows].
        counts: sentences of each row, if they are known, int64 [rows].
        dim: of an embedding.
        before: bytes of a number in the rows before.
    """
    if counts is not None:
        halves = ((sizes == counts * dim * 2) & (counts > 0)).sum()
        singles = ((sizes == counts * dim * 4) & (counts > 0)).sum()
        if halves or singles:
            return 2 if halves > singles else 4
    if not (sizes % (dim * 2)).any() and (sizes % (dim * 4)).any():
        return 2
    return before


def look_like_float16(column: pa.Array, sizes: np.ndarray) -> bool:
    """Whether the first numbers of some rows of bytes make more sense as float16 than as float32.

    Of a pair of float16 read as one float32, five bits of mantissa become part of the exponent, so that nine tenths of
    normal numbers span 2^40 instead of 2^5; of a float32 read as two float16, one is made of the last bits of a
    mantissa and may be anything, or zero where the float32 was rounded before.
    """
    content = b""
    for i in np.flatnonzero(sizes).tolist():
        content += column[i].as_buffer().to_pybytes()
        if len(content) >= _SAMPLED:
            break
    content = content[: len(content) // 4 * 4]
    halves, singles = (np.abs(np.frombuffer(content, kind).astype(np.float64)) for kind in ("<f2", "<f4"))
    halves = np.maximum(halves[np.isfinite(halves)], _BELOW_HALVES)
    singles = singles[np.isfinite(singles) & (singles > 0)]
    return len(halves) > 0 and len(singles) > 0 and 2 * _octaves(halves) < _octaves(singles)


def _octaves(numbers: np.ndarray) -> float:
    """How many powers of two positive numbers span, but for a twentieth of them at either end."""
    low, high = np.quantile(np.log2(numbers), (0.05, 0.95))
    return float(high - low)
