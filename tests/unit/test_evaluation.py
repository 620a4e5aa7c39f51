import json

import numpy as np
import pytest
from rich.console import Console

from lexalcm.errors import DataError
from lexalcm.evaluate.metrics.scored_batch import BatchPrediction
from lexalcm.evaluate.predictors.baselines import MEAN, REPEAT, baselines, training_mean
from lexalcm.evaluate.report.formatting import sentences
from lexalcm.evaluate.report.report import Change, Difference, Estimate
from lexalcm.evaluate.report.tables import tables
from lexalcm.evaluate.run.evaluation import evaluate_predictors
from lexalcm.evaluate.run.evaluation_run import Predictor
from lexalcm.evaluate.settings import EvaluationSettings

DIM = 4
NORMALIZER = {"center": np.array([1.0, 0, 0, -2]), "scale": np.array([0.5, 1, 2, 4])}


def walk(generator, length):
    """A document whose every concept lies near the one before it."""
    return generator.normal(size=(length, DIM)).cumsum(0).astype(np.float32)


@pytest.fixture
def dataset(make_dataset):
    generator = np.random.default_rng(0)
    english = [("eng_Latn", walk(generator, n)) for n in generator.integers(1, 30, size=24)]
    japanese = [("jpn_Jpan", walk(generator, n)) for n in generator.integers(2, 30, size=8)]
    train = [("eng_Latn", walk(generator, 12)) for _ in range(10)]
    return make_dataset({"train": train, "validation": english + japanese}, normalizer=NORMALIZER)


ABOUT = {"architecture": "oracle", "parameters": 1000, "generation": None}


def perfect(name="oracle"):
    return Predictor(name, "model", lambda batch, number: BatchPrediction(batch.embeddings.copy()), ABOUT)


def simple(dataset):
    """The baselines that need no search."""
    return list(baselines(dataset.split("train"), EvaluationSettings(baselines=("repeat", "mean"))))


def evaluate(predictors, dataset, **settings):
    return evaluate_predictors(predictors, dataset, EvaluationSettings(**settings))


def estimates_by_loops(dataset, predict, batch):
    """Mean scores over all targets, from the definitions, document by document."""
    split = dataset.split("validation")
    documents = [
        (np.asarray(split.embeddings(i), dtype=np.float64) - NORMALIZER["center"]) / NORMALIZER["scale"]
        for i in range(len(split))
    ]
    batches, held = [[]], 0
    for number, document in enumerate(documents):
        batches[-1].append(number)
        held += len(document)
        if held >= batch:
            batches.append([])
            held = 0
    if (rest := batches.pop()) and batches:
        batches[-1] += rest
    elif rest:
        batches.append(rest)
    distances, accuracies = [], []
    for numbers in batches:
        everything = [(n, place) for n in numbers for place in range(len(documents[n]))]
        for n, place in everything:
            if place == 0:
                continue
            guess, truth = predict(documents[n], place), documents[n][place]
            distance = ((guess - truth) ** 2).sum()
            others = [((guess - documents[m][p]) ** 2).sum() for m, p in everything if m != n or abs(p - place) > 1]
            distances.append(distance)
            accuracies.append(np.mean([1.0 * (o > distance) + 0.5 * (o == distance) for o in others]))
    return np.mean(distances), np.mean(accuracies), len(distances)


def test_baselines_equal_loops_over_the_definitions(dataset):
    train = dataset.split("train")
    evaluation = evaluate(simple(dataset), dataset, batch=100, corpus_order=True, resamples=100)
    mean = np.concatenate([train.embeddings(i) for i in range(len(train))]).astype(np.float64).mean(0)
    mean = (mean - NORMALIZER["center"]) / NORMALIZER["scale"]
    for row, predict in zip(
        evaluation.rows, [lambda document, i: document[i - 1], lambda document, i: mean], strict=True
    ):
        distance, accuracy, targets = estimates_by_loops(dataset, predict, 100)
        assert row.scores["all"]["squared_l2"].value == pytest.approx(distance)
        assert row.scores["all"]["contrastive_accuracy"].value == pytest.approx(accuracy)
        assert evaluation.sizes["all"].targets == targets


def test_a_perfect_predictor_beats_both_baselines_and_says_so(dataset):
    evaluation = evaluate([perfect(), *simple(dataset)], dataset, batch=100)
    scores = evaluation.rows[0].scores["all"]
    assert (scores["squared_l2"].value, scores["contrastive_accuracy"].value) == (0.0, 1.0)
    assert [(one.model, one.baseline) for one in evaluation.differences] == [("oracle", REPEAT), ("oracle", MEAN)]
    for difference in evaluation.differences:
        assert {difference.verdict(metric) for metric in ("squared_l2", "contrastive_accuracy")} == {"better"}
    assert all("oracle beats" in line for line in sentences(evaluation))


def test_a_baseline_posing_as_a_model_is_not_said_to_beat_itself(dataset):
    repeat, mean = simple(dataset)
    pretender = Predictor("pretender", "model", repeat.predict, ABOUT)
    evaluation = evaluate([pretender, repeat, mean], dataset, batch=100)
    same = evaluation.differences[0]
    assert same.scores["all"]["contrastive_accuracy"] == Change(0.0, 0.0, 0.0, 1.0)
    assert same.verdict("contrastive_accuracy") == "unclear"
    assert "not clearly different" in sentences(evaluation)[0]


def test_differences_are_differences_of_the_rows_for_every_language(dataset):
    evaluation = evaluate([perfect(), *simple(dataset)], dataset, batch=100)
    by_name = {row.name: row for row in evaluation.rows}
    assert list(evaluation.sizes) == ["all", "eng_Latn", "jpn_Jpan"]
    assert evaluation.sizes["all"].targets == sum(evaluation.sizes[name].targets for name in ("eng_Latn", "jpn_Jpan"))
    for difference in evaluation.differences:
        for language, metrics in difference.scores.items():
            for metric, estimate in metrics.items():
                expected = (
                    by_name[difference.model].scores[language][metric].value
                    - by_name[difference.baseline].scores[language][metric].value
                )
                assert estimate.value == pytest.approx(expected)
                assert estimate.low <= estimate.value <= estimate.high


def test_interval_of_equally_long_documents_has_the_standard_error_of_their_means(make_dataset):
    generator = np.random.default_rng(5)
    documents = [("eng_Latn", generator.normal(size=(9, DIM)).astype(np.float32)) for _ in range(120)]
    dataset = make_dataset({"train": documents, "validation": documents}, normalizer=NORMALIZER)
    evaluation = evaluate(simple(dataset), dataset, batch=200)
    values = [
        ((np.diff(embeddings.astype(np.float64), axis=0) / NORMALIZER["scale"]) ** 2).sum(1).mean()
        for _, embeddings in documents
    ]
    estimate = evaluation.rows[0].scores["all"]["squared_l2"]
    assert estimate.value == pytest.approx(np.mean(values))
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * np.std(values) / np.sqrt(120), rel=0.1)


def test_random_batches_come_close_to_comparing_with_the_whole_split(make_dataset):
    # Forty topics, three documents each, side by side in the corpus: neighbours are the hard ones to tell apart.
    generator = np.random.default_rng(7)
    topics = np.repeat(generator.normal(size=(40, DIM)) * 9, 3, axis=0)
    documents = [("eng_Latn", (topic + generator.normal(size=(8, DIM))).astype(np.float32)) for topic in topics]
    dataset = make_dataset({"train": documents, "validation": documents}, normalizer=NORMALIZER)

    def repeat(**options):
        row = evaluate(simple(dataset), dataset, resamples=100, **options).rows[0]
        return row.scores["all"]["contrastive_accuracy"].value

    whole, random, corpus = repeat(batch=960), repeat(batch=192), repeat(batch=192, corpus_order=True)
    assert repeat(batch=960, corpus_order=True) == pytest.approx(whole)
    assert random == repeat(batch=192)
    assert random == pytest.approx(whole, abs=0.03)
    assert corpus < random - 0.02


def test_limit_takes_documents_from_all_over_the_split(dataset):
    evaluation = evaluate(simple(dataset), dataset, batch=50, limit=8)
    assert evaluation.sizes["all"].documents <= 8
    assert "jpn_Jpan" in evaluation.sizes  # they stand at the end


def test_the_same_seed_gives_the_same_report_and_it_is_valid_json(dataset):
    def report(seed):
        evaluation = evaluate([perfect(), *simple(dataset)], dataset, batch=64, seed=seed)
        return json.dumps(evaluation.to_json(), allow_nan=False)

    assert report(1) == report(1)
    assert report(1) != report(2)


def test_too_little_to_compare_with_is_said(make_dataset):
    single = [("eng_Latn", np.eye(1, DIM, dtype=np.float32))]
    short = [("eng_Latn", np.eye(3, DIM, dtype=np.float32))]
    dataset = make_dataset({"train": short, "single": single, "short": short}, normalizer=NORMALIZER)
    with pytest.raises(DataError, match="nothing to predict"):
        evaluate(simple(dataset), dataset, split="single")
    with pytest.raises(DataError, match="too few concepts"):
        evaluate(simple(dataset), dataset, split="short")
    with pytest.raises(DataError, match="no split 'test'"):
        evaluate(simple(dataset), dataset, split="test")


def test_one_document_has_no_interval(make_dataset):
    document = [("eng_Latn", walk(np.random.default_rng(0), 20))]
    dataset = make_dataset({"train": document, "validation": document}, normalizer=NORMALIZER)
    evaluation = evaluate([perfect(), *simple(dataset)], dataset)
    assert evaluation.rows[0].scores["all"]["squared_l2"] == Estimate(0.0, None, None)
    assert "not clearly different" in sentences(evaluation)[0]
    json.dumps(evaluation.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("low", "high", "metric", "verdict"),
    [
        (0.1, 0.2, "contrastive_accuracy", "better"),
        (-0.2, -0.1, "contrastive_accuracy", "worse"),
        (-0.1, 0.1, "contrastive_accuracy", "unclear"),
        (0.1, 0.2, "squared_l2", "worse"),
        (-0.2, -0.1, "squared_l2", "better"),
        (0.0, 0.2, "squared_l2", "unclear"),
    ],
)
def test_verdict_needs_the_whole_interval_on_one_side(low, high, metric, verdict):
    assert Difference("m", "b", {"all": {metric: Change(0.0, low, high)}}).verdict(metric) == verdict


def test_training_mean_of_a_large_split_uses_documents_from_all_over_it(make_dataset):
    documents = [("eng_Latn", np.full((10, DIM), float(number), dtype=np.float32)) for number in range(100)]
    train = make_dataset({"train": documents}, normalizer=NORMALIZER).split("train")
    mean, concepts = training_mean(train)
    assert (mean.tolist(), concepts) == ([49.5] * DIM, 1000)
    mean, concepts = training_mean(train, max_concepts=200)
    assert concepts == 200
    assert mean == pytest.approx([47.5] * DIM)  # documents 0, 5, 10, ..., 95


@pytest.mark.parametrize("width", [40, 80, 140])
def test_table_keeps_to_the_width_and_shows_every_number(dataset, width):
    evaluation = evaluate(
        [
            perfect("runs/日本語"),
            *simple(dataset),
        ],
        dataset,
        batch=100,
    )
    console = Console(width=width, record=True, file=None)
    with console.capture() as capture:
        for table in tables(evaluation):
            console.print(table)
    lines = capture.get().splitlines()
    from rich.cells import cell_len

    assert max(cell_len(line) for line in lines) <= width
    assert "100.0%" in "".join(lines)
