"""Pictures of noise schedules show the published formulas, and the timesteps that samplers really take."""

import math
from itertools import pairwise

import numpy as np
import pytest
from tiny_models import CONFIGS

from lexalcm.diffusion.schedule import DiffusionSettings, NoiseSchedule
from lexalcm.errors import ConfigError, UserError
from lexalcm.model import create_model
from lexalcm.pages import schedule_figures as figures
from lexalcm.pages.schedule_report import report_schedule

T = 100


def cosine_alphas():
    """alpha of the cosine schedule (arXiv 2102.09672, eq. 17; betas up to 0.999), last timestep rescaled to nothing."""
    signal = [math.cos((i / T + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(T + 1)]
    betas = [min(1 - after / before, 0.999) for before, after in pairwise(signal)]
    alphas = np.sqrt(np.cumprod(1 - np.array(betas)))
    return (alphas - alphas[-1]) * alphas[0] / (alphas[0] - alphas[-1])


def test_curves_are_the_published_schedule_and_their_axes_are_named():
    schedules = {"cosine": NoiseSchedule(DiffusionSettings())}
    [axes] = figures.noise_schedule(schedules).axes
    alpha, sigma = (line.get_xydata() for line in axes.lines)
    assert alpha[:, 0].tolist() == list(range(T))
    assert alpha[:, 1] == pytest.approx(cosine_alphas(), abs=2e-4)
    assert sigma[:, 1] == pytest.approx(np.sqrt(1 - cosine_alphas() ** 2), abs=2e-3)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("timestep (noise increases →)", "coefficient")
    [axes] = figures.log_snr(schedules).axes
    curve = axes.lines[0].get_xydata()
    assert curve[:, 0].tolist() == list(range(T - 1))  # the last timestep has none
    alphas = cosine_alphas()[:-1]
    assert curve[:, 1] == pytest.approx(np.log(alphas**2 / (1 - alphas**2)), abs=0.01)
    assert axes.get_ylabel() == "log-SNR, ln(α²/σ²)"


def test_marks_lie_on_the_curve_at_the_timesteps_taken():
    schedule = NoiseSchedule(DiffusionSettings())
    [axes] = figures.sampler_timesteps(schedule, {"DDIM": [99, 74, 49, 24], "other": [99, 3]}).axes
    curve, ddim, other = (line.get_xydata() for line in axes.lines)
    values = dict(curve)
    assert ddim[:, 0].tolist() == [99, 74, 49, 24]
    assert ddim[1:, 1].tolist() == [values[timestep] for timestep in (74, 49, 24)]
    assert other[1].tolist() == [3, values[3]]
    assert ddim[0, 1] < curve[:, 1].min()  # pure noise, at the bottom
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["DDIM, 4 steps", "other, 2 steps"]


def test_report_of_all_schedules_and_of_one(tmp_path):
    result = report_schedule(tmp_path / "all", sampler="ddim", steps=4)
    assert list(result["alphas_cumprod"]) == ["cosine", "quadratic", "sigmoid"]
    assert result["alphas_cumprod"]["cosine"] == pytest.approx(cosine_alphas() ** 2, abs=2e-4)
    assert result["steps"]["cosine"] == {"DDIM": [99, 74, 49, 24]}  # even steps of time, from the last one down
    assert len(result["files"]) == 6
    rows = {row["name"]: row for row in result["schedules"]}
    assert rows["cosine"]["last_log_snr"] is None
    # sigmoid: as much noise as concept halfway
    assert abs(rows["sigmoid"]["even"] - T / 2) <= 1
    one = report_schedule(tmp_path / "one", schedule="sigmoid", overrides=["diffusion.steps=40"], format="svg")
    assert list(one["alphas_cumprod"]) == ["sigmoid"]
    assert len(one["alphas_cumprod"]["sigmoid"]) == 40
    assert list(one["steps"]["sigmoid"]) == ["DDIM", "DPM-Solver++"]
    assert "sampler_timesteps_sigmoid.svg" in one["files"]


def test_report_of_a_models_schedule_and_its_own_steps(tmp_path):
    diffusion = DiffusionSettings(schedule="quadratic", steps=50, loss_weighting="clamped-snr")
    model = create_model(CONFIGS["two-tower"].model_copy(update={"diffusion": diffusion}), seed=0)
    model.generation_config = {"sampler": "ddim", "steps": 5, "eta": 0.5}
    model.save_pretrained(tmp_path / "model")
    result = report_schedule(tmp_path / "out", model=str(tmp_path / "model"))
    assert result["steps"]["quadratic"]["DDIM"] == [49, 39, 29, 19, 9]
    assert len(result["steps"]["quadratic"]["DPM-Solver++"]) == 5
    assert "loss_weights_quadratic.png" in result["files"]


def test_mistakes_are_said(tmp_path):
    create_model(CONFIGS["base"], seed=0).save_pretrained(tmp_path / "base")
    with pytest.raises(UserError, match="is a base model: it denoises nothing"):
        report_schedule(tmp_path / "out", model=str(tmp_path / "base"))
    with pytest.raises(ConfigError, match="diffusion"):
        report_schedule(tmp_path / "out", overrides=["diffusion.step=3"])
    with pytest.raises(UserError, match="trained with 100"):
        report_schedule(tmp_path / "out", steps=101)
    assert not (tmp_path / "out").exists()
