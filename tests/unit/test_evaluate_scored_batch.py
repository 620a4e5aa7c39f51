"""Every metric of a batch against its definition, worked out by hand or by loops."""

import numpy as np
import pytest

from lexalcm.evaluate.metrics.scored_batch import BatchPrediction, ScoredBatch, Tools
from lexalcm.evaluate.run.batches import EvaluationBatch
from lexalcm.evaluate.run.tally import BINS, bin_name, position_bins, sums_per_document


class Alphabet:
    """A codec of three sentences, at three corners; every other text lies in the middle."""

    dim = 3
    texts = ("a b c d e", "f g h i j", "k l m n o")

    def encode(self, sentences, lang):
        known = [np.eye(3)[self.texts.index(text)] if text in self.texts else np.full(3, 0.5) for text in sentences]
        return np.array(known, dtype=np.float32)

    def decode(self, embeddings, lang=None, avoid=frozenset()):
        return [self.texts[number] for number in np.asarray(embeddings).argmax(1)]


A, B, C = Alphabet.texts
TRUTH = np.array([[1, 0, 0], [0, 2, 0], [0, 1, 1], [3, 0, 0], [0, 0, 1], [1, 1, 0]], dtype=np.float32)
SENTENCES = (A, B, "f g h i", A, C, "x y")


def batch_of(prefix=1):
    return EvaluationBatch(
        TRUTH, np.array([0, 0, 0, 0, 1, 1]), np.array([0, 1, 2, 3, 0, 1]), prefix, ("eng_Latn", "eng_Latn"), SENTENCES
    )


def score(predictions, metric, *, free=False, prefix=1, texts=None, **tools):
    tools = Tools(lambda embeddings: embeddings / 2.0, "validation", Alphabet(), **tools)
    scored = ScoredBatch(batch_of(prefix), BatchPrediction(np.asarray(predictions, dtype=float), texts), free, tools)
    [(values, weights)] = scored.score([metric])
    return values, weights


NAN = [np.nan] * 3
GUESSES = [NAN, [0, 1, 0], [3, 4, 0], [0, 0, 2], NAN, [0, 0, 5]]  # of targets 1, 2, 3 and 5


def test_cosines_to_truth_context_and_neighbour():
    half = np.sqrt(0.5)
    assert score(GUESSES, "cosine")[0] == pytest.approx([1, 0.8 * half, 0, 0])
    # The third guess (3, 4, 0) has cosine 0.6 to the first concept and 0.8 to the second.
    assert score(GUESSES, "context_cosine")[0] == pytest.approx([0, 0.8, half, 1])
    assert score(GUESSES, "coherence")[0] == pytest.approx([0, 0.8, half, 1])
    # The truth's own: (0,2,0) to (1,0,0); (0,1,1) to (0,2,0); (3,0,0) to (1,0,0); (1,1,0) to (0,0,1).
    values, weights = score(GUESSES, "paraphrasing")
    assert values == pytest.approx([0, 0.8, half, 1])
    assert weights == pytest.approx([0, half, 1, 0])


def test_a_free_text_stands_in_its_own_context():
    predictions = [NAN, NAN, [0, 0, 1], [0, 0, 7], NAN, NAN]
    assert score(predictions, "coherence", free=True, prefix=2)[0] == pytest.approx([0, 1])
    assert score(predictions, "context_cosine", free=True, prefix=2)[0] == pytest.approx([0, 1])
    # Read with the truth before it the second is near (0, 1, 1) alone.
    assert score(predictions, "coherence", prefix=2)[0] == pytest.approx([0, np.sqrt(0.5)])


def test_round_trip_is_the_distance_of_what_the_text_says():
    # Guesses decode to B, B, C and C, at (0,1,0), (0,1,0), (0,0,1), (0,0,1); the space halves all distances.
    values, weights = score(GUESSES, "round_trip_l2")
    assert values == pytest.approx([1 / 4, 1 / 4, (9 + 1) / 4, (1 + 1 + 1) / 4])
    assert weights.tolist() == [1, 1, 1, 1]


def test_texts_are_compared_with_the_true_sentences():
    # B is B itself, five words against four of them, no word of A, nothing of "x y".
    assert score(GUESSES, "rouge_l")[0] == pytest.approx([1, 8 / 9, 0, 0])
    assert score(GUESSES, "chrf")[0][[0, 2]] == pytest.approx([100, 0])


def test_repetition_looks_at_the_document_or_at_the_continuation():
    # Guesses say B (new), B (both its 4-grams stand in the sentence before), C (new), C (stands there).
    values, weights = score(GUESSES, "repetition")
    assert (values.tolist(), weights.tolist()) == ([0, 2, 0, 2], [2, 2, 2, 2])
    # A free text's own repetition: A is in the prefix, which does not count; then A again, which does.
    predictions = [NAN, NAN, [1, 0, 0], [1, 0, 0], NAN, NAN]
    assert score(predictions, "repetition", free=True, prefix=2)[0].tolist() == [0, 2]


def test_texts_that_a_predictor_wrote_itself_are_not_decoded_again():
    texts = ["x y", "x y", "x y", "x y"]
    assert score(GUESSES, "rouge_l", texts=texts)[0].tolist() == [0, 0, 0, 1]


class Recorder:
    def gain(self, texts):
        self.texts = texts
        return np.arange(len(texts)), np.full(len(texts), 2.0)


def test_the_language_model_reads_what_stands_before():
    recorder = Recorder()
    values, weights = score(GUESSES, "mutual_information", language_model=recorder, lm_context=2)
    assert [list(before) for before, _ in recorder.texts] == [[A], [A, B], [B, "f g h i"], [C]]
    assert [text for _, text in recorder.texts] == [B, B, C, C]
    assert (values.tolist(), weights.tolist()) == ([0, 1, 2, 3], [2, 2, 2, 2])
    predictions = [NAN, NAN, [0, 0, 1], [0, 0, 7], NAN, NAN]
    score(predictions, "mutual_information", free=True, prefix=2, language_model=recorder, lm_context=10)
    assert [list(before) for before, _ in recorder.texts] == [[A, B], [A, B, C]]


def test_places_double_in_width():
    lengths = [5, 700]
    batch = EvaluationBatch(
        np.zeros((705, 1)),
        np.repeat([0, 1], lengths),
        np.concatenate([np.arange(length) for length in lengths]),
    )
    names = [bin_name(number) for number in position_bins(batch)]
    assert names[:4] == ["1", "2", "3-4", "3-4"]
    expected = {1: "1", 2: "2", 3: "3-4", 4: "3-4", 5: "5-8", 8: "5-8", 9: "9-16", 512: "257-512", 513: "513+"}
    assert {place: names[3 + place] for place in expected} == expected
    values = np.arange(703.0)
    sums = sums_per_document(batch, [(values, np.ones(703))])
    assert sums.shape == (2, 1, 2, BINS)
    assert sums[0].sum() == values.sum()
    assert sums[1, 0].sum(axis=1).tolist() == [4, 699]
    assert sums[1, 0, 1].tolist() == [1, 1, 2, 4, 8, 16, 32, 64, 128, 256, 187]
