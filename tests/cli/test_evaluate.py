import json

import numpy as np
import pytest
from evaluation_workspace import make_text_dataset, make_text_model

from lexalcm.data.format.dataset import Dataset
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
        (["--device", "abacus"], "the device 'abacus' cannot be used"),
        (["--out", "result.txt"], "must end in .json, .md, .html"),
        (["--metrics", "squard_l2"], "unknown metric 'squard_l2': did you mean squared_l2?"),
        (["--metrics", "mutual_information"], "give one with --lm"),
        (["--metrics", "rouge_l"], "the codec's files are missing"),
        (["--baselines", "repeat,best"], "unknown baseline 'best': known are repeat, mean, nearest, or none"),
        (["--task", "nowhere.jsonl"], "cannot read nowhere.jsonl"),
        (["--task", "a.jsonl", "--data", "nowhere"], "--data has no effect with --task: omit it"),
        (["--task", "a.jsonl", "--split", "train"], "--split has no effect with --task"),
        (["--task", "a.jsonl", "--baselines", "none"], "--baselines has no effect with --task"),
        (["--task", "a.jsonl", "--corpus-order"], "--corpus-order has no effect with --task"),
        (["--task", "a.jsonl", "--free"], "--free has no effect with --task"),
        (["--prefix", "5"], "--prefix has no effect without --free"),
        (["-n", "5"], "--max-sentences has no effect without --free"),
        (["--neighbours", "5", "--baselines", "mean"], "--neighbours has no effect without the baseline nearest"),
        (["--codec", "nonsense"], "--codec has no effect unless a metric needs text"),
        (["--stop-repetition", "1"], "--stop-repetition has no effect without --free"),
        (["--free", "--stop-similarity", "1"], "--stop-similarity has no effect with --free"),
        (["--task", "a.jsonl", "--max-prompt", "9"], "--max-prompt has no effect with --task"),
        (["--beam", "2"], "--beam has no effect unless a metric needs text"),
        (["--sampler", "magic"], "unknown sampler 'magic': known are ddim, dpm-solver++"),
        (["--eta", "0.5", "--sampler", "dpm-solver++"], "adds no noise"),
    ],
)
def test_mistakes_are_one_line_with_exit_code_two(lcm, model, dataset, arguments, message):
    elsewhere = {"--data", "--task"} & set(arguments)
    result = lcm("evaluate", *([] if elsewhere else ["--data", dataset.path]), *arguments)
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


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    dataset = make_text_dataset(folder / "data")
    make_text_model(folder / "one", dataset, seed=1)
    make_text_model(folder / "two", dataset, seed=2)
    return folder


def test_several_models_and_all_metrics_in_reports_of_three_kinds(lcm, written, tmp_path):
    files = [tmp_path / f"report.{kind}" for kind in ("json", "md", "html")]
    result = lcm(
        "evaluate", written / "one", written / "two", "--data", written / "data", "--metrics", "all",
        "--resamples", 100, *(part for file in files for part in ("-o", file)),
    )  # fmt: skip
    assert result.code == 0
    for text in ("ROUGE-L", "repeated 4-grams", "the true concepts", "jpn_Jpan", "Mutual information is left out"):
        assert text in result.out
    assert f"'{written / 'two'}' in contrastive accuracy" in result.out  # the comparison of the two
    tree = json.loads(files[0].read_text())
    assert list(tree["metrics"])[-2:] == ["chrf", "repetition"]
    assert tree["comparisons"][0]["scores"]["all"]["chrf"]["p"] <= 1
    assert files[1].read_text().startswith("# ")
    assert files[2].read_text().startswith("<!doctype html>")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["report.html", "report.json", "report.md"]


def test_every_option_reaches_the_sampler(lcm, written, tmp_path):
    given = {"sampler": "ddim", "steps": 2, "guidance_scale": 1.5, "guidance_rescale": 0.25, "eta": 0.5}
    make_text_model(tmp_path / "tower", Dataset.open(written / "data"), "two-tower")
    result = lcm(
        "evaluate", tmp_path / "tower", "--data", written / "data", "--limit", 2, "--resamples", 100, "--json",
        "--sampler", "ddim", "--steps", 2, "--guidance", 1.5, "--guidance-rescale", 0.25, "--eta", 0.5,
        "--noise-scale", 0.75,
    )  # fmt: skip
    assert result.code == 0, result.err
    options = json.loads(result.out)["rows"][0]["settings"]["generation"]
    assert options.items() >= {**given, "initial_noise_scale": 0.75}.items()


def test_documents_are_continued(lcm, written):
    result = lcm(
        "evaluate", written / "one", "--data", written / "data", "--free", "--prefix", 2, "-n", 3,
        "--baselines", "repeat", "--resamples", 100, "--json",
    )  # fmt: skip
    tree = json.loads(result.out)
    assert tree["settings"]["mode"] == "free-running"
    assert tree["settings"]["free"] == {"prefix": 2, "sentences": 3}
    assert [row["kind"] for row in tree["rows"]] == ["model", "baseline", "reference"]
    assert {len(text) for text in tree["examples"][0]["written"].values()} == {len(tree["examples"][0]["truth"])}


def test_a_task_is_done(lcm, written, tmp_path):
    example = {"source": "The cat sees the dog in the garden.", "reference": "The dog loses the cat in the song."}
    (tmp_path / "task.jsonl").write_text(json.dumps(example))
    result = lcm("evaluate", written / "one", "--task", tmp_path / "task.jsonl", "-n", 2, "--json")
    tree = json.loads(result.out)
    assert tree["rows"][0]["settings"]["max_sentences"] == 2
    assert 1 <= len(tree["examples"][0]["written"][str(written / "one")]) <= 2


def test_an_interrupted_report_goes_on_and_another_one_is_not_mixed_in(lcm, written, tmp_path, monkeypatch):
    from lexalcm.evaluate.run import models

    def evaluate(*more):
        return lcm(
            "evaluate",
            written / "one",
            "--data",
            written / "data",
            "--resamples",
            100,
            "-o",
            tmp_path / "r.json",
            *more,
        )

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(models, "finish", interrupted)
        assert evaluate().code != 0
    assert (tmp_path / "r.json.unfinished").is_dir()
    other = evaluate("--seed", 1)
    assert (other.code, other.err.count("\n")) == (2, 1)
    assert "unfinished evaluation of other models, data or settings" in other.err
    assert evaluate().code == 0
    assert [file.name for file in tmp_path.iterdir()] == ["r.json"]


def test_a_line_that_failed_is_not_in_the_way_of_the_corrected_one(lcm, written, tmp_path):
    line = ["evaluate", written / "one", "--data", written / "data", "--free", "-n", 2, "--metrics", "squared_l2"]
    line += ["--baselines", "none", "--resamples", 100, "-o", tmp_path / "r.json"]
    failed = lcm(*line, "--prefix", 30)
    assert (failed.code, failed.err.count("\n")) == (2, 1)
    assert "no document of 31 concepts or more" in failed.err
    assert lcm(*line, "--prefix", 3).code == 0
    assert [file.name for file in tmp_path.iterdir()] == ["r.json"]
