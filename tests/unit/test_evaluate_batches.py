import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lexalcm.evaluate.predictors.predictions import windows
from lexalcm.evaluate.run.batches import group_documents, read_batch


def test_a_small_last_batch_joins_the_one_before():
    assert [group.tolist() for group in group_documents(np.array([3, 3, 4, 5, 2, 2]), 6)] == [[0, 1], [2, 3, 4, 5]]


def test_a_last_batch_of_full_size_stands_alone():
    assert [group.tolist() for group in group_documents(np.array([3, 3, 4, 2]), 6)] == [[0, 1], [2, 3]]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 100))
def test_every_document_is_in_one_batch_and_every_batch_is_large_enough(lengths, size):
    groups = group_documents(np.array(lengths), size)
    assert np.concatenate(groups).tolist() == list(range(len(lengths)))
    totals = [sum(lengths[document] for document in group) for group in groups]
    assert all(total >= size for total in totals) or len(groups) == 1
    # no batch could be closed earlier, but for the last one that took in the rest
    assert all(total - lengths[group[-1]] < size for total, group in zip(totals[:-1], groups, strict=False))


def test_batches_hold_whole_documents_in_order(make_dataset):
    generator = np.random.default_rng(0)
    documents = [("eng_Latn", generator.normal(size=(n, 3)).astype(np.float32)) for n in (2, 5, 1, 4)]
    split = make_dataset({"train": documents}).split("train")
    batch = read_batch(split, np.array([0, 2, 3]), text=True)
    assert batch.embeddings == pytest.approx(np.concatenate([documents[i][1] for i in (0, 2, 3)]))
    assert batch.documents.tolist() == [0, 0, 1, 2, 2, 2, 2]
    assert batch.positions.tolist() == [0, 1, 0, 0, 1, 2, 3]
    assert batch.targets.tolist() == [False, True, False, False, True, True, True]
    assert batch.languages == ("eng_Latn",) * 3
    assert batch.sentences[2] == "Sentence 0 of train 2."


def test_beginnings_of_documents_leave_a_prefix_and_a_limited_rest(make_dataset):
    documents = [("eng_Latn", np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)) for n in (2, 9, 3)]
    split = make_dataset({"train": documents}).split("train")
    batch = read_batch(split, np.array([0, 1, 2]), prefix=2, longest=5)
    assert batch.positions.tolist() == [0, 1, 0, 1, 2, 3, 4, 0, 1, 2]
    assert np.flatnonzero(batch.targets).tolist() == [4, 5, 6, 9]
    assert batch.embeddings[2:7] == pytest.approx(documents[1][1][:5])


@given(st.integers(1, 400), st.integers(2, 60))
def test_windows_predict_each_concept_once_with_enough_context(length, size):
    predicted = []
    for window in windows(length, size):
        assert 0 < window.stop - window.start <= size
        assert window.stop <= length
        for target in range(window.first, window.stop):
            context = target - window.start
            assert context == target or context >= size // 2
        predicted += range(window.first, window.stop)
    assert predicted == list(range(1, length))
