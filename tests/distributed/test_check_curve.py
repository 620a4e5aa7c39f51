"""`tools.check_curve`: every engine, with and without activation checkpointing, gives one loss curve."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tools.check_curve import ROOT, compare, differences

STEPS = 30


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess]:
    folder = tmp_path_factory.mktemp("curves")
    command = [sys.executable, "-m", "tools.check_curve", "--steps", str(STEPS), "--keep", str(folder)]
    return folder, subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


def test_all_engines_give_one_curve(curves: tuple[Path, subprocess.CompletedProcess]) -> None:
    folder, done = curves
    assert done.returncode == 0, done.stdout + done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    assert line["passed"]
    assert line["largest"] <= line["tolerance"] == 1e-4
    assert {f"{engine} x2" for engine in ("ddp", "fsdp", "zero0", "zero1", "zero2", "zero3")} <= set(line["runs"])
    losses = [json.loads(text)["loss"] for text in (folder / "runs/single/metrics.jsonl").read_text().splitlines()]
    assert len(losses) == STEPS
    assert losses[-1] < losses[0]  # something is learnt


def test_a_weight_that_differs_fails(curves: tuple[Path, subprocess.CompletedProcess]) -> None:
    folder, _ = curves
    file = folder / "runs/ddp x2/model/model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if name.endswith("ffn.gate_proj.weight"))
    largest = np.abs(weights[name]).max()
    weights[name][0, 0] += 0.01 * largest
    save_file(weights, file)
    assert differences(folder / "runs/single", folder / "runs/ddp x2")[1] == pytest.approx(0.01, rel=0.05)
    assert compare(folder)["passed"] is False
