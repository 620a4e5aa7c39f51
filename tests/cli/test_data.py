import io
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file

from lexalcm.data.format.dataset import Dataset

TEXT = """\
The river rises in the hills. It runs past the mill, and nobody fishes there. In May the boats return.

A garden needs water. It needs patience too. Dr. Brown said so.

The harbour was quiet. Two ships lay at anchor. The third had gone.
"""


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


SMALL_CODEC = {"dim": 16, "max_features": 2000}
SMALL = [f"--codec-option={name}={value}" for name, value in SMALL_CODEC.items()]


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """The packaged text as a data set with small vectors, in a folder of its own."""
    from lexalcm.data.build.settings import BuildSettings
    from lexalcm.data.sources.sample import build_sample

    folder = tmp_path_factory.mktemp("sample")
    build_sample(folder / "data" / "sample", BuildSettings(codec_options=SMALL_CODEC))
    return folder


def test_text_becomes_a_data_set_that_passes_its_checks(lcm, text):
    result = lcm("data", "build", text, "--out", "out")
    assert result.code == 0
    assert all(word in result.out for word in ("train", "validation", "eng_Latn", "lsa"))
    split = Dataset.open("out").split("train")
    sentences = [sentence for i in range(len(split)) for sentence in split.document(i)["sentences"]]
    assert len(sentences) == 6
    assert {"Dr. Brown said so.", "Two ships lay at anchor."} & set(sentences)
    assert lcm("verify", "data", "out").code == 0
    assert lcm("data", "info", "out").code == 0


def test_options_reach_the_data_set(lcm, tmp_path):
    (tmp_path / "in").mkdir()
    rows = [
        {"body": f"Satz {i} ist hier. Noch einer folgt. Und einer mehr, mit Komma, zum Schluss."} for i in range(20)
    ]
    (tmp_path / "in" / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = ["--text-field", "body", "--lang", "German", "--max-chars", "30", "--codec-option", "dim=16"]
    options += ["--validation", "0.5", "--shard-size", "2KiB", "--dtype", "float32", "--seed", "3"]
    result = lcm("data", "build", "in", "--out", "out", "--json", *options)
    assert result.code == 0
    summary = json.loads(result.out)
    assert summary["dim"] == 16
    assert summary["dtype"] == "float32"
    assert summary["splits"]["train"]["shards"] > 1
    assert set(summary["splits"]["train"]["languages"]) == {"deu_Latn"}
    assert 5 <= summary["splits"]["validation"]["documents"] <= 15
    split = Dataset.open("out").split()
    assert all(len(sentence) <= 30 for i in range(len(split)) for sentence in split.document(i)["sentences"])
    assert Dataset.open("out").manifest.codec.options["seed"] == 3


def test_standard_input_and_whole_files(lcm, text, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(TEXT.encode())))
    result = lcm("data", "build", "-", "--documents", "file", "--out", "out", "--json")
    assert json.loads(result.out)["splits"]["train"]["documents"] == 1
    assert "no validation split" in result.err


def test_overwrite(lcm, text):
    assert lcm("data", "build", text, "--out", "out").code == 0
    assert lcm("data", "build", text, "--out", "out", "--overwrite", "--validation", "0").code == 0
    assert list(Dataset.open("out").manifest.splits) == ["train"]


def test_the_sample_is_made_once(lcm, sample, monkeypatch):
    monkeypatch.chdir(sample)
    before = (sample / "data" / "sample" / "dataset.json").stat()
    result = lcm("data", "sample", *SMALL, "--json")
    assert result.code == 0
    assert "nothing to do" in result.err
    assert json.loads(result.out)["made"] is False
    assert (sample / "data" / "sample" / "dataset.json").stat() == before
    for arguments in ([*SMALL, "--out", "data/sample"], [*SMALL, "--seed", "1"], []):
        result = lcm("data", "sample", *arguments)
        assert result.code == 2
        assert "--overwrite" in result.err


def test_what_the_sample_holds(lcm, sample):
    summary = json.loads(lcm("data", "info", sample / "data" / "sample", "--plan", "--json").out)
    train, validation = summary["splits"]["train"], summary["splits"]["validation"]
    assert train["documents"] + validation["documents"] == 555
    assert validation["documents"] == 59
    assert set(train["languages"]) == set(validation["languages"]) == {"eng_Latn", "jpn_Jpan"}
    assert summary["plan"]["fill"] >= 0.97
    assert summary["plan"]["row_length"] == 128
    assert lcm("verify", "data", sample / "data" / "sample").code == 0


def test_the_packaged_text_is_small():
    import lexalcm.data.sources

    resources = Path(lexalcm.data.sources.__file__).parent / "resources"
    assert sum(file.stat().st_size for file in resources.iterdir()) <= 1_500_000


def test_settings_of_the_plan(lcm, text):
    lcm("data", "build", text, "--out", "out", "--validation", "0")
    result = lcm("data", "info", "out", "--set", "data.row_length=8", "--set", "data.micro_batch=1", "--json")
    plan = json.loads(result.out)["plan"]
    assert plan == {
        "row_length": 8,
        "micro_batch": 1,
        "global_batch": 1,
        "rows": 2,  # three documents of three sentences and the end of text
        "fill": 12 / 16,
        "targets_per_step": 4.5,  # a row of two documents with three targets each, a row of one
        "imbalance": pytest.approx(1 / 3),  # 6 and 3 differ by 1.5 from their mean
        "steps_per_epoch": 2,
        "sets": [{"path": "out", "concepts": 12, "drawn": 12, "passes": 1.0, "share": 1.0}],
    }


def test_the_plan_of_a_mixture(lcm, text):
    lcm("data", "build", text, "--out", "out", "--validation", "0")
    sets = "data.sets=[{path: out, weight: 3, suffix: []}, {path: out, weight: 1}]"
    result = lcm("data", "info", "out", "--plan", "--set", sets)
    assert result.code == 0
    # of 21 concepts 3/4 and 1/4 are 5.25 documents of 3 and 1.3 of 4; the first epoch takes the whole ones
    assert "out: 78.9% of concepts, 1.67 passes an epoch" in result.out
    assert "out: 21.1% of concepts, 0.333 passes an epoch" in result.out
    wrong = lcm("data", "info", "out", "--plan", "--set", "data.sets=[{path: out, weight: 3}, {path: out}]")
    assert wrong.code == 2
    assert "give all a weight, or none" in wrong.err


def test_the_normalizer_of_a_mixture(lcm, text):
    lcm("data", "build", text, "--out", "out")
    assert lcm("data", "normalize", "out:4", "out:1", "-o", "mixed").code == 0
    assert set(load_file("mixed.safetensors")) == {"center", "scale"}
    refused = lcm("data", "normalize", "out", "out")
    assert refused.code == 2
    assert "--out" in refused.err


def test_normalize_refits(lcm, text):
    lcm("data", "build", text, "--out", "out")
    split = Dataset.open("out").split()
    concepts = np.concatenate([split.embeddings(i) for i in range(len(split))]).astype(np.float64)
    assert lcm("data", "normalize", "out", "--method", "standard", "--clip", "0.1").code == 0
    stats = load_file("out/normalizer.safetensors")
    np.testing.assert_allclose(stats["scale"], concepts.std(axis=0), rtol=1e-4)
    assert set(stats) == {"center", "scale", "clip_min", "clip_max"}
    assert Dataset.open("out").manifest.normalizer.method == "standard"
    assert lcm("verify", "data", "out").code == 0


@pytest.mark.parametrize("command", ["sample", "build", "normalize", "info"])
def test_every_command_has_examples(lcm, command):
    result = lcm("data", command, "--help")
    assert result.code == 0
    assert f"lcm data {command}" in result.out.split("Examples:")[1]


def one_line(result, *parts):
    """Exit code 2 and one line on stderr with all of the parts."""
    assert result.code == 2, result
    assert result.out == ""
    assert result.err.count("\n") == 1, result.err
    assert all(part in result.err for part in parts), result.err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"", "empty.txt is empty"),
        ("latin.txt", "Déjà vu.".encode("latin-1"), "latin.txt:1: not UTF-8"),
        ("dots.txt", b"...\n\n---\n", "no sentence"),
        ("bad.jsonl", b'{"text": "One. Two."}\n{"text"\n', "bad.jsonl:2: not valid JSON"),
        ("field.jsonl", b'{"body": "One. Two."}\n', "field.jsonl:1: no field 'text'"),
        ("lang.jsonl", b'{"text": "One.", "lang": "Englich"}\n', "did you mean eng_Latn (English)"),
        ("one.txt", b"Only one sentence.", "scale is zero"),
        ("what.pdf", b"%PDF", "cannot tell what"),
    ],
)
def test_text_that_cannot_be_used(lcm, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    one_line(lcm("data", "build", name, "--out", "out"), message)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--codec", "lsb"], "unknown codec 'lsb': did you mean lsa?"),
        (["--codec-option", "dimm=8"], "did you mean dim?"),
        (["--codec-option", "dim=x"], "dim"),
        (["--codec-option", "dim"], "key=value"),
        (["--validation", "1.5"], "validation"),
        (["--validation", "-0.1"], "validation"),
        (["--validation", "nan"], "validation"),
        (["--lang", "Klingon"], "unknown language 'Klingon'"),
        (["--shard-size", "many"], "is not a size"),
        (["--max-chars", "0"], "max_chars"),
        (["--dtype", "int8"], "dtype"),
    ],
)
def test_options_that_cannot_be_used(lcm, text, tmp_path, options, message):
    one_line(lcm("data", "build", text, "--out", "out", *options), message)
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_missing_paths_and_outputs_that_exist(lcm, text, tmp_path):
    one_line(lcm("data", "build", "nowhere.txt", "--out", "a/b"), "no such file or folder: nowhere.txt")
    (tmp_path / "folder").mkdir()
    one_line(lcm("data", "build", "folder", "--out", "a/b"), "folder holds no text")
    assert not (tmp_path / "a").exists()
    (tmp_path / "folder" / "precious").write_text("x")
    one_line(lcm("data", "build", text, "--out", "folder"), "--overwrite")
    one_line(lcm("data", "build", text, "--out", "folder", "--overwrite"), "does not replace")
    one_line(lcm("data", "build", text, "--out", text), "is a file")
    assert (tmp_path / "folder" / "precious").read_text() == "x"


def test_no_permission_to_write(lcm, text, tmp_path, monkeypatch):
    (tmp_path / "locked").mkdir(mode=0o500)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # what the system answers; it lets root do anything
    one_line(lcm("data", "build", text, "--out", "locked/out"), "no permission to write")


def test_folders_that_are_no_whole_data_set(lcm, text, tmp_path):
    for command in ("info", "normalize"):
        one_line(lcm("data", command, "nowhere"), "no data set in nowhere")
    lcm("data", "build", text, "--out", "out")
    shard = tmp_path / "out" / "train-000000.tar"
    content = shard.read_bytes()
    shard.write_bytes(content[:1000])
    one_line(lcm("data", "info", "out"), "train-000000.tar is truncated")
    shard.unlink()
    one_line(lcm("data", "info", "out"), "train-000000.tar is missing")
    shard.write_bytes(content)
    normalizer = tmp_path / "out" / "normalizer.safetensors"
    numbers = normalizer.read_bytes()
    normalizer.write_bytes(numbers[:-1] + bytes([numbers[-1] ^ 1]))
    for command in (("bootstrap", "--data", "out", "--out", "model"), ("data", "info", "out")):
        one_line(lcm(*command), "out/normalizer.safetensors is not the one that dataset.json notes")
    assert not (tmp_path / "model").exists()
    normalizer.write_bytes(numbers)
    one_line(lcm("data", "normalize", "out", "--quantiles", "0.9", "0.1"), "ascend")
    one_line(lcm("data", "normalize", "out", "--method", "rubost"), "method")
    one_line(lcm("data", "info", "out", "--set", "data.row_lenght=8"), "did you mean row_length?")
    one_line(lcm("data", "info", "out", "--set", "data.row_length=1"), "row_length must be at least 2")
