"""A sampler of another package, the documentation's example, from its installation to what commands do with it."""

import json
import math
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from evaluation_workspace import make_text_dataset

from lexalcm.diffusion.guidance import unguided
from lexalcm.diffusion.samplers import Calls, dry_run
from lexalcm.diffusion.schedule import DiffusionSettings, NoiseSchedule
from lexalcm.registries import SAMPLERS

DOCS = Path(__file__).parents[2] / "docs" / "extending.md"
TEXT = "The cat sees the dog in the garden. The dog finds the river in the train."


@pytest.fixture
def site(install):
    return install("heun_sampler", "samplers", heun="HEUN")


@pytest.fixture
def model(lcm, site, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_text_dataset(tmp_path / "data")
    assert lcm("bootstrap", "--preset", "two-tower-tiny", "--data", "data", "--out", "model").code == 0
    return "model"


def test_texts_are_written_with_it(lcm, model):
    line = ("infer", TEXT, "--model", model, "-n", 2, "--steps", 3)
    result = lcm(*line, "--sampler", "heun", "--json")
    assert result.code == 0, result.err
    written = json.loads(result.out)
    assert written["options"]["sampler"] == "heun"
    assert len(written["sentences"]) >= 1
    assert "heun in 3 steps" in lcm(*line, "--sampler", "heun").err
    other = json.loads(lcm(*line, "--sampler", "ddim", "--json").out)
    assert other["sentences"][0]["norm"] != pytest.approx(written["sentences"][0]["norm"], rel=1e-6)


def test_a_model_is_evaluated_with_it(lcm, model):
    result = lcm("evaluate", model, "--data", "data", "--limit", 2, "--sampler", "heun", "--steps", 3, "--json")
    assert result.code == 0, result.err
    row = json.loads(result.out)["rows"][0]
    assert row["settings"]["generation"].items() >= {"sampler": "heun", "steps": 3}.items()


def test_the_pages_show_it(lcm, model):
    result = lcm("visualize", "schedule", "--schedule", "cosine", "--steps", 4, "--out", "schedule", "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert list(found["steps"]["cosine"]) == ["DDIM", "DPM-Solver++", "Heun"]
    assert found["steps"]["cosine"]["Heun"] == [99, 74, 49, 24]
    assert found["evaluations"]["cosine"] == {"DDIM": 4, "DPM-Solver++": 4, "Heun": 7}  # no corrector in the last step
    page = Path("schedule/index.html").read_text()
    assert "Heun: second order, even steps of time, 7 network evaluations." in page
    assert "Heun on the cosine schedule, step by step" in page

    line = ("visualize", "generation", TEXT, "--model", model, "--samples", 2, "--sentences", 1, "--sampler", "heun")
    result = lcm(*line, "--steps", 4, "--out", "generation", "--json")
    assert result.code == 0, result.err
    for trajectory in json.loads(result.out)["trajectories"]:
        assert trajectory["timesteps"] == [99, 74, 49, 24]
        assert len(trajectory["squared_l2"]) == 4
    assert "with heun in\n4 steps" in Path("generation/index.html").read_text()


def test_help_lists_it(site):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(site), *sys.path]), "COLUMNS": "100"}
    for command in (["infer"], ["visualize", "schedule"]):
        line = [sys.executable, "-m", "lexalcm", *command, "--help"]
        result = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120, check=True)
        assert "ddim, dpm-solver++, heun" in " ".join(result.stdout.replace("│", " ").split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sampler", "huen"], "unknown sampler 'huen': did you mean heun?"),
        (["--sampler", "heun", "--eta", "0.5"], "eta=0.5: heun adds no noise"),
        (["--sampler", "heun", "--steps", "101"], "101 denoising steps: this model was trained with 100"),
    ],
)
def test_mistakes_are_one_line(lcm, model, arguments, message):
    for command in (["infer", TEXT, "--model", model], ["evaluate", model, "--data", "data"]):
        result = lcm(*command, *arguments)
        assert (result.code, result.out) == (2, "")
        assert message in result.err
        assert result.err.count("\n") == 1


def test_it_is_gone_with_its_package(lcm, model, site, monkeypatch):
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(site)])
    result = lcm("infer", TEXT, "--model", model, "--sampler", "heun")
    assert result.code == 2
    assert "unknown sampler 'heun'" in result.err


def test_it_is_of_second_order(site):
    """Twice the steps, a quarter of the error, where the probability flow is known: noise z becomes 1.5 + 0.5 z.

    On a schedule with even angles, so that steps are as long as they are many.
    """
    angles = torch.arange(1, 2001, dtype=torch.float64) / 2000 * math.pi / 2
    schedule = NoiseSchedule(DiffusionSettings(steps=2000), angles.cos() ** 2)
    sampler, noise = SAMPLERS.load("heun"), torch.linspace(-2, 2, 9, dtype=torch.float64)

    def network(x_t: torch.Tensor, timestep: int) -> torch.Tensor:  # the mean of x_0 given x_t
        alpha, sigma = schedule.alpha_sigma(timestep)
        return 1.5 + alpha * 0.25 / (alpha**2 * 0.25 + sigma**2) * (x_t - alpha * 1.5)

    errors = []
    for steps in (10, 20, 40, 80):
        result = sampler.sample(unguided(network, schedule), noise, schedule, sampler.timesteps(steps, schedule))
        errors.append(float((result - (1.5 + 0.5 * noise)).abs().max()))
    assert [before / after for before, after in pairwise(errors)] == pytest.approx([4, 4, 4], rel=0.03)
    assert dry_run(sampler, schedule, [1999, 999, 499]) == Calls([1999, 999, 999, 499, 499], 0)


def test_the_documentation_shows_the_example():
    example = (Path(__file__).parents[1] / "extensions" / "heun_sampler.py").read_text(encoding="utf-8")
    assert f"```python\n{example}```" in DOCS.read_text(encoding="utf-8")
