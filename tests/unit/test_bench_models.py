"""The models' benchmarks print what they measured; what they measure against is the published work."""

import json
import subprocess
import sys

import pytest
import torch
from tiny_models import CONFIGS, DIM, lively_model

from lexalcm.generate.options import GenerationOptions
from lexalcm.model import ModelConfig, TwoTowerLCM
from lexalcm.model.create import meta_model
from lexalcm.model.flops import forward_flops
from tools.published_work import PublishedWork


def test_a_training_step_is_measured() -> None:
    command = [sys.executable, "-m", "tools.bench_train_step", "--rows", "1", "--length", "4", "--steps", "1"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    line = json.loads(printed.splitlines()[-1])
    assert line["parameters"] == 50_039_296
    assert line["concepts_per_s"] == pytest.approx(4 / line["seconds"], rel=0.01)
    assert line["matrix_gflops"] > 0


def test_generation_is_measured() -> None:
    command = [sys.executable, "-m", "tools.bench_generate", "--batches", "1", "--steps", "2", "--repeats", "1"]
    command += ["--text-preset", "two-tower-tiny", "--text-prompts", "3", "--text-sentences", "1"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    line = json.loads(printed.splitlines()[-1])
    assert line["seconds"]["1"] > 0
    assert line["speedup"]["1"] > 0
    assert line["text"]["first_sentence_seconds"]["warm"] > 0
    assert line["text"]["sentences_per_s"]["together"] > 0


def test_the_published_work_makes_concepts_of_the_right_shape() -> None:
    model = lively_model("two-tower")
    assert isinstance(model, TwoTowerLCM)
    concepts = PublishedWork(model, GenerationOptions(sampler="ddim", steps=3)).next_concept(torch.randn(2, 4, DIM))
    assert concepts.shape == (2, 1, DIM)
    assert concepts.isfinite().all()


@pytest.mark.parametrize("architecture", CONFIGS)
def test_multiplications_are_those_of_the_weights_and_attention(architecture: str) -> None:
    """Without attention, every position goes once through every weight matrix; a one-tower's concept twice."""
    sizes = {"dim": 96, "width": 64, "num_heads": 4, "ffn_dim": 128, "num_layers": 3}
    towers = {"context_layers": 2} if architecture == "two-tower" else {}
    config = ModelConfig(architecture=architecture, **sizes, **towers)
    positions = 10
    counted = forward_flops(config, positions, 0) / 2
    matrices = _matrix_parameters(config)
    if architecture == "base":
        expected = positions * matrices["all"]
    elif architecture == "one-tower":
        times = matrices["time"]
        layers_and_projections = 2 * positions * (matrices["all"] - times - 96 * 64) + positions * 96 * 64
        expected = layers_and_projections + 101 * times
    else:
        expected = positions * (matrices["all"] - matrices["time"]) + 100 * matrices["time"]
    assert counted == expected
    longer = forward_flops(config, positions, 8) / 2 - counted
    layers = {"base": 3, "one-tower": 6, "two-tower": 5}[architecture]
    assert longer == positions * layers * 64 * 8


def _matrix_parameters(config: ModelConfig) -> dict[str, int]:
    """Numbers in weight matrices: all, and those that a timestep and not a position goes through."""
    matrices = {name: weight.numel() for name, weight in meta_model(config).named_parameters() if weight.ndim == 2}
    time = sum(count for name, count in matrices.items() if "time_" in name or "modulator" in name)
    return {"all": sum(matrices.values()), "time": time}
