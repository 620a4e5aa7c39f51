import json

import numpy as np
import pytest

from lexalcm.model import ModelConfig, create_model

DIM = 6


@pytest.fixture(scope="module")
def dataset(make_dataset):
    generator = np.random.default_rng(0)
    documents = [("eng_Latn", generator.normal(size=(n, DIM)).cumsum(0)) for n in generator.integers(2, 23, size=12)]
    return make_dataset({"train": documents, "validation": documents[:8]})


def write_model(folder, dataset):
    config = ModelConfig(
        architecture="base",
        dim=DIM,
        width=16,
        num_heads=2,
        ffn_dim=24,
        num_layers=1,
        codec=dataset.manifest.codec,
    )
    model = create_model(config, seed=0)
    model.normalizer.set_statistics(dataset.normalizer())
    folder.mkdir(parents=True)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def model(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_model(tmp_path / "runs" / "first" / "model", dataset)


def test_the_newest_run_is_evaluated_beside_the_baselines(lcm, model, dataset):
    result = lcm("evaluate", "--data", dataset.path, "--resamples", 100)
    assert result.code == 0
    for text in ("runs/first", "repeat the last concept", "the training mean", "8 documents", "Seed 0"):
        assert text in result.out
    assert result.out.count("runs/first ") >= 3  # a line of the table and a sentence for each baseline


def test_json_goes_to_stdout_and_to_a_file_alike(lcm, model, dataset, tmp_path):
    file = tmp_path / "result.json"
    result = lcm("evaluate", model, model, "--data", dataset.path, "--limit", 4, "--json", "--out", file)
    tree = json.loads(result.out)
    assert tree == json.loads(file.read_text())
    assert [row["kind"] for row in tree["rows"]] == ["model", "model", "baseline", "baseline", "baseline"]
    assert len(tree["differences"]) == 6
    assert len(tree["comparisons"]) == 1
    assert tree["sizes"]["all"]["documents"] == 4
    assert tree["settings"]["limit"] == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no such model: nowhere"),
        (["--data", "nowhere"], "no data set in nowhere"),
        (["--split", "test"], "has no split 'test'"),
        (["--out", "missing/result.json"], "there is no folder missing"),
        (["--out", "."], ". is a folder"),
        (["--device", "abacus"], "no device abacus"),
    ],
)
def test_mistakes_are_one_line_with_exit_code_two(lcm, model, dataset, arguments, message):
    result = lcm("evaluate", *(["--data", dataset.path] if "--data" not in arguments else []), *arguments)
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("lcm: ")
    assert message in result.err
    assert result.err.count("\n") == 1


def test_no_trained_model_is_said(lcm, dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = lcm("evaluate", "--data", dataset.path)
    assert (result.code, result.err) == (2, "lcm: no trained model in runs/: run lcm train first\n")


def test_a_data_set_of_another_codec_is_a_mistake(lcm, model, make_dataset):
    documents = [("eng_Latn", np.random.default_rng(0).normal(size=(9, DIM)))]
    other = make_dataset({"train": documents, "validation": documents}, fingerprint="1" * 64)
    result = lcm("evaluate", "--data", other.path)
    assert result.code == 2
    assert "another fit of the codec lsa" in result.err
    assert result.err.count("\n") == 1
