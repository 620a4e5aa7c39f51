"""An objective of another package, the documentation's example, from its installation to the trained model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_workspace import make_text_dataset

from lexalcm.data.format.dataset import Dataset
from lexalcm.model import load_model

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "extending.md"


@pytest.fixture
def train(lcm, install, tmp_path, monkeypatch):
    """`lcm train` of a small base model, with the objective's package installed."""
    install("cosine", "objectives", cosine="Cosine")
    monkeypatch.chdir(tmp_path)
    make_text_dataset(tmp_path / "data")
    sizes = ["model.width=32", "model.ffn_dim=32", "model.num_layers=1", "model.num_heads=2", "model.dropout=0"]
    for name in ("base", "two-tower"):
        changes = [word for size in sizes for word in ("--set", size)]
        made = lcm("bootstrap", "--preset", f"{name}-tiny", "--data", "data", "--out", name, *changes)
        assert made.code == 0, made.err

    def train(*arguments, model="base", name="run"):
        settings = ["train.samples.every=0", "data.end_of_text=false", "train.warmup_steps=0", "train.log_every=1"]
        settings += ["train.schedule=constant", "data.row_length=32"]
        words = [word for setting in settings for word in ("--set", setting)]
        return lcm("train", "--data", "data", "--model", model, "--name", name, *words, *arguments)

    return train


def losses(name):
    return [json.loads(line)["loss"] for line in Path(f"runs/{name}/metrics.jsonl").read_text().splitlines()]


@torch.no_grad()
def mean_cosine_distance(name):
    """Of the exported model's guesses to what follows, one document of the validation split at a time."""
    model = load_model(f"runs/{name}").eval()
    split, distances = Dataset.open("data").split("validation"), []
    for number in range(len(split)):
        concepts = model.normalizer.normalize(torch.tensor(np.asarray(split.embeddings(number), np.float32)))
        places = torch.arange(len(concepts))[None]
        guesses = model(concepts[None], torch.zeros_like(places), places)[0].double().numpy()
        for guess, concept in zip(guesses, concepts.double().numpy()[1:], strict=False):
            distances.append(1 - guess @ concept / np.linalg.norm(guess) / np.linalg.norm(concept))
    return np.mean(distances)


def test_it_is_what_a_training_makes_small(train):
    done = train("--set", "train.objective=cosine", "--steps", 30, "--json")
    assert done.code == 0, done.err
    assert losses("run")[-1] < losses("run")[0] < 2  # no cosine distance is more
    assert json.loads(done.out)["validation_loss"] == pytest.approx(mean_cosine_distance("run"), rel=1e-4)
    again = train("--steps", 1, name="squared")
    assert again.code == 0, again.err
    assert losses("squared")[0] > 2


def test_a_run_goes_on_with_it_and_with_no_other(train):
    for name, steps in (("whole", 6), ("parts", 3), ("parts", 6)):
        done = train("--objective", "cosine", "--steps", steps, name=name)
        assert done.code == 0, done.err
    assert losses("parts") == losses("whole")
    assert "objective: cosine" in Path("runs/parts/config.yaml").read_text()
    other = train("--objective", "squared_l2", "--steps", 9, name="parts")
    assert other.code == 2
    assert "was started with train.objective = cosine, not squared_l2" in other.err


@pytest.mark.parametrize(
    ("model", "objective", "says"),
    [
        ("base", "cosin", "unknown objective 'cosin': did you mean cosine?"),
        ("two-tower", "cosine", "train.objective is cosine, which trains models that predict the next concept"),
        ("base", "diffusion", "train.objective is diffusion, which trains models that denoise"),
    ],
)
def test_one_that_cannot_be_is_refused_in_one_line(train, model, objective, says):
    result = train("--objective", objective, model=model)
    assert result.code == 2
    assert says in result.err
    assert len(result.err.splitlines()) == 1
    assert not Path("runs").exists()


def test_memory_is_planned_with_it(train):
    planned = [train("--plan", "--objective", name, "--json") for name in ("squared_l2", "cosine")]
    assert [one.code for one in planned] == [0, 0], planned[1].err
    activations = [json.loads(one.out)["estimates"][0]["activations"] for one in planned]
    assert activations[0] != activations[1]


def test_the_help_lists_it(install):
    path = os.pathsep.join([str(install("cosine", "objectives", cosine="Cosine")), str(ROOT)])
    line = [sys.executable, "-m", "lexalcm", "train", "--help"]
    shown = subprocess.run(
        line, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=True
    ).stdout
    assert all(name in shown for name in ("squared_l2", "diffusion", "cosine"))


def test_the_documentation_shows_the_example():
    example = (Path(__file__).parents[1] / "extensions" / "cosine.py").read_text(encoding="utf-8")
    assert f"```python\n{example}```" in DOCS.read_text(encoding="utf-8")
