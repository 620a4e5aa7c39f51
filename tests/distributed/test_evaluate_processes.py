"""Processes that torchrun starts share the documents of an evaluation; the report is that of one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from evaluation_workspace import make_text_dataset, make_text_model

from lexalcm.evaluate.run.models import evaluate
from lexalcm.evaluate.settings import EvaluationSettings


def numbers(tree):
    """All numbers of a report, in order."""
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, list):
        return [number for branch in tree for number in numbers(branch)]
    return [tree] if isinstance(tree, int | float) else []


def test_two_processes_write_the_report_of_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset = make_text_dataset(tmp_path / "data")
    make_text_model(tmp_path / "model", dataset)
    settings = EvaluationSettings(metrics=("embedding",), batch=20, resamples=100)
    evaluate(["model"], "data", settings, out=[Path("one.json")])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "lexalcm"]
    options = ["--data", "data", "--metrics", "embedding", "--batch", "20", "--resamples", "100", "--out", "two.json"]
    result = subprocess.run(
        [*command, "evaluate", "model", *options],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("contrastive accuracy: ") == 3  # one process speaks
    one, two = (json.loads(Path(name).read_text()) for name in ("one.json", "two.json"))
    assert numbers(one) == pytest.approx(numbers(two), rel=1e-5, abs=1e-7)  # torch may have used several threads
    assert len(numbers(one)) > 300
    assert one["dataset"]["batches"] > 2
    assert not Path("two.json.unfinished").exists()
