from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lexalcm.data.batches.permutation import derive_key, permute


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**63))
def test_every_element_goes_somewhere_else(size: int, seed: int) -> None:
    assert sorted(permute(np.arange(size), size, derive_key(seed))) == list(range(size))


def test_only_what_is_asked_for_is_evaluated_and_it_is_the_same() -> None:
    size, key = 10**15, derive_key(1, 2)
    elements = np.array([0, 17, 10**15 - 1])
    together = permute(elements, size, key)
    assert ((together >= 0) & (together < size)).all()
    assert [permute(elements[i : i + 1], size, key)[0] for i in range(3)] == together.tolist()


def test_sizes_and_keys_may_differ_by_element() -> None:
    rng = np.random.default_rng(0)
    sizes, seeds = rng.integers(1, 100, 200), rng.integers(0, 5, 200)
    elements = rng.integers(0, sizes)
    mixed = permute(elements, sizes, derive_key(seeds, sizes))
    alone = [permute(elements[i : i + 1], int(sizes[i]), derive_key(seeds[i], sizes[i]))[0] for i in range(200)]
    assert mixed.tolist() == alone


@pytest.mark.parametrize("size", [2, 3, 4])
def test_small_permutations_are_all_equally_frequent(size: int) -> None:
    orders = Counter(tuple(permute(np.arange(size), size, derive_key(9, k)).tolist()) for k in range(3000))
    expected = 3000 / [2, 6, 24][size - 2]
    chi_square = sum((count - expected) ** 2 / expected for count in orders.values())
    assert len(orders) == [2, 6, 24][size - 2]
    assert chi_square < 60  # 23 degrees of freedom at most: 1 in 30,000


def test_neighbours_are_independent() -> None:
    pairs = np.zeros((10, 10))
    for k in range(3000):
        first, second = permute(np.arange(2), 10, derive_key(k))
        pairs[first, second] += 1
    expected = 3000 / 90
    off_diagonal = pairs[~np.eye(10, dtype=bool)]
    assert not pairs.diagonal().any()
    assert ((off_diagonal - expected) ** 2 / expected).sum() < 160  # 89 degrees of freedom: 1 in 100,000
