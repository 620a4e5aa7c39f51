"""Packing sentences into rows loses and mixes none, and leaves next to no padding."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lexalcm.codec.token_rows import NOTHING, ROW, pack_rows, row_batches

sentence_lengths = st.lists(st.integers(1, 514), min_size=1, max_size=200)


@given(sentence_lengths, st.integers(1, 4096))
def test_every_sentence_stands_whole_in_one_row(lengths: list[int], max_tokens: int) -> None:
    rng = np.random.default_rng(0)
    sentences = [rng.integers(4, 1000, size=length) for length in lengths]
    seen: list[int] = []
    for batch in row_batches(sentences, max_tokens, pad=0):
        for row, members in enumerate(batch.members):
            for number, place in enumerate(members):
                here = batch.sentence[row] == number
                np.testing.assert_array_equal(batch.tokens[row][here], sentences[place])
                np.testing.assert_array_equal(batch.position[row][here], np.arange(lengths[place]))
            seen += members
            assert (batch.tokens[row][batch.sentence[row] == NOTHING] == 0).all()
        rows, width = batch.tokens.shape
        assert rows == 1 or rows * width <= max_tokens
    assert sorted(seen) == list(range(len(lengths)))


@given(sentence_lengths)
def test_first_fit_by_a_plain_search(lengths: list[int]) -> None:
    capacity = max(lengths)
    expected: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        for row in expected:
            if sum(lengths[other] for other in row) + lengths[place] <= capacity:
                row.append(place)
                break
        else:
            expected.append([place])
    assert pack_rows(np.array(lengths), capacity) == expected


@pytest.mark.parametrize("max_tokens", [2048, 32768])
def test_a_window_of_text_has_hardly_any_padding(max_tokens: int) -> None:
    """Lengths as of sentences of prose: a batch of 32 in the order of the text would be more than half padding."""
    lengths = np.random.default_rng(0).gamma(2.0, 15.0, size=4096).astype(int).clip(3, 150)
    batches = row_batches([np.ones(length, dtype=np.int64) for length in lengths], max_tokens, pad=0)
    assert sum(batch.tokens.size for batch in batches) < 1.01 * lengths.sum()
    assert max(batch.tokens.shape[1] for batch in batches) <= ROW


def test_nothing_makes_no_batch() -> None:
    assert row_batches([], 1024, pad=0) == []
