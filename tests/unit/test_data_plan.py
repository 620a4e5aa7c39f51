import hashlib
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lexalcm.data.batches.packing import pack
from lexalcm.data.batches.plan import FixedPlan, PackedRows, TrainingPlan, Windows
from lexalcm.data.batches.windows import Documents, SetWindows
from lexalcm.data.format.target_spans import Annotations, TargetSpans
from lexalcm.data.sources import corpus
from lexalcm.data.sources.corpus import find_sources, read_documents
from lexalcm.errors import ConfigError, DataError
from lexalcm.text.segment import segment

PACKAGED = Path(corpus.__file__).parent / "resources" / "corpus.jsonl.zst"

row_lengths = st.integers(2, 40)
histograms = st.lists(st.integers(0, 30), min_size=1, max_size=38)
Concept = tuple[int, int, int]
"""Data set, document, concept."""


def documents(count: int, seed: int = 0) -> np.ndarray:
    """Lengths as of real documents: log-normal with a median of 30."""
    return np.random.default_rng(seed).lognormal(3.4, 0.7, count).astype(np.int64).clip(1, 500)


def packed(lengths: np.ndarray, row_length: int, **options: bool) -> PackedRows:
    return PackedRows([Documents(lengths)], row_length, **options)


def concepts(windows: Windows) -> list[Concept]:
    """In the order of the windows' positions."""
    stretches = zip(windows.data_set, windows.document, windows.start, windows.length, strict=True)
    return [(int(s), int(d), c) for s, d, start, n in stretches for c in range(start, start + n)]


def targets(windows: Windows) -> list[Concept]:
    first = windows._replace(start=windows.start + windows.context, length=windows.length - windows.context)
    found = concepts(first)
    assert len(found) == windows.targets.sum()
    return found


def micro_batches(plan: TrainingPlan, epoch: int) -> Iterator[Windows]:
    first = epoch * plan.micro_batches_per_epoch
    yield from (plan.micro_batch_windows(first + number) for number in range(plan.micro_batches_per_epoch))


def expected_targets(given: Documents) -> list[tuple[int, int]]:
    """By the definition: of usable documents, all concepts behind the special ones, the source, and the first."""
    found = []
    for number, n in enumerate(given.lengths.tolist()):
        source = 0 if given.sources is None else int(given.sources[number])
        chosen = given.chosen is None or bool(given.chosen[number])
        if chosen and n > source and given.prefix + n >= 2:
            first = max(given.prefix + source, 1)
            found += [(number, concept) for concept in range(first, given.prefix + n + given.suffix)]
    return found


def marked(draw: st.DrawFn, n: int) -> list[list[int]]:
    """Some spans of a document of n concepts, in order; neighbours may touch."""
    ends = sorted(draw(st.lists(st.integers(0, n), max_size=6)))
    return [[a, b] for a, b in zip(ends[::2], ends[1::2], strict=False) if a < b]


@st.composite
def conversations(draw: st.DrawFn) -> tuple[Documents, list[tuple[int, int]]]:
    """A data set with target spans, and its targets by definition: each alone, and the suffix behind the last."""
    lengths = np.array(draw(st.lists(st.integers(1, 60), min_size=1, max_size=30)))
    spans = [marked(draw, n) for n in lengths.tolist()]
    prefix, suffix = draw(st.integers(0, 3)), draw(st.integers(0, 2))
    expected = []
    for number, (n, of_one) in enumerate(zip(lengths.tolist(), spans, strict=True)):
        inside = [prefix + place for first, end in of_one for place in range(first, end)]
        behind = [prefix + n + place for place in range(suffix)] if of_one and of_one[-1][1] == n else []
        counted = [concept for concept in inside + behind if concept > 0]
        expected += [(number, concept) for concept in counted if prefix + n >= 2]
    targets = TargetSpans(Annotations.of(spans, 2), lengths)
    max_length = draw(st.none() | st.integers(2, 50))
    given = Documents(lengths, targets=targets, prefix=prefix, suffix=suffix, max_length=max_length)
    return given, expected


@settings(deadline=None)
@given(conversations(), row_lengths)
def test_windows_hold_every_target_of_conversations_once_and_none_is_without(
    marked_set: tuple[Documents, list[tuple[int, int]]], row_length: int
) -> None:
    given, expected = marked_set
    windows = SetWindows(given, row_length)
    lengths = np.repeat(np.arange(len(windows.counts)), windows.counts)
    document, start, context = windows.find(lengths, np.concatenate([np.arange(n) for n in windows.counts]))
    found, wanted = [], set(expected)
    counted = windows.count_targets(document, start, lengths, context).tolist()
    stretches = zip(document.tolist(), start.tolist(), lengths.tolist(), context.tolist(), counted, strict=True)
    for d, s, n, k, count in stretches:
        mine = [(d, c) for c in range(s + k, s + n) if (d, c) in wanted]
        assert count == len(mine) > 0
        found += mine
    assert sorted(found) == expected
    assert (context >= 1).all()
    assert lengths.max(initial=0) <= min(row_length, given.max_length or row_length)


@st.composite
def data_set(draw: st.DrawFn) -> Documents:
    lengths = np.array(draw(st.lists(st.integers(0, 60), min_size=1, max_size=40)))
    count = len(lengths)
    flags = st.lists(st.booleans(), min_size=count, max_size=count)
    sources = st.lists(st.integers(0, 60), min_size=count, max_size=count)
    return Documents(
        lengths,
        sources=np.minimum(draw(sources), lengths) if draw(st.booleans()) else None,
        chosen=np.array(draw(flags)) if draw(st.booleans()) else None,
        prefix=draw(st.integers(0, 3)),
        suffix=draw(st.integers(0, 2)),
        max_length=draw(st.none() | st.integers(2, 50)),
    )


@settings(deadline=None)
@given(data_set(), row_lengths)
def test_windows_hold_every_target_once_and_nothing_useless(given: Documents, row_length: int) -> None:
    windows = SetWindows(given, row_length)
    lengths = np.repeat(np.arange(len(windows.counts)), windows.counts)
    numbers = np.concatenate([np.arange(n) for n in windows.counts])
    document, start, context = windows.find(lengths, numbers)
    found = [
        (d, c)
        for d, s, n, k in zip(document.tolist(), start.tolist(), lengths.tolist(), context.tolist(), strict=True)
        for c in range(s + k, s + n)
    ]
    assert sorted(found) == expected_targets(given)
    assert (context >= 1).all()
    assert (context < lengths).all()  # each window has a target
    assert lengths.max(initial=0) <= min(row_length, given.max_length or row_length)


@settings(deadline=None)
@given(histograms, row_lengths, st.sampled_from([0, 0.9, 0.985, 1]), st.floats(0, 1))
def test_packing_keeps_every_window(histogram: list[int], row_length: int, min_fill: float, share: float) -> None:
    counts = np.zeros(row_length + 1, np.int64)
    counts[2 : 2 + len(histogram)] = histogram[: row_length - 1]
    cuttable = (counts * share).astype(np.int64)
    packing = pack(counts, row_length, min_fill, cuttable)
    places = Counter(n for pattern in packing.patterns for n in pattern.lengths * pattern.rows)
    was_cut: Counter[int] = Counter()
    for cut in packing.cuts:
        places.subtract(cut.pieces * cut.windows)
        assert all(2 <= piece < cut.length for piece in cut.pieces)
        places[cut.length] += cut.windows
        was_cut[cut.length] += cut.windows
    assert {n: count for n, count in places.items() if count} == {n: c for n, c in enumerate(counts.tolist()) if c}
    assert all(sum(pattern.lengths) <= row_length and pattern.rows > 0 for pattern in packing.patterns)
    assert min_fill or not packing.cuts
    assert all(count <= cuttable[length] for length, count in was_cut.items())


def test_whole_documents_fill_rows_where_they_can() -> None:
    counts = np.bincount(documents(10_000).clip(2, 128), minlength=129)
    packing = pack(counts, 128)
    rows = sum(pattern.rows for pattern in packing.patterns)
    assert not packing.cuts
    assert counts @ np.arange(129) / (rows * 128) > 0.985


@pytest.mark.parametrize("row_length", [64, 96, 128, 512])
def test_rows_are_full_even_when_whole_documents_fit_badly(row_length: int) -> None:
    lengths = np.random.default_rng(0).normal(37, 4, 4000).astype(np.int64)  # three use 87% of 128, one 58% of 64
    assert packed(lengths, row_length).epoch_rows(0).fill > 0.97


def test_positions_used_on_the_packaged_text() -> None:
    texts = list(read_documents(find_sources([PACKAGED])))
    digests = {text.id: hashlib.sha256(text.id.encode()).digest() for text in texts}
    training = [text for text in texts if int.from_bytes(digests[text.id][:8], "big") >= 0.1 * 2**64]
    lengths = np.array([len(segment(text.text, text.lang)) for text in training])
    for suffix in (0, 1):
        assert PackedRows([Documents(lengths, suffix=suffix)], 128).epoch_rows(0).fill >= 0.97


@settings(max_examples=60, deadline=None)
@given(st.lists(data_set(), min_size=1, max_size=3), row_lengths, st.integers(1, 5), st.integers(1, 4))
def test_an_epoch_trains_on_every_target_once(sets: list[Documents], row_length: int, micro: int, batch: int) -> None:
    expected = Counter((i, d, c) for i, one in enumerate(sets) for d, c in expected_targets(one))
    if not expected:
        with pytest.raises(DataError, match="nothing to predict"):
            PackedRows(sets, row_length)
        return
    rows = PackedRows(sets, row_length)
    plan = TrainingPlan(rows, micro_batch=micro, global_batch=batch, seed=3)
    count = len(rows.epoch_rows(0))
    for epoch in (0, 1):
        in_batches = list(micro_batches(plan, epoch))
        used = np.concatenate([np.bincount(w.row, w.length, minlength=micro) for w in in_batches])
        assert len(used) == plan.steps_per_epoch * micro * batch
        assert ((used > 0) & (used <= row_length)).all()
        seen = Counter(target for windows in in_batches for target in targets(windows))
        assert all((windows.context < windows.length).all() for windows in in_batches)
        if count >= micro * batch:  # a remainder of less than a step is left out
            assert seen <= expected
            assert count - len(used) < micro * batch
            if count == len(used):
                assert seen == expected
        else:  # repeated until they fill a step
            assert set(seen) == set(expected)
            assert max(seen.values()) - min(seen.values()) <= 1
    fixed = FixedPlan(rows, micro_batch=micro)
    in_order = [fixed.micro_batch_windows(number) for number in range(fixed.micro_batches)]
    assert Counter(target for windows in in_order for target in targets(windows)) == expected
    assert fixed.targets == expected.total()
    assert not len(fixed.micro_batch_windows(fixed.micro_batches).row)


def test_windows_stand_one_after_another_in_their_rows() -> None:
    plan = TrainingPlan(packed(documents(500), 64), micro_batch=8, global_batch=1, seed=0)
    for windows in micro_batches(plan, 1):
        for row in range(8):
            inside = windows.row == row
            lengths = windows.length[inside]
            assert windows.place[inside].tolist() == list(range(len(lengths)))
            assert windows.begin[inside].tolist() == (np.cumsum(lengths) - lengths).tolist()


def test_pairs_are_never_cut_to_fill_a_row() -> None:
    lengths = np.random.default_rng(0).normal(37, 4, 4000).astype(np.int64)
    pairs = Documents(lengths, sources=lengths // 2)
    plan = TrainingPlan(PackedRows([pairs, Documents(lengths)], 128), micro_batch=4, global_batch=1, seed=0)
    of_pairs = of_text = cut = 0
    for windows in micro_batches(plan, 0):
        whole = windows.length == lengths[windows.document]
        assert whole[windows.data_set == 0].all()
        of_pairs += int((windows.data_set == 0).sum())
        of_text += int((windows.data_set == 1).sum())
        cut += int((~whole).sum())
    assert cut > 0
    assert of_pairs > 3900
    assert of_text > 3900


def test_targets_of_a_step_are_known_without_reading() -> None:
    plan = TrainingPlan(packed(documents(500), 64), micro_batch=3, global_batch=4, seed=0)
    for step in (0, 5, plan.steps_per_epoch - 1, plan.steps_per_epoch, 7 * plan.steps_per_epoch + 2):
        numbers = range(step * 4, step * 4 + 4)
        assert plan.targets_in_step(step) == sum(len(targets(plan.micro_batch_windows(n))) for n in numbers)


def test_epochs_differ_and_seeds_differ_and_nothing_else_matters() -> None:
    def order(seed: int, epoch: int) -> list[Concept]:
        plan = TrainingPlan(packed(documents(300), 64), micro_batch=2, global_batch=2, seed=seed)
        first = epoch * plan.micro_batches_per_epoch
        plan.micro_batch_windows(first + 40)
        return [c for number in range(first, first + 10) for c in concepts(plan.micro_batch_windows(number))]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    assert order(0, 5) == order(0, 5)


def test_documents_of_one_length_meet_others_each_epoch() -> None:
    plan = TrainingPlan(packed(np.full(400, 30), 64), micro_batch=1, global_batch=1, seed=0)

    def neighbours(epoch: int) -> set[frozenset[int]]:
        return {frozenset(windows.document.tolist()) for windows in micro_batches(plan, epoch)}

    assert len(neighbours(0) & neighbours(1)) < 10


def test_the_parts_of_an_epoch_are_alike() -> None:
    lengths = np.sort(documents(20_000))  # as if the corpus were sorted
    plan = TrainingPlan(packed(lengths, 128), micro_batch=8, global_batch=1, seed=0)
    places = [windows.document.mean() for windows in micro_batches(plan, 0)]
    tenths = np.array_split(np.array(places) / np.mean(places), 10)
    assert all(abs(tenth.mean() - 1) < 0.1 for tenth in tenths)
    counted = np.array([windows.targets.sum() for windows in micro_batches(plan, 0)])
    assert counted.std() / counted.mean() < 0.02  # balanced: ranks wait for nobody


@pytest.mark.parametrize("weights", [(3, 1), (1, 1), (0.02, 0.98)])
def test_weights_are_shares_of_concepts(weights: tuple[float, float]) -> None:
    sets = [Documents(documents(300, 0), weight=weights[0]), Documents(documents(2000, 1), weight=weights[1])]
    plan = TrainingPlan(PackedRows(sets, 128), micro_batch=1, global_batch=1, seed=0)
    total = sum(SetWindows(one, 128).concepts for one in sets)
    for epoch in (0, 3):
        drawn = np.zeros(2)
        for windows in micro_batches(plan, epoch):
            drawn += np.bincount(windows.data_set, windows.length, minlength=2)
        assert drawn.sum() == pytest.approx(total, rel=0.02)
        assert drawn[0] / drawn.sum() == pytest.approx(weights[0] / sum(weights), abs=0.01)


@pytest.mark.parametrize("weights", [(3.0, 1.0), (0.01, 1.0)])
def test_with_weights_no_document_comes_again_before_all_of_its_length_have_come(weights: tuple[float, float]) -> None:
    lengths = (np.array([5] * 7 + [9] * 11 + [10]), np.full(60, 8))
    rows = PackedRows([Documents(n, weight=w) for n, w in zip(lengths, weights, strict=True)], 20, cut=False)
    seen = [Counter[int](), Counter[int]()]
    for epoch in range(150):
        windows = rows.epoch_rows(epoch).windows(np.arange(len(rows.epoch_rows(epoch))), key=4)
        for data_set, document in zip(windows.data_set.tolist(), windows.document.tolist(), strict=True):
            seen[data_set][document] += 1
        for i, n in enumerate(lengths):
            for length in np.unique(n):
                times = [seen[i][d] for d in np.flatnonzero(n == length)]
                assert max(times) - min(times) <= 1
    assert min(seen[0].values()) > 1
    passes = [sum(seen[i].values()) / len(n) / 150 for i, n in enumerate(lengths)]
    total = [int(n.sum()) for n in lengths]
    for i in (0, 1):
        assert passes[i] == pytest.approx(weights[i] / sum(weights) * sum(total) / total[i], rel=0.05)


def test_epochs_with_weights_have_as_many_steps_as_the_first() -> None:
    sets = [Documents(documents(50, 1), weight=1.0), Documents(documents(80, 2), weight=0.37)]
    plan = TrainingPlan(PackedRows(sets, 64), micro_batch=2, global_batch=2, seed=0)
    counts = {len(plan.rows.epoch_rows(epoch)) for epoch in range(20)}
    assert len(counts) > 1
    for epoch in range(20):
        assert all(windows.row.max() == 1 for windows in micro_batches(plan, epoch))


def test_weights_for_some_or_for_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="give all a weight, or none"):
        PackedRows([Documents(np.array([5]), weight=1.0), Documents(np.array([5]))], 8)
    with pytest.raises(DataError, match="data set 1 of 2 has a weight but no document"):
        PackedRows([Documents(np.array([5]), weight=1.0), Documents(np.array([1]), weight=1.0)], 8)


def test_a_row_of_one_position_is_refused() -> None:
    with pytest.raises(ConfigError, match="row_length must be at least 2"):
        packed(np.array([5]), 1)


def test_planning_takes_time_in_proportion() -> None:
    lengths = documents(1_000_000).astype(np.int32)
    start = time.perf_counter()
    plan = TrainingPlan(packed(lengths, 128), micro_batch=8, global_batch=16, seed=0)
    plan.micro_batch_windows(10**6)
    assert time.perf_counter() - start < 1  # about 0.05 s on an idle core
