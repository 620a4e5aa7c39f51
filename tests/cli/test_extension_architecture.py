"""An architecture of another package, the documentation's example, from its installation to its picture."""

import json
from pathlib import Path

import pytest
import torch
from evaluation_workspace import make_text_dataset

from lexalcm.generate.autoregressive import generate
from lexalcm.generate.options import GenerationOptions
from lexalcm.generate.predictor import prepare
from lexalcm.model import load_model

DOCS = Path(__file__).parents[2] / "docs" / "extending.md"
DIM, WIDTH, FFN, LAYERS = 1024, 256, 512, 2
PARAMETERS = 4 * DIM * WIDTH + WIDTH + LAYERS * (2 * WIDTH * FFN + FFN + 2 * WIDTH) + WIDTH * DIM + DIM
"""Of the preset: input projection of four concepts, layers with their norms, output projection."""


@pytest.fixture
def ngram(lcm, install, tmp_path, monkeypatch):
    """A small model of the architecture, and its data, with its package installed."""
    install("ngram", "architectures", ngram="NgramLCM")
    monkeypatch.chdir(tmp_path)
    make_text_dataset(tmp_path / "data")
    made = lcm("bootstrap", "--preset", "ngram-tiny", "--data", "data", "--out", "model", "--set", "model.dropout=0")
    assert made.code == 0, made.err


def test_its_presets_are_listed_and_near_names_are_told(lcm, install):
    install("ngram", "architectures", ngram="NgramLCM")
    assert json.loads(lcm("bootstrap", "--list", "--json").out)["ngram-tiny"] == PARAMETERS
    refused = lcm("visualize", "model", "ngram-tin", "--out", "report")
    assert refused.code == 2
    assert "did you mean ngram-tiny" in refused.err


def test_it_trains_writes_and_is_evaluated(lcm, ngram):
    settings = ["train.samples.every=0", "train.warmup_steps=0", "train.log_every=1", "train.peak_tflops=1"]
    words = [word for setting in settings for word in ("--set", setting)]
    trained = lcm("train", "--data", "data", "--model", "model", "--name", "run", "--steps", 20, *words)
    assert trained.code == 0, trained.err
    lines = [json.loads(line) for line in Path("runs/run/metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert lines[-1]["mfu"] > 0
    written = lcm("infer", "A sentence.", "Another one.", "-m", "runs/run", "-n", 2, "--stop-similarity", 1, "--json")
    assert written.code == 0, written.err
    assert len(json.loads(written.out)["sentences"]) == 2
    scored = lcm("evaluate", "runs/run", "--data", "data", "--json")
    assert scored.code == 0, scored.err
    refused = lcm("infer", "A sentence.", "-m", "runs/run", "--samples", 2)
    assert refused.code == 2
    assert "a ngram model draws no noise" in refused.err


def test_its_memory_is_planned_and_its_picture_drawn(lcm, ngram):
    planned = lcm("train", "--plan", "--data", "data", "--model", "model", "--gpu-memory", "24GB", "--json")
    assert planned.code == 0, planned.err
    assert json.loads(planned.out)["estimates"]
    drawn = lcm("visualize", "model", "ngram-tiny", "--out", "report", "--format", "svg", "--json")
    assert drawn.code == 0, drawn.err
    result = json.loads(drawn.out)
    assert result["total"] == PARAMETERS
    assert result["cached_numbers_per_concept"] == DIM
    matrices = 4 * DIM * WIDTH + LAYERS * 2 * WIDTH * FFN + WIDTH * DIM
    assert result["training_flops_per_concept"] == 6 * matrices
    assert "last four concepts" in Path("report/index.html").read_text(encoding="utf-8")


def test_it_says_concept_by_concept_what_it_says_of_whole_rows(ngram):
    model = load_model("model")
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randn(length, model.config.dim, generator=generator) for length in (1, 3, 7)]
    predictor = prepare(model, GenerationOptions())
    [following] = list(generate(predictor, texts, [0, 1, 2], 1))
    for text, concept in zip(texts, following, strict=True):
        places = torch.arange(len(text))[None]
        with torch.no_grad():
            guesses = model(model.normalizer.normalize(text)[None], torch.zeros_like(places), places)
        expected = model.normalizer.denormalize(guesses[0, -1])
        torch.testing.assert_close(concept, expected, rtol=1e-4, atol=1e-5)


def test_a_name_that_nothing_has_is_refused(lcm, ngram):
    config = json.loads(Path("model/config.json").read_text())
    Path("model/config.json").write_text(json.dumps({**config, "architecture": "ngrams"}))
    result = lcm("infer", "A sentence.", "-m", "model")
    assert result.code == 2
    assert "unknown architecture 'ngrams': did you mean ngram?" in result.err


def test_the_documentation_shows_the_example():
    example = (Path(__file__).parents[1] / "extensions" / "ngram.py").read_text(encoding="utf-8")
    assert f"```python\n{example}```" in DOCS.read_text(encoding="utf-8")
