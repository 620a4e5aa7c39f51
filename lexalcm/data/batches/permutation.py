"""Keyed permutations of 0 .. n-1 that are evaluated only where they are asked for.

An epoch's order of ten million documents is never written down: element x of it costs some arithmetic, so that
training starts at any step of any epoch at once. The permutation is a Feistel network of six rounds on the fewest bits
that hold n; a result of n or more is permuted again until it is below n ("cycle walking", Black and Rogaway 2002,
under two evaluations on average). Turning before and after by key-dependent amounts makes small n, where a network of
few bits has few different permutations, put every element everywhere equally often.
"""

import numpy as np

_ROUNDS = 6
_WEYL = np.uint64(0x9E3779B97F4A7C15)
_ROUND_CONSTANTS = np.arange(1, _ROUNDS + 1, dtype=np.uint64) * _WEYL
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def derive_key(*parts: np.ndarray | int) -> np.ndarray:
    """A key for every combination of numbers: uint64, of the shape that the parts broadcast to."""
    key = np.zeros(1, np.uint64)
    for part in parts:
        key = _mix((key ^ np.asarray(part).astype(np.uint64)) + _WEYL)
    return key


def permute(elements: np.ndarray, size: np.ndarray | int, key: np.ndarray) -> np.ndarray:
    """Where each element goes in the permutation of its size and key.

    Args:
        elements: int64 [n], each at least 0 and below its size.
        size: how many elements there are, at most 2^62: one number or int64 [n].
        key: uint64 [1] or [n], see `derive_key`.

    Returns:
        int64 [n]; with one size and key, different elements give different results.
    """
    size = np.broadcast_to(np.asarray(size).astype(np.uint64), elements.shape)
    key = np.broadcast_to(key, elements.shape)
    bits = np.frexp((size - np.uint64(1)).astype(np.float64))[1].astype(np.uint64)
    low_bits = bits >> np.uint64(1)
    low_mask = (np.uint64(1) << low_bits) - np.uint64(1)
    high_mask = (np.uint64(1) << (bits - low_bits)) - np.uint64(1)
    turned = (elements.astype(np.uint64) + derive_key(key, 0) % size) % size
    result = _feistel(turned, key, low_bits, low_mask, high_mask)
    outside = np.flatnonzero(result >= size)
    while len(outside):
        again = _feistel(result[outside], key[outside], low_bits[outside], low_mask[outside], high_mask[outside])
        result[outside] = again
        outside = outside[again >= size[outside]]
    return ((result + derive_key(key, 1) % size) % size).astype(np.int64)


def _feistel(
    x: np.ndarray, key: np.ndarray, low_bits: np.ndarray, low_mask: np.ndarray, high_mask: np.ndarray
) -> np.ndarray:
    low, high = x & low_mask, x >> low_bits
    for number in range(_ROUNDS):
        constant = key + _ROUND_CONSTANTS[number]
        if number % 2:
            low = low ^ (_mix(high ^ constant) & low_mask)
        else:
            high = high ^ (_mix(low ^ constant) & high_mask)
    return (high << low_bits) | low


def _mix(x: np.ndarray) -> np.ndarray:
    """The finalizer of SplitMix64."""
    x = (x ^ (x >> np.uint64(30))) * _FIRST
    x = (x ^ (x >> np.uint64(27))) * _SECOND
    return x ^ (x >> np.uint64(31))
