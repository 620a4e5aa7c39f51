"""Free-running: documents continued from a prefix, each concept read on from what was written before."""

import gc
import json
import weakref

import numpy as np
import pytest
import torch
from evaluation_workspace import guess_next, make_text_dataset, make_text_model

from lexalcm.errors import ConfigError, DataError
from lexalcm.evaluate.predictors.baselines import NearestContinuation, baselines
from lexalcm.evaluate.predictors.free_running import continue_batch, without_stops
from lexalcm.evaluate.run import models
from lexalcm.evaluate.run.batches import read_batch
from lexalcm.evaluate.settings import EvaluationSettings, FreeRunning
from lexalcm.generate.options import GenerationOptions
from lexalcm.generate.text import TextModel
from lexalcm.model.storage.folder import load_model

FREE = FreeRunning(prefix=2, sentences=4)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return tmp_path_factory.mktemp("free")


@pytest.fixture(scope="module")
def dataset(workspace):
    return make_text_dataset(workspace / "data")


@pytest.fixture(scope="module")
def folder(workspace, dataset):
    return make_text_model(workspace / "base", dataset)


@pytest.fixture(scope="module")
def batch(dataset):
    split = dataset.split("validation")
    return read_batch(split, np.arange(len(split)), prefix=FREE.prefix, longest=6, text=True)


def evaluate(folders, dataset, **settings):
    return models.evaluate(folders, dataset.path, EvaluationSettings(resamples=100, **settings))


def test_a_batch_is_continued_as_each_document_alone_one_forward_pass_at_a_time(dataset, folder, batch):
    model, codec = load_model(folder).eval(), dataset.codec()
    options = without_stops(GenerationOptions(), FREE)
    prediction = continue_batch(TextModel(folder, model, codec, None), options, batch, seed=0, number=0)
    texts = iter(prediction.texts)
    for span in batch.spans:
        story = torch.from_numpy(batch.embeddings[span][: FREE.prefix])
        said = set(batch.sentences[span.start : span.start + FREE.prefix])
        for place in range(span.start + FREE.prefix, span.stop):
            story = torch.cat([story, guess_next(model, story)[None]])
            assert prediction.embeddings[place] == pytest.approx(story[-1].numpy(), abs=1e-4)
            lang = batch.languages[batch.documents[place]]
            [expected] = codec.decode(story[-1:].numpy(), lang, avoid=said)
            assert next(texts) == expected
            said.add(expected)
    assert next(texts, None) is None


def test_a_model_that_reads_its_own_text_sees_its_embedding(dataset, folder, batch):
    writer = TextModel(folder, load_model(folder), dataset.codec(), None)
    options = GenerationOptions(reencode=True)
    prediction = continue_batch(writer, without_stops(options, FREE), batch, seed=0, number=0)
    alone = continue_batch(writer, without_stops(GenerationOptions(), FREE), batch, seed=0, number=0)
    first = batch.positions == FREE.prefix  # the first sentence has read nothing of its own yet
    assert prediction.embeddings[first] == pytest.approx(alone.embeddings[first], abs=1e-5)
    assert prediction.embeddings[batch.positions == FREE.prefix + 1] != pytest.approx(
        alone.embeddings[batch.positions == FREE.prefix + 1], abs=1e-3
    )


def watch_models(module, monkeypatch):
    """Weights of the models that a module has loaded, and which of them were there when the next one was."""
    loaded, found = [], []

    def load(folder):
        found.append([model() is not None for model in loaded])
        model = load_model(folder)
        loaded.append(weakref.ref(model))
        return model

    monkeypatch.setattr(module, "load_model", load)
    return found


@pytest.mark.parametrize("free", [None, FREE])
def test_one_model_is_in_memory_at_a_time(dataset, folder, workspace, monkeypatch, free):
    tower = make_text_model(workspace / f"tower-{free is None}", dataset, "two-tower", steps=2)
    found = watch_models(models, monkeypatch)
    gc.disable()  # what has to wait for it may wait long
    try:
        evaluate([tower, folder, tower], dataset, free=free, limit=4)
    finally:
        gc.enable()
    assert found == [[], [False], [False, False]]


def test_noise_comes_from_seed_and_batch_alone(dataset, workspace, batch):
    tower = make_text_model(workspace / "tower", dataset, "two-tower")
    writer = TextModel(tower, load_model(tower), dataset.codec(), None)
    options = without_stops(GenerationOptions(steps=2), FREE)

    def first(**place):
        return continue_batch(writer, options, batch, **place).embeddings[batch.targets]

    assert (first(seed=1, number=0) == first(seed=1, number=0)).all()
    assert (first(seed=1, number=0) != first(seed=2, number=0)).any()
    assert (first(seed=1, number=0) != first(seed=1, number=1)).any()


def test_baselines_continue_from_what_they_said(dataset, batch):
    settings = EvaluationSettings(free=FREE, neighbours=10_000)
    train = dataset.split("train")
    documents = [np.asarray(train.embeddings(number), dtype=np.float64) for number in range(len(train))]

    def nearest(concept):
        cosines = [
            (row @ concept / np.linalg.norm(row), number, place)
            for number, document in enumerate(documents)
            for place, row in enumerate(document[:-1])
        ]
        best = max(cosine for cosine, _, _ in cosines)
        # several training sentences may be the same one: any of their followers will do
        return [documents[number][place + 1] for cosine, number, place in cosines if cosine > best - 1e-6]

    predictions = {one.name.split()[1]: one.predict(batch, 0).embeddings for one in baselines(train, settings)}
    mean = np.concatenate(documents).mean(0)
    assert np.isnan(predictions["the"])[~batch.targets].all()
    for span in batch.spans:
        if span.stop - span.start <= FREE.prefix:
            continue
        last = batch.embeddings[span.start + FREE.prefix - 1]
        said = last
        for place in range(span.start + FREE.prefix, span.stop):
            assert predictions["the"][place] == pytest.approx(last)
            assert predictions["training"][place] == pytest.approx(mean)
            found = predictions["nearest"][place]
            assert min(np.abs(found - follower).max() for follower in nearest(said)) < 1e-5
            said = found


def test_the_nearest_continuation_is_looked_for_in_a_bounded_sample(dataset):
    train = dataset.split("train")
    everything = NearestContinuation(train, 10**6)
    assert everything.concepts == sum(int(length) - 1 for length in train.lengths)
    some = NearestContinuation(train, 60)
    assert 20 < some.concepts < 80


def test_report_of_free_running(dataset, folder):
    evaluation = evaluate([folder], dataset, free=FREE)
    free = [min(int(length), 6) - 2 for length in dataset.split("validation").lengths]
    assert evaluation.sizes["all"].targets == sum(length for length in free if length > 0)
    assert list(evaluation.position_sizes) == ["1", "2", "3-4"]
    assert sum(size.targets for size in evaluation.position_sizes.values()) == evaluation.sizes["all"].targets
    assert {"rouge_l", "chrf", "round_trip_l2", "repetition", "paraphrasing"} < set(evaluation.metrics)
    assert "mutual_information" not in evaluation.metrics
    assert any("no language model" in note for note in evaluation.notes)
    repeat = next(row for row in evaluation.rows if row.name.startswith("repeat"))
    assert repeat.scores["all"]["coherence"].value == pytest.approx(1)
    truth = next(row for row in evaluation.rows if row.kind == "reference")
    assert (truth.scores["all"]["squared_l2"].value, truth.scores["all"]["paraphrasing"].value) == (0, 1)
    example = evaluation.examples[0]
    assert len(example.given) == 2
    assert {len(text) for text in example.written.values()} == {len(example.truth)}
    json.dumps(evaluation.to_json(), allow_nan=False)


def test_a_model_that_is_given_twice_has_two_names(dataset, folder):
    evaluation = evaluate([folder, folder], dataset, free=FREE, baselines=("mean",))
    names = [str(folder), f"{folder} (2)"]
    assert [row.name for row in evaluation.rows[:2]] == names
    assert [(pair.model, pair.baseline) for pair in evaluation.comparisons] == [tuple(names)]
    assert evaluation.comparisons[0].scores["all"]["squared_l2"].value == 0
    for example in evaluation.examples:
        assert example.written.keys() == {*names, "the training mean"}


def test_all_metrics_of_one_document_are_those_of_the_whole_split_put_together(dataset, folder):
    evaluation = evaluate([folder], dataset, metrics=("embedding", "rouge_l"), batch=10**6)
    model = evaluation.rows[0]
    for metric in ("cosine", "rouge_l", "coherence"):
        by_position = [
            model.positions[place][metric].value * size.targets for place, size in evaluation.position_sizes.items()
        ]
        by_language = [
            model.scores[name][metric].value * size.targets for name, size in evaluation.sizes.items() if name != "all"
        ]
        whole = model.scores["all"][metric].value * evaluation.sizes["all"].targets
        assert sum(by_position) == pytest.approx(whole)
        assert sum(by_language) == pytest.approx(whole)


def test_settings_that_leave_nothing_to_do_are_mistakes(dataset, folder):
    with pytest.raises(DataError, match="no document of 31 concepts or more"):
        evaluate([folder], dataset, free=FreeRunning(prefix=30))
    with pytest.raises(ConfigError, match="give one with --lm"):
        evaluate([folder], dataset, metrics=("mutual_information",))
