import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lexalcm.data import corpus
from lexalcm.data.build import document_position
from lexalcm.data.corpus import find_sources, read_documents
from lexalcm.data.packing import pack
from lexalcm.data.plan import FixedPlan, PackedRows, TrainingPlan, Windows, concept_counts, cut_windows
from lexalcm.data.segment import segment
from lexalcm.errors import ConfigError, DataError

PACKAGED = Path(corpus.__file__).parent / "resources" / "corpus.jsonl.zst"

row_lengths = st.integers(2, 40)
histograms = st.lists(st.integers(0, 30), min_size=1, max_size=38)


def documents(count: int, seed: int = 0) -> np.ndarray:
    """Lengths as of real documents: log-normal with a median of 30."""
    return np.random.default_rng(seed).lognormal(3.4, 0.7, count).astype(np.int64).clip(1, 500)


def concepts(windows: Windows) -> list[tuple[int, int]]:
    """(document, concept) in the order of the windows' positions."""
    return [(d, c) for d, start, n in zip(*windows, strict=True) for c in range(start, start + n)]


def targets(windows: Windows) -> list[tuple[int, int]]:
    return [(d, c) for d, start, n in zip(*windows, strict=True) for c in range(start + 1, start + n)]


@given(st.lists(st.integers(0, 50), max_size=30), row_lengths)
def test_every_concept_but_the_first_is_a_target_once(lengths: list[int], row_length: int) -> None:
    windows = cut_windows(np.array(lengths, dtype=np.int64), row_length)
    assert sorted(targets(windows)) == [(d, c) for d, n in enumerate(lengths) for c in range(1, n)]
    assert all(2 <= n <= row_length for n in windows.length)


@given(histograms, row_lengths, st.sampled_from([0, 0.9, 0.985, 1]))
def test_packing_keeps_every_window(histogram: list[int], row_length: int, min_fill: float) -> None:
    counts = np.zeros(row_length + 1, np.int64)
    counts[2 : 2 + len(histogram)] = histogram[: row_length - 1]
    packing = pack(counts, row_length, min_fill)
    places = Counter(n for pattern in packing.patterns for n in pattern.lengths * pattern.rows)
    for cut in packing.cuts:
        places.subtract(cut.pieces * cut.windows)
        assert all(2 <= piece < cut.length for piece in cut.pieces)
        places[cut.length] += cut.windows
    assert {n: count for n, count in places.items() if count} == {n: c for n, c in enumerate(counts.tolist()) if c}
    assert all(sum(pattern.lengths) <= row_length and pattern.rows > 0 for pattern in packing.patterns)
    assert min_fill or not packing.cuts


def test_whole_documents_fill_rows_where_they_can() -> None:
    counts = np.bincount(documents(10_000).clip(2, 128), minlength=129)
    packing = pack(counts, 128)
    rows = sum(pattern.rows for pattern in packing.patterns)
    assert not packing.cuts
    assert counts @ np.arange(129) / (rows * 128) > 0.985


@pytest.mark.parametrize("row_length", [64, 96, 128, 512])
def test_rows_are_full_even_when_whole_documents_fit_badly(row_length: int) -> None:
    lengths = np.random.default_rng(0).normal(37, 4, 4000).astype(np.int64)  # three use 87% of 128, one 58% of 64
    assert PackedRows(lengths, row_length).fill > 0.97


def test_positions_used_on_the_packaged_text() -> None:
    texts = read_documents(find_sources([PACKAGED]))
    training = [text for text in texts if document_position(text.id) >= 0.1]
    lengths = np.array([len(segment(text.text, text.lang)) for text in training])
    for end_of_text in (True, False):
        assert PackedRows(concept_counts(lengths, end_of_text), 128).fill >= 0.97


@given(st.lists(st.integers(0, 60), min_size=1, max_size=60), row_lengths, st.integers(1, 5), st.integers(1, 4))
def test_an_epoch_trains_on_every_target_once(lengths: list[int], row_length: int, micro: int, batch: int) -> None:
    if max(lengths) < 2:
        with pytest.raises(DataError, match="nothing to predict"):
            PackedRows(np.array(lengths), row_length)
        return
    rows = PackedRows(np.array(lengths), row_length)
    expected = Counter((d, c) for d, n in enumerate(lengths) for c in range(1, n))
    plan = TrainingPlan(rows, micro_batch=micro, global_batch=batch, seed=3)
    for epoch in (0, 1):
        numbers = range(epoch * plan.micro_batches_per_epoch, (epoch + 1) * plan.micro_batches_per_epoch)
        in_rows = [row for number in numbers for row in plan.micro_batch_rows(number)]
        assert len(in_rows) == plan.steps_per_epoch * micro * batch
        assert all(row.length.sum() <= row_length for row in in_rows)
        seen = Counter(target for row in in_rows for target in targets(row))
        if len(rows) >= micro * batch:  # a remainder of less than a step is left out
            assert seen <= expected
            assert len(rows) - len(in_rows) < micro * batch
            if len(rows) == len(in_rows):
                assert seen == expected
        else:  # repeated until they fill a step
            assert set(seen) == set(expected)
            assert max(seen.values()) - min(seen.values()) <= 1
    fixed = FixedPlan(rows, micro_batch=micro)
    in_order = [row for number in range(fixed.micro_batches) for row in fixed.micro_batch_rows(number)]
    assert Counter(target for row in in_order for target in targets(row)) == expected
    assert fixed.micro_batch_rows(fixed.micro_batches) == []


def test_targets_of_a_step_are_known_without_reading() -> None:
    plan = TrainingPlan(PackedRows(documents(500), 64), micro_batch=3, global_batch=4, seed=0)
    for step in (0, 5, plan.steps_per_epoch - 1, plan.steps_per_epoch, 7 * plan.steps_per_epoch + 2):
        rows = [row for number in range(step * 4, step * 4 + 4) for row in plan.micro_batch_rows(number)]
        assert plan.targets_in_step(step) == sum(len(targets(row)) for row in rows)


def test_epochs_differ_and_seeds_differ_and_nothing_else_matters() -> None:
    def order(seed: int, epoch: int) -> list[tuple[int, int]]:
        plan = TrainingPlan(PackedRows(documents(300), 64), micro_batch=2, global_batch=2, seed=seed)
        first = epoch * plan.micro_batches_per_epoch
        plan.micro_batch_rows(first + 40)
        return [
            c for number in range(first, first + 10) for row in plan.micro_batch_rows(number) for c in concepts(row)
        ]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    assert order(0, 5) == order(0, 5)


def test_documents_of_one_length_meet_others_each_epoch() -> None:
    plan = TrainingPlan(PackedRows(np.full(400, 30), 64), micro_batch=1, global_batch=1, seed=0)

    def neighbours(epoch: int) -> set[frozenset[int]]:
        numbers = range(epoch * plan.micro_batches_per_epoch, (epoch + 1) * plan.micro_batches_per_epoch)
        return {frozenset(row.document.tolist()) for n in numbers for row in plan.micro_batch_rows(n)}

    assert len(neighbours(0) & neighbours(1)) < 10


def test_documents_of_one_sentence_are_left_out() -> None:
    assert concept_counts(np.array([0, 1, 2, 5], np.int32), True).tolist() == [0, 0, 3, 6]
    assert concept_counts(np.array([0, 1, 2, 5], np.int32), False).tolist() == [0, 0, 2, 5]


def test_a_row_of_one_position_is_refused() -> None:
    with pytest.raises(ConfigError, match="row_length must be at least 2"):
        PackedRows(np.array([5]), 1)


def test_planning_takes_time_in_proportion() -> None:
    start = time.perf_counter()
    plan = TrainingPlan(PackedRows(documents(1_000_000), 128), micro_batch=8, global_batch=16, seed=0)
    plan.micro_batch_rows(10**6)
    assert time.perf_counter() - start < 10  # about 0.7 s on an idle core
