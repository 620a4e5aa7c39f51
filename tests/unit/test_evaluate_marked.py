"""Pairs and conversations are measured by what is learned of them: targets, and what an assistant says."""

import json

import numpy as np
import pytest
import torch
from evaluation_workspace import guess_next, make_text_dataset, make_text_model
from test_evaluate_scored_batch import Alphabet, Recorder

from lexalcm.codec.special import SPECIAL_CONCEPTS
from lexalcm.data.build.one_process import build_from_paths
from lexalcm.data.build.settings import BuildSettings
from lexalcm.data.format.dataset import Dataset
from lexalcm.data.normalizer.sentence_concepts import sentence_concepts
from lexalcm.evaluate.metrics.distances import contrastive_accuracy
from lexalcm.evaluate.metrics.scored_batch import BatchPrediction, ScoredBatch, Tools
from lexalcm.evaluate.predictors.baselines import (
    NearestContinuation,
    continue_documents,
    predict_targets,
    training_mean,
)
from lexalcm.evaluate.predictors.free_running import continue_batch, without_stops
from lexalcm.evaluate.report.formatting import title
from lexalcm.evaluate.run import models
from lexalcm.evaluate.run.batches import EvaluationBatch, read_batch
from lexalcm.evaluate.run.tally import position_bins
from lexalcm.evaluate.run.target_spans import SplitAnnotations
from lexalcm.evaluate.settings import EvaluationSettings, FreeRunning
from lexalcm.generate.options import GenerationOptions
from lexalcm.generate.text import TextModel
from lexalcm.model.storage.folder import load_model

CHAT = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Does the cat see the dog? Or the river?"},
        {"role": "assistant", "content": "The cat sees the dog. It sees the garden."},
        {"role": "user", "content": "And the song?"},
        {"role": "assistant", "content": "The cat forgets the song."},
    ]
}
# System: Be brief. User: Does ...? Or ...? Assistant: The cat ... It ... User: And ...? Assistant: The cat ...
SAID = [False, True, False, True, True, False, True, True, False, True, False, True]
ANSWERS = [6, 7, 11]
PAIRS = [
    {"source": "The dog sees the train. The train sees the river.", "target": "The river follows the song."},
    {"source": "The song finds the cat.", "target": "The cat finds the letter. It loses the window. It sees a dog."},
    {"source": "The cat sees the dog in the song. It sees me. It sees you.", "target": "It sees us. It sees them."},
]


def build(folder, records, **options):
    (folder.parent / "in.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    settings = BuildSettings(codec=str(folder.parent / "data"), validation=0, dtype="float32")
    return build_from_paths([folder.parent / "in.jsonl"], folder, settings, **options).dataset


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("marked")
    text = make_text_dataset(folder / "data")
    build(folder / "chats", [CHAT] * 3, chat=True)
    build(folder / "pairs", PAIRS)
    make_text_model(folder / "model", text)
    return folder


def read(dataset, documents=(0,)):
    return read_batch(
        dataset.split("train"), np.array(documents), text=True, annotations=SplitAnnotations(dataset, "train")
    )


@pytest.fixture(scope="module")
def chats(workspace):
    return Dataset.open(workspace / "chats")


def test_of_a_conversation_the_assistants_sentences_are_predicted(chats):
    batch = read(chats)
    assert batch.is_sentence.tolist() == SAID
    assert np.flatnonzero(batch.targets).tolist() == ANSWERS
    assert batch.sentences_before[ANSWERS].tolist() == [3, 4, 6]
    assert batch.last_sentence[ANSWERS].tolist() == [4, 6, 9]  # not the role just before


def test_of_a_pair_the_target_is_predicted(workspace):
    batch = read(Dataset.open(workspace / "pairs"), (0, 1, 2))
    assert batch.targets.tolist() == [False, False, True] + [False, True, True, True] + [False] * 3 + [True] * 2


def test_the_report_counts_what_the_data_marks(workspace):
    def evaluate(data, **settings):
        settings = EvaluationSettings(split="train", metrics=("all",), resamples=100, **settings)
        return models.evaluate([workspace / "model"], workspace / data, settings)

    chats, pairs = evaluate("chats"), evaluate("pairs")
    assert (chats.sizes["all"].targets, pairs.sizes["all"].targets) == (9, 6)
    for evaluation in (chats, pairs):
        assert sum(size.targets for size in evaluation.position_sizes.values()) == evaluation.sizes["all"].targets
    # Answers stand behind 6, 7 and 11 concepts, of three conversations each.
    assert {place: (size.documents, size.targets) for place, size in chats.position_sizes.items()} == {
        "5-8": (3, 6),
        "9-16": (3, 3),
    }
    json.dumps(chats.to_json(), allow_nan=False)


def test_roles_are_no_candidates(chats):
    """A prediction nearer to "Assistant:" than to the truth is as good as any other."""
    generator = np.random.default_rng(0)
    concepts, documents = generator.normal(size=(12, 4)), np.zeros(12, dtype=int)
    predictions = concepts + generator.normal(size=(12, 4))
    targets = np.isin(np.arange(12), ANSWERS)
    said = np.array(SAID)
    found = contrastive_accuracy(predictions, concepts, documents, targets, said)
    for place, accuracy in zip(ANSWERS, found, strict=True):
        distances = ((predictions[place] - concepts) ** 2).sum(1)
        others = [other for other in np.flatnonzero(said) if abs(other - place) > 1]
        assert accuracy == pytest.approx(np.mean([distances[other] > distances[place] for other in others]))


A, B, C = Alphabet.texts
CORNERS = np.eye(3, dtype=np.float32)
ROLE = np.array([0.1, 0.1, 9], dtype=np.float32)  # near the third corner
# User: A. Assistant: B. | Assistant: B. User: A. Assistant: C.
STORY = np.stack([ROLE, CORNERS[0], ROLE, CORNERS[1], ROLE, CORNERS[1], ROLE, CORNERS[0], ROLE, CORNERS[2]])
ROLES = np.array([True, False, True, False, True, False, True, False, True, False])
PREDICTED = np.isin(np.arange(10), [3, 5, 9])
BATCH = EvaluationBatch(
    STORY,
    np.repeat([0, 1], [4, 6]),
    np.array([0, 1, 2, 3, 0, 1, 2, 3, 4, 5]),
    1,
    ("eng_Latn", "eng_Latn"),
    ("k l m n o", A, "k l m n o", B, "k l m n o", B, "k l m n o", A, "k l m n o", C),
    PREDICTED,
    ROLES,
)
GUESSES = np.where(PREDICTED[:, None], CORNERS[2] + CORNERS[0] * 0.75, np.nan)  # cosine to corner 0: 0.6, to 2: 0.8


def score(metric, **tools):
    scored = ScoredBatch(BATCH, BatchPrediction(GUESSES), False, Tools(lambda x: x, "validation", Alphabet(), **tools))
    [(values, weights)] = scored.score([metric])
    return values.tolist(), weights.tolist()


def test_what_stands_before_an_answer_is_what_was_said():
    # The guess has cosine 0.6 to A and none to B, but nearly 0.8 to every role; before the second answer nobody spoke.
    for metric in ("coherence", "context_cosine"):
        values, weights = score(metric)
        assert values == pytest.approx([0.6, 0, 0.6])
        assert weights == [1, 0, 1]
    values, weights = score("paraphrasing")
    assert values == pytest.approx([0.6, 0, 0.6])
    assert weights == pytest.approx([0, 0, 0])  # B to A; nothing; C to A and B
    # Guesses say C, which only the roles said before.
    assert score("repetition") == ([0, 0, 0], [2, 2, 2])
    recorder = Recorder()
    score("mutual_information", language_model=recorder, lm_context=10)
    assert [list(before) for before, _ in recorder.texts] == [[A], [], [B, A]]


def test_baselines_know_no_roles(chats):
    guesses = predict_targets(BATCH, lambda concepts: concepts)
    assert guesses[[3, 9]] == pytest.approx(CORNERS[[0, 0]])
    assert guesses[5] == pytest.approx(ROLE)  # nothing else is before it
    batch, train = read(chats), sentence_concepts(chats, "train")
    said = batch.embeddings[batch.is_sentence].astype(np.float64)
    mean, concepts = training_mean(train)
    assert concepts == 3 * 7
    assert mean == pytest.approx(said.mean(0), rel=1e-5)
    follower = NearestContinuation(train, 1000)(said[3:4])  # of the question its answer, not "Assistant:"
    assert follower[0] == pytest.approx(said[4])
    unsaid = {batch.sentences[place] for place in np.flatnonzero(~batch.is_sentence)}
    assert unsaid == {SPECIAL_CONCEPTS[role] for role in ("system", "user", "assistant")}


def test_pairs_are_continued_after_their_sources(workspace):
    settings = EvaluationSettings(split="train", free=FreeRunning(prefix=1, sentences=2), resamples=100)
    evaluation = models.evaluate([workspace / "model"], workspace / "pairs", settings)
    assert evaluation.sizes["all"].targets == 1 + 2 + 2  # two of three sentences
    assert {place: size.targets for place, size in evaluation.position_sizes.items()} == {"1": 3, "2": 2}
    given = {example.document: (len(example.given), example.truth) for example in evaluation.examples}
    assert sorted(count for count, _ in given.values()) == [1, 2, 3]
    assert ["The cat finds the letter.", "It loses the window."] in [truth for _, truth in given.values()]
    row = next(row for row in evaluation.rows if row.name.startswith("repeat"))
    assert row.scores["all"]["coherence"].value == pytest.approx(1)


def test_answers_are_written_behind_the_true_turns_before_them(workspace, chats):
    batch, folder = read(chats, (0, 1)), workspace / "model"
    assert [(begin, stop) for _, begin, stop in batch.continuations] == [(6, 8), (11, 12), (18, 20), (23, 24)]
    model, codec = load_model(folder), chats.codec()
    prediction = continue_batch(
        TextModel(folder, model, codec, None),
        without_stops(GenerationOptions(), FreeRunning()),
        batch,
        seed=0,
        number=0,
    )
    texts = iter(prediction.texts)
    for start, begin, stop in batch.continuations:
        story = torch.from_numpy(batch.embeddings[start:begin])
        said = set()  # an answer may say what others have said
        for place in range(begin, stop):
            story = torch.cat([story, guess_next(model, story)[None]])
            assert prediction.embeddings[place] == pytest.approx(story[-1].numpy(), abs=1e-4)
            said_next = codec.decode(story[-1:].numpy(), "eng_Latn", avoid=said)
            assert [next(texts)] == said_next
            said.update(said_next)
    assert next(texts, None) is None


@pytest.mark.parametrize(("most", "places"), [(10, {"1": (3, 6), "2": (3, 3)}), (1, {"1": (3, 6)})])
def test_the_report_on_answers(workspace, most, places):
    settings = EvaluationSettings(split="train", free=FreeRunning(sentences=most), resamples=100)
    evaluation = models.evaluate([workspace / "model"], workspace / "chats", settings)
    assert {place: (size.documents, size.targets) for place, size in evaluation.position_sizes.items()} == places
    assert title(evaluation).startswith(f"{workspace / 'chats'}, split train, continued after the turns before each")
    example = evaluation.examples[0]  # the last answer
    assert (len(example.given), example.truth) == (11, ["The cat forgets the song."])
    assert {len(texts) for texts in example.written.values()} == {1}
    repeat, truth = (next(row for row in evaluation.rows if row.name.startswith(name)) for name in ("rep", "the true"))
    assert repeat.scores["all"]["coherence"].value == pytest.approx(1)
    assert truth.scores["all"]["squared_l2"].value == 0
    json.dumps(evaluation.to_json(), allow_nan=False)


# User: A. Assistant: B, C. User: A. Assistant: B. | Assistant: A.
TURNS = EvaluationBatch(
    np.stack([ROLE, *CORNERS[[0]], ROLE, *CORNERS[[1, 2]], ROLE, *CORNERS[[0]], ROLE, *CORNERS[[1]], ROLE, CORNERS[0]]),
    np.repeat([0, 1], [9, 2]),
    np.concatenate([np.arange(9), np.arange(2)]),
    1,
    ("eng_Latn", "eng_Latn"),
    ("k l m n o", A, "k l m n o", B, C, "k l m n o", A, "k l m n o", B, "k l m n o", A),
    np.isin(np.arange(11), [3, 4, 8, 10]),
    np.isin(np.arange(11), [0, 2, 5, 7, 9]),
)
SAYS_B_B_A_C = np.full((11, 3), np.nan)
SAYS_B_B_A_C[[3, 4, 8, 10]] = CORNERS[[1, 1, 0, 2]]


def score_answers(metric, **tools):
    scored = ScoredBatch(
        TURNS, BatchPrediction(SAYS_B_B_A_C), True, Tools(lambda x: x, "validation", Alphabet(), **tools)
    )
    [(values, weights)] = scored.score([metric])
    return values.tolist(), weights.tolist()


def test_an_answer_is_measured_in_its_own_conversation():
    # What stands before: A; A and its own B; the true A, B, C, A, not what it wrote for them; nothing.
    assert score_answers("coherence") == ([0, 1, 1, 0], [1, 1, 1, 0])
    assert score_answers("context_cosine") == ([0, 1, 1, 0], [1, 1, 1, 0])
    assert score_answers("paraphrasing") == ([0, 1, 1, 0], [0, 0, 1, 0])  # of the truth B, C, B, A
    assert score_answers("repetition") == ([0, 2, 0, 0], [2, 2, 2, 2])  # of two 4-grams each, in the answer alone
    recorder = Recorder()
    score_answers("mutual_information", language_model=recorder, lm_context=2)
    assert recorder.texts == [([A], B), ([A, B], B), ([C, A], A), ([], C)]
    assert position_bins(TURNS, free=True).tolist() == [0, 1, 0, 0]


def test_baselines_answer_from_what_was_said_last():
    guesses = continue_documents(TURNS, lambda concepts: concepts)
    assert guesses[[3, 4, 8]] == pytest.approx(CORNERS[[0, 0, 0]])
    assert guesses[10] == pytest.approx(ROLE)  # nobody has said anything
    assert np.isnan(guesses[~TURNS.targets]).all()
