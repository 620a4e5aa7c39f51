"""Packing sentences into batches of tokens loses and mixes none, and those beside each other are about as long."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lexalcm.codec.sonar.token_rows import length_groups, token_batches

sentence_lengths = st.lists(st.integers(1, 514), min_size=1, max_size=200)


def prose(sentences: int) -> np.ndarray:
    """Lengths as of sentences of prose: a batch of 32 in the order of the text would be more than half padding."""
    return np.random.default_rng(0).gamma(2.0, 15.0, size=sentences).astype(np.int64).clip(3, 150)


@given(sentence_lengths, st.integers(1, 4096))
def test_every_sentence_stands_whole_in_one_batch(lengths: list[int], max_tokens: int) -> None:
    rng = np.random.default_rng(0)
    sentences = [rng.integers(4, 1000, size=length).astype(np.int32) for length in lengths]
    seen: list[int] = []
    for batch in token_batches(np.concatenate(sentences), np.array(lengths), max_tokens):
        assert len(batch.tokens) == len(batch.position) == batch.offsets[-1]
        assert len(batch.tokens) <= max_tokens or len(batch.places) == 1
        for place, start, end in zip(batch.places, batch.offsets[:-1], batch.offsets[1:], strict=True):
            np.testing.assert_array_equal(batch.tokens[start:end], sentences[place])
            np.testing.assert_array_equal(batch.position[start:end], np.arange(lengths[place]))
        seen += batch.places.tolist()
    assert sorted(seen) == list(range(len(lengths)))
    assert [lengths[place] for place in seen] == sorted(lengths, reverse=True)


@given(sentence_lengths)
def test_a_group_ends_where_a_sentence_is_much_shorter_than_its_first(lengths: list[int]) -> None:
    lengths.sort(reverse=True)
    expected: list[list[int]] = []
    for length in lengths:
        if expected and length >= 0.8 * expected[-1][0] - 4:
            expected[-1].append(length)
        else:
            expected.append([length])
    assert [lengths[group] for group in length_groups(np.array(lengths))] == expected


@pytest.mark.parametrize("max_tokens", [2048, 32768])
def test_batches_of_a_window_of_text_are_full_and_of_about_one_size(max_tokens: int) -> None:
    lengths = prose(4096)
    batches = token_batches(np.ones(lengths.sum(), np.int32), lengths, max_tokens)
    sizes = [len(batch.tokens) for batch in batches]
    assert len(batches) <= -(-lengths.sum() // max_tokens) * 1.05
    assert min(sizes) > 0.75 * max(sizes)


def test_padding_groups_costs_attention_little() -> None:
    lengths = prose(4096)
    batches = token_batches(np.ones(lengths.sum(), np.int32), lengths, 2048)
    padded = needed = 0
    for batch in batches:
        for group in length_groups(batch.lengths):
            padded += len(batch.lengths[group]) * batch.lengths[group].max() ** 2
            needed += (batch.lengths[group] ** 2).sum()
    assert padded < 1.15 * needed
    assert needed < 0.25 * 256 * lengths.sum()  # rows of 256 tokens side by side would compute all of it


def test_nothing_makes_no_batch() -> None:
    assert token_batches(np.empty(0, np.int32), np.empty(0, np.int64), 1024) == []
    assert length_groups(np.empty(0, np.int64)) == []
