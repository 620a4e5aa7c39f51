"""The whole path on a slice of the packaged text: build, bootstrap, train, infer, as a user types it."""

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors import safe_open

from lexalcm.data.sources.corpus import Source, read_documents
from lexalcm.data.sources.sample import packaged_text

TINY = ["--set", "model.width=64", "--set", "model.ffn_dim=128", "--set", "model.num_layers=2"]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a data set `data` (about 900 sentences), models `base` and `two`, and their short runs."""
    folder = tmp_path_factory.mktemp("path")
    with packaged_text() as path:
        documents = list(read_documents([Source(path, path.name)]))[::25]
    lines = [json.dumps({"id": d.id, "lang": d.lang, "title": d.title, "text": d.text}) for d in documents]
    (folder / "text.jsonl").write_text("\n".join(lines), encoding="utf-8")
    before = Path.cwd()
    os.chdir(folder)
    try:
        run("data", "build", "text.jsonl", "--out", "data")
        for name, preset in (("base", "base-tiny"), ("two", "two-tower-tiny")):
            run("bootstrap", "--data", "data", "--preset", preset, "--out", f"models/{name}", *TINY)
            run("train", "--data", "data", "--model", f"models/{name}", "--steps", 8, "--set", "train.warmup_steps=2")
        yield folder
    finally:
        os.chdir(before)


def run(*arguments: object) -> None:
    import sys

    from lexalcm.cli import app

    sys.argv = ["lcm", *map(str, arguments)]
    with pytest.raises(SystemExit) as end:
        app.main()
    assert not end.value.code, arguments


def test_a_trained_model_continues_a_text(lcm: Callable, workplace: Path) -> None:
    for model in ("runs/base", "runs/two"):
        result = lcm("infer", "We must do more for our schools.", "--model", model, "-n", 3)
        assert result.code == 0
        assert 1 <= len(result.out.splitlines()) <= 3
        assert "stopped:" in result.err


def test_a_continuation_says_nothing_twice(lcm: Callable, workplace: Path) -> None:
    for model in ("runs/base", "runs/two"):
        answer = json.loads(lcm("infer", "We must do more for our schools.", "--model", model, "-n", 20, "--json").out)
        texts = [sentence["text"] for sentence in answer["sentences"]]
        assert len(set(texts)) == len(texts) > 1
        assert answer["stop"] in ("length", "repetition", "end of text")


def test_the_newest_run_is_the_default(lcm: Callable, workplace: Path) -> None:
    result = lcm("infer", "We must do more for our schools.", "--json")
    assert json.loads(result.out)["model"] == "runs/two/model"


def test_same_seed_same_text(lcm: Callable, workplace: Path) -> None:
    line = ["infer", "The world is at peace. The budget grows.", "--model", "runs/two", "--json", "--seed"]
    first, again, other = (json.loads(lcm(*line, seed).out) for seed in (3, 3, 4))
    assert first == again
    assert [s["norm"] for s in first["sentences"]] != [s["norm"] for s in other["sentences"]]


def test_options_reach_the_sampler(lcm: Callable, workplace: Path) -> None:
    line = ["infer", "Peace.", "--model", "runs/two", "--json", "--steps", 7, "--guidance", 1.5, "--sentences", 2]
    answer = json.loads(lcm(*line).out)
    assert answer["options"]["steps"] == 7
    assert answer["options"]["guidance_scale"] == 1.5
    assert len(answer["sentences"]) <= 2


def test_japanese_is_read_and_written(lcm: Callable, workplace: Path) -> None:
    prompt = "そのころわたくしは、モリーオ市の博物局に勤めて居りました。十八等官でした。"
    answer = json.loads(lcm("infer", prompt, "--model", "runs/two", "--json").out)
    assert answer["lang"] == "jpn_Jpan"
    assert len(answer["prompt"]) == 2
    for sentence in answer["sentences"]:
        assert any("\u3041" <= char <= "\u30ff" or "\u4e00" <= char <= "\u9fff" for char in sentence["text"])


def test_a_prompt_comes_from_standard_input(
    lcm: Callable, workplace: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "prompt").write_text("One sentence here. And another one.\n", encoding="utf-8")
    with (tmp_path / "prompt").open() as prompt:
        monkeypatch.setattr("sys.stdin", prompt)
        answer = json.loads(lcm("infer", "-", "--json").out)
    assert answer["prompt"] == ["One sentence here.", "And another one."]


def test_each_guesses_every_sentence_but_the_first(lcm: Callable, workplace: Path) -> None:
    prompt = ["We must act.", "Our schools need help.", "Taxes must fall.", "Peace is near."]
    answer = json.loads(lcm("infer", "--each", "--json", *prompt).out)
    assert [guess["actual"] for guess in answer["guesses"]] == prompt[1:]
    assert all(-1 <= guess["cosine"] <= 1 and guess["squared_l2"] > 0 for guess in answer["guesses"])
    table = lcm("infer", "--each", *prompt)
    assert table.code == 0
    assert "guess" in table.out


def test_bootstrap_says_what_it_made(lcm: Callable, workplace: Path, tmp_path: Path) -> None:
    answer = json.loads(lcm("bootstrap", "--data", "data", "--out", tmp_path / "m", "--json", *TINY).out)
    assert answer["total"] == sum(answer["parameters"].values())
    table = lcm("bootstrap", "--data", "data", "--out", tmp_path / "n", *TINY)
    assert f"{answer['total']:,}" in table.out


def test_bootstrap_is_decided_by_its_seed(lcm: Callable, workplace: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert lcm("bootstrap", "--data", "data", "--out", tmp_path / name, "--seed", seed, *TINY).code == 0
    weights = {name: (tmp_path / name / "model.safetensors").read_bytes() for name in "abc"}
    assert weights["a"] == weights["b"]
    assert weights["a"] != weights["c"]


def test_the_default_model_folder_is_made_once(lcm: Callable, workplace: Path) -> None:
    line = ["bootstrap", "--data", "data", "--preset", "base-tiny", *TINY]
    made = Path("models/base/model.safetensors").stat().st_mtime_ns
    again = lcm(*line)
    other = lcm(*line, "--seed", 5)
    assert (again.code, other.code) == (0, 2)
    assert "nothing to do" in again.err
    assert "exists already: add --overwrite" in other.err
    assert Path("models/base/model.safetensors").stat().st_mtime_ns == made


REFERENCE = Path(__file__).parents[1] / "data" / "reference_lcm"


def test_a_published_checkpoint_becomes_a_model_folder(lcm: Callable, workplace: Path, tmp_path: Path) -> None:
    """The reference config says how many heads; the parameters are the published ones less the queries and keys."""
    line = ["bootstrap", "--from-fairseq2", REFERENCE / "two_tower_weights.safetensors"]
    answer = json.loads(lcm(*line, "--config", REFERENCE / "config.json", "--out", tmp_path / "meta", "--json").out)
    with safe_open(REFERENCE / "two_tower_weights.safetensors", "np") as published:
        kept = [
            name
            for name in published.keys()  # noqa: SIM118  no mapping
            if not re.search(r"denoiser.*self_attn\.[qk]_proj|normalizer", name)
        ]
        assert answer["total"] == sum(published.get_tensor(name).size for name in kept)
    assert lcm("verify", "model", tmp_path / "meta").code == 0
    again = lcm(*line, "--config", REFERENCE / "config.json", "--out", tmp_path / "meta")
    assert "exists already: add --overwrite" in again.err


def test_presets_are_listed_with_counts(lcm: Callable) -> None:
    counts = json.loads(lcm("bootstrap", "--list", "--json").out)
    assert counts["base-1.6b"] == 1_649_185_792  # published
    assert "two-tower-tiny" in lcm("bootstrap", "--list").out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("infer ... ", "the prompt has no sentence"),
        ("infer --each Alone.", "at least two sentences"),
        ("infer Hello. --model models/none", "no such model: models/none"),
        ("infer Hello. --model data", "no config.json"),
        ("infer Hello. --lang klingon", "unknown language"),
        ("infer Hello. --lang deu_Latn", "no sentence in deu_Latn"),
        ("bootstrap --data data --preset two-tower-tinny --out models/new", "did you mean two-tower-tiny"),
        ("bootstrap --data nowhere --out models/new", "nowhere"),
        ("bootstrap --data data --out models/base", "exists already: add --overwrite"),
        ("bootstrap --data data --out data --overwrite", "holds no config.json"),
        ("bootstrap --data data --out models/new --set model.num_layer=3", "did you mean num_layers"),
        ("bootstrap --data data --out models/new --set model.num_layers=many", "model.num_layers"),
        ("bootstrap --data data --out models/new --set train.lr=1", "only model.*"),
        ("bootstrap --data data --out models/new --set model.num_heads=7", "does not divide"),
        ("bootstrap --from-fairseq2 none.pt --out models/new", "none.pt"),
        ("bootstrap --from-fairseq2 none.pt --preset base-tiny --out models/new", "a checkpoint has its own sizes"),
        ("bootstrap --from-fairseq2 text.jsonl --out models/new", "text.jsonl"),
        (f"bootstrap --from-fairseq2 {REFERENCE}/base_weights.safetensors --out models/new", "heads"),
    ],
)
def test_mistakes_cost_one_line_and_leave_nothing(lcm: Callable, workplace: Path, line: str, message: str) -> None:
    result = lcm(*line.split())
    assert result.code == 2
    assert message in result.err
    assert len([text for text in result.err.splitlines() if text.startswith("lcm:")]) == 1
    assert not Path("models/new").exists()
    assert not list(Path("models").glob(".*"))
