"""Finetuning on pairs, as a user types it: a source is read, its target alone is learnt."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from text_model_folder import make_text_model

from lexalcm.data.format.dataset import Dataset
from lexalcm.model import load_model

STEPS = 40
PAIRS = [
    {
        "id": str(number),
        "source": [f"We have {number} boats on the river.", "The children go to school.", "Who will pay for it?"][
            : 2 + number % 2
        ],
        "target": [f"The answer is {thing}.", "That is all."][: 1 + number % 2],
    }
    for number, thing in enumerate(
        ["water", "peace", "money", "night", "music", "bread", "honour", "work", "war", "snow"]
    )
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    config = make_text_model(tmp_path / "models/text", "base") / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dropout": 0.0}))
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    return tmp_path


@torch.no_grad()
def mean_loss(model: str, split: str, *, everything: bool = False) -> float:
    """Of the concepts that a model is to learn, each document by itself, written out."""
    lcm = load_model(model).eval()
    documents = Dataset.open("data/pairs").split(split)
    losses: list[float] = []
    for number in range(len(documents)):
        concepts_LD = lcm.normalizer.normalize(torch.tensor(np.asarray(documents.embeddings(number), dtype=np.float32)))
        length = len(concepts_LD)
        document_BL, position_BL = torch.zeros(1, length, dtype=torch.int64), torch.arange(length)[None]
        prediction_LD = lcm(concepts_LD[None], document_BL, position_BL)[0]
        first = 1 if everything else documents.document(number)["source"]
        losses += [float(((prediction_LD[i - 1] - concepts_LD[i]) ** 2).sum()) for i in range(first, length)]
    return float(np.mean(losses))


def test_only_targets_are_learnt(lcm: Callable, here: Path) -> None:
    """All documents fit into one row, so that every step's loss is that of all of them."""
    assert lcm("data", "build", "pairs.jsonl", "--codec", "models/text", "--out", "data/pairs").code == 0
    settings = ["data.row_length=64", "data.micro_batch=1", "data.end_of_text=false", "train.samples.every=0"]
    settings += ["train.warmup_steps=0", "train.log_every=1", "train.lr=0.003"]
    words = ["train", "--model", "models/text", "--data", "data/pairs", "--name", "tuned", "--steps", STEPS]
    done = lcm(*words, *(word for setting in settings for word in ("--set", setting)))
    assert done.code == 0, done.err
    lines = [json.loads(line) for line in Path("runs/tuned/metrics.jsonl").read_text().splitlines()]
    before = mean_loss("models/text", "train")
    assert lines[0]["loss"] == pytest.approx(before, rel=1e-4)
    assert lines[0]["loss"] != pytest.approx(mean_loss("models/text", "train", everything=True), rel=0.01)
    assert lines[-1]["validation_loss"] == pytest.approx(mean_loss("runs/tuned", "validation"), rel=1e-4)
    assert mean_loss("runs/tuned", "train") < 0.5 * before
    answer = lcm("infer", "We have 3 boats on the river. The children go to school.", "--model", "runs/tuned", "-n", 1)
    assert answer.code == 0
    assert answer.out.strip()
