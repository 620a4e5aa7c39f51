import numpy as np
import pytest

from lexalcm.evaluate.metrics import distances
from lexalcm.evaluate.metrics.distances import contrastive_accuracy, squared_distances


def brute_force_accuracy(predictions, concepts, documents, targets):
    """The definition, one comparison at a time."""
    result = []
    for i in np.flatnonzero(targets):
        true = sum((predictions[i] - concepts[i]) ** 2)
        scores = []
        for j in range(len(concepts)):
            if documents[j] == documents[i] and abs(i - j) <= 1:
                continue
            other = sum((predictions[i] - concepts[j]) ** 2)
            scores.append(1.0 if other > true else 0.5 if other == true else 0.0)
        result.append(np.mean(scores) if scores else np.nan)
    return result


def test_squared_l2_sums_over_dimensions():
    assert squared_distances(np.array([[0.0, 0.0], [1.0, 2.0]]), np.array([[3.0, 4.0], [1.0, 0.0]])).tolist() == [
        25.0,
        4.0,
    ]


def test_accuracy_of_a_case_worked_by_hand():
    # One document on a line at 0, 1, 4, 10, 20. The guess 3 of the third concept (at 4) is 1 away; its neighbours at
    # 1 and 10 are left out, of the others 0 is 3 away and 20 is 17 away: all farther.
    # The guess 12 of the last (at 20) is 8 away; its neighbour at 10 is left out, 4 is 8 away (a tie, half),
    # 1 is 11 and 0 is 12 away: (1/2 + 1 + 1) / 3.
    concepts = np.array([[0.0], [1.0], [4.0], [10.0], [20.0]])
    predictions = np.array([[np.nan], [np.nan], [3.0], [np.nan], [12.0]])
    targets = np.array([False, False, True, False, True])
    accuracy = contrastive_accuracy(predictions, concepts, np.zeros(5, dtype=int), targets)
    assert accuracy.tolist() == pytest.approx([1.0, 2.5 / 3])


def test_concepts_of_other_documents_are_no_neighbours():
    # The second document's first concept stands next to the first one's last, and is compared with.
    concepts = np.array([[0.0], [5.0], [4.0], [9.0]])
    documents = np.array([0, 0, 1, 1])
    targets = np.array([False, True, False, True])
    predictions = np.array([[0.0], [4.0], [0.0], [9.0]])
    # Guess 4 of the concept at 5: 4 is nearer, 9 farther. Guess 9 of the concept at 9: 0 and 5 both farther.
    assert contrastive_accuracy(predictions, concepts, documents, targets).tolist() == [0.5, 1.0]


def test_accuracy_equals_a_loop_over_all_pairs(monkeypatch):
    monkeypatch.setattr(distances, "BLOCK", 100)  # several blocks
    generator = np.random.default_rng(0)
    documents = np.repeat(np.arange(6), [1, 2, 9, 3, 14, 5])
    concepts = generator.integers(0, 4, size=(len(documents), 3)).astype(float)  # small integers: many exact ties
    predictions = generator.integers(0, 4, size=concepts.shape).astype(float)
    targets = np.concatenate([[False], documents[1:] == documents[:-1]])
    accuracy = contrastive_accuracy(predictions, concepts, documents, targets)
    assert accuracy == pytest.approx(brute_force_accuracy(predictions, concepts, documents, targets))


def test_repeated_sentences_count_half_whatever_the_rounding():
    generator = np.random.default_rng(1)
    concept = generator.normal(size=(1, 257)).astype(np.float32) * 30
    concepts = np.repeat(concept, 41, axis=0)
    documents = np.arange(41) // 2
    targets = np.arange(41) % 2 == 1
    predictions = generator.normal(size=concepts.shape).astype(np.float32)
    assert contrastive_accuracy(predictions, concepts, documents, targets).tolist() == [0.5] * 20


def test_a_random_guess_scores_one_half():
    generator = np.random.default_rng(2)
    concepts = generator.normal(size=(400, 8))
    documents = np.arange(400) // 10
    targets = np.arange(400) % 10 > 0
    predictions = generator.normal(size=concepts.shape)
    assert contrastive_accuracy(predictions, concepts, documents, targets).mean() == pytest.approx(0.5, abs=0.05)


def test_nothing_to_compare_with_gives_no_number():
    accuracy = contrastive_accuracy(np.zeros((2, 1)), np.ones((2, 1)), np.zeros(2, dtype=int), np.array([False, True]))
    assert np.isnan(accuracy).tolist() == [True]
