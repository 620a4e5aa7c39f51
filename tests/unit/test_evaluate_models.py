import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lexalcm.codec.base import CodecRecord
from lexalcm.device import choose_device
from lexalcm.errors import CodecError, DataError, LexaError, UserError
from lexalcm.evaluate.predictors.predictions import Window, pack_windows, predict_batch
from lexalcm.evaluate.run import models
from lexalcm.evaluate.run.batches import EvaluationBatch
from lexalcm.evaluate.settings import EvaluationSettings
from lexalcm.generate.options import GenerationOptions
from lexalcm.generate.predictor import prepare
from lexalcm.model import ModelConfig, create_model
from lexalcm.objective.squared_l2 import SquaredL2

DIM = 6
SIZES = {"dim": DIM, "width": 16, "num_heads": 2, "ffn_dim": 24, "num_layers": 2, "dropout": 0.1}
FEW_STEPS = {"steps": 3}


def make_model(dataset, **changes):
    """A small model with random weights, of the data set's codec and normalizer."""
    config = ModelConfig.model_validate(
        {"architecture": "base", "codec": dataset.manifest.codec, **SIZES, **changes},
    )
    model = create_model(config, seed=0)
    model.normalizer.set_statistics(dataset.normalizer())
    return model


def evaluate(folders, data, **settings):
    return models.evaluate(folders, data, EvaluationSettings(**settings))


def save(model, folder):
    folder.mkdir()
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dataset(make_dataset):
    generator = np.random.default_rng(0)
    splits = {
        name: [("eng_Latn", generator.normal(size=(n, DIM)).cumsum(0)) for n in generator.integers(1, 23, size=16)]
        for name in ("train", "validation")
    }
    return make_dataset(splits)


@pytest.fixture(scope="module")
def base_folder(dataset, tmp_path_factory):
    return save(make_model(dataset), tmp_path_factory.mktemp("models") / "base")


def batch_of(lengths):
    generator = torch.Generator().manual_seed(0)
    return EvaluationBatch(
        embeddings=torch.randn(sum(lengths), DIM, generator=generator).numpy(),
        documents=np.repeat(np.arange(len(lengths)), lengths),
        positions=np.concatenate([np.arange(length) for length in lengths]),
    )


@pytest.mark.parametrize("window", [64, 10])
def test_predictions_equal_one_document_prefix_at_a_time(dataset, window):
    model = make_model(dataset).eval()
    batch = batch_of([3, 1, 24, 9, 2])
    predictions = predict_batch(prepare(model, GenerationOptions()), batch, window=window, seed=0, number=0)
    assert np.isnan(predictions[~batch.targets]).all()
    for index in np.flatnonzero(batch.targets):
        place = int(batch.positions[index])
        begin = 0 if place < window else (place - window) // (window // 2) * (window // 2) + window // 2
        prefix = torch.from_numpy(batch.embeddings[index - place + begin : index])[None]
        with torch.no_grad():
            guess = model(
                model.normalizer.normalize(prefix),
                torch.zeros(prefix.shape[:2], dtype=torch.int64),
                torch.arange(prefix.shape[1])[None],
            )
        expected = model.normalizer.denormalize(guess)[0, -1].numpy()
        assert predictions[index] == pytest.approx(expected, rel=1e-4, abs=1e-5)


@given(st.lists(st.integers(2, 20), max_size=50))
def test_rows_hold_every_window_once_and_are_never_too_long(lengths):
    pieces = [Window(100 * number, 100 * number + length, 100 * number + 1) for number, length in enumerate(lengths)]
    rows = pack_windows(pieces, 20)
    assert sorted(piece for row in rows for piece in row) == pieces
    assert all(sum(piece.length for piece in row) <= 20 for row in rows)
    assert len(rows) <= 2 * -(-sum(lengths) // 20) + 1  # first fit leaves at most one row under half full


def test_noise_depends_on_seed_and_batch_only(dataset):
    model = make_model(dataset, architecture="two-tower", context_layers=1)
    batch, predictor = batch_of([5, 9, 3]), prepare(model, GenerationOptions(**FEW_STEPS))

    def predict(seed, number):
        return predict_batch(predictor, batch, window=16, seed=seed, number=number)[batch.targets]

    assert (predict(1, 0) == predict(1, 0)).all()
    assert (predict(1, 0) != predict(2, 0)).any()
    assert (predict(1, 0) != predict(1, 1)).any()


def test_squared_l2_of_a_base_model_is_its_loss(dataset, base_folder):
    evaluation = evaluate([base_folder], dataset.path, resamples=100)
    model = make_model(dataset).eval()
    total, count = 0.0, 0
    split = dataset.split("validation")
    for number in range(len(split)):
        embeddings = torch.from_numpy(split.embeddings(number).copy())[None]
        positions = torch.arange(embeddings.shape[1])[None]
        with torch.no_grad():
            loss = SquaredL2(model).loss(embeddings, torch.zeros_like(positions), positions, positions > 0)
        total, count = total + float(loss.sum), count + int(loss.count)
    assert evaluation.rows[0].scores["all"]["squared_l2"].value == pytest.approx(total / count, rel=1e-4)
    assert evaluation.sizes["all"].targets == count


def test_report_tells_the_sampler_and_its_changes(dataset, base_folder, tmp_path):
    folder = save(make_model(dataset, architecture="two-tower", context_layers=1), tmp_path / "tower")
    generation = {"steps": 2, "guidance_scale": 1.5}
    evaluation = evaluate([folder, base_folder], dataset.path, generation=generation, resamples=100, limit=6)
    tower, base, *rest = evaluation.rows
    assert tower.settings["generation"].items() >= {"sampler": "dpm-solver++", **generation}.items()
    assert base.settings["generation"] is None
    assert [row.kind for row in rest] == ["baseline", "baseline", "baseline"]
    assert len(evaluation.differences) == 6
    assert [(pair.model, pair.baseline) for pair in evaluation.comparisons] == [(tower.name, base.name)]


def test_run_folder_and_model_folder_mean_the_same(dataset, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    save(make_model(dataset), run / "model")
    reports = [evaluate([path], dataset.path, resamples=100) for path in (run, run / "model")]
    assert reports[0] == reports[1]
    assert reports[0].rows[0].name == str(run)


def test_another_codec_or_dimension_is_an_error(dataset, make_dataset, base_folder, tmp_path):
    documents = [("eng_Latn", np.random.default_rng(0).normal(size=(9, DIM)))]
    other = make_dataset({"train": documents, "validation": documents}, fingerprint="1" * 64)
    with pytest.raises(CodecError, match="another fit of the codec lsa"):
        evaluate([base_folder], other.path)
    record = CodecRecord(name="lsa", dim=4, fingerprint="0" * 64)
    narrow = save(
        create_model(ModelConfig(architecture="base", codec=record, **{**SIZES, "dim": 4}), 0), tmp_path / "4"
    )
    with pytest.raises(CodecError, match="is for 4-dimensional concepts"):
        evaluate([narrow], dataset.path)


def cut_weights(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def of_another_width(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "ffn_dim": 32}))


@pytest.mark.parametrize(
    ("break_it", "generation", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), {}, "has no model.safetensors"),
        (cut_weights, {}, "is truncated or damaged"),
        (of_another_width, {}, "does not fit its config"),
        (lambda folder: (folder / "generation_config.json").write_text('{"stepz": 3}'), {}, "last: .*stepz"),
        (lambda folder: None, {"steps": 101}, "last: .*101 .*100"),
    ],
)
def test_all_models_are_checked_before_the_first_is_evaluated(
    dataset, base_folder, tmp_path, monkeypatch, break_it, generation, message
):
    last = save(make_model(dataset, architecture="two-tower", context_layers=1), tmp_path / "last")
    break_it(last)
    monkeypatch.setattr(models, "load_model", lambda folder: pytest.fail("a model was loaded"))
    with pytest.raises(UserError, match=message):
        evaluate([base_folder, last], dataset.path, generation=generation)


def test_baselines_that_cannot_be_made_are_known_before_a_model_is_evaluated(make_dataset, monkeypatch, tmp_path):
    documents = [("eng_Latn", np.random.default_rng(number).normal(size=(9, DIM))) for number in range(3)]
    short = make_dataset({"train": [(lang, concepts[:1]) for lang, concepts in documents], "validation": documents})
    folder = save(make_model(short), tmp_path / "base")
    monkeypatch.setattr(models, "load_model", lambda folder: pytest.fail("a model was loaded"))
    with pytest.raises(DataError, match="--baselines repeat,mean"):
        evaluate([folder], short.path)


def test_a_model_that_predicts_nan_is_a_failure(dataset, tmp_path):
    model = make_model(dataset)
    with torch.no_grad():
        model.output_proj.bias[0] = torch.nan
    with pytest.raises(LexaError, match="not finite"):
        evaluate([save(model, tmp_path / "broken")], dataset.path)


def test_unknown_device_is_the_users_mistake():
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(UserError, match="the device 'nonsense' cannot be used"):
        choose_device("nonsense")
