"""The published implementations' numbers, on a copy of the reference folder."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lexalcm.diffusion.schedule import DiffusionSettings, NoiseSchedule
from lexalcm.errors import ConfigError, UserError
from lexalcm.model import TwoTowerLCM
from lexalcm.model.importers.fairseq2 import import_fairseq2
from tools.check_reference import (
    DRAWS,
    LAST_BIT,
    SCHEDULE_TOLERANCE,
    TOLERANCE,
    Check,
    check_generation,
    check_reference,
    check_towers,
    compare,
    move,
    moved_weights,
    read_options,
)

REFERENCE = Path(__file__).parents[1] / "data" / "reference_lcm"
PARTS = {
    "normalizer fit": 8,
    "normalizer,": 6,
    "schedule": 6,
    "base": 5,
    "two-tower": 11,
    "generation": 6,
    "training": 2,
}


@pytest.fixture(scope="module")
def checks() -> list[Check]:
    return list(check_reference(REFERENCE))


@pytest.mark.parametrize("part", PARTS)
def test_computes_what_the_published_code_computes(checks: list[Check], part: str) -> None:
    of_part = [check for check in checks if check.name.startswith(part)]
    assert len(of_part) == PARTS[part]
    assert [check for check in of_part if not check.passed] == []


@pytest.fixture
def two_tower() -> TwoTowerLCM:
    model = import_fairseq2(REFERENCE / "two_tower_weights.safetensors", REFERENCE / "config.json")
    assert isinstance(model, TwoTowerLCM)
    return model


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    return load_file(REFERENCE / "two_tower_tensors.safetensors")


@pytest.mark.parametrize("seed", range(DRAWS))
def test_the_last_bit_of_every_weight_stays_within_the_tolerance_of_one_pass(
    two_tower: TwoTowerLCM, tensors: dict[str, torch.Tensor], seed: int
) -> None:
    """And takes more than a hundredth of it: a tolerance much smaller would measure the processor."""
    errors = {check.name: check.error for check in check_towers(moved_weights(two_tower, seed), tensors)}
    assert all(error < TOLERANCE for error in errors.values()), errors
    assert errors["two-tower, denoised"] > TOLERANCE / 100


def test_rounding_every_factor_stays_within_the_tolerance_of_a_schedule() -> None:
    """And takes more than a tenth of it."""
    for schedule in ("cosine", "quadratic", "sigmoid"):
        table = NoiseSchedule(DiffusionSettings(schedule=schedule, zero_terminal_snr=False)).alphas_cumprod
        factors = torch.cat([table[:1], table[1:] / table[:-1]]).double()
        generator = torch.Generator().manual_seed(0)
        moved = [move(factors, LAST_BIT, generator).cumprod(0).float() for _ in range(200)]
        largest = max(compare("", other, table).error for other in moved)
        assert SCHEDULE_TOLERANCE / 10 < largest < SCHEDULE_TOLERANCE


@pytest.mark.parametrize("option", ["guidance_scale", "guidance_rescale", "epsilon_scaling"])
def test_options_a_thousandth_off_are_noticed(
    two_tower: TwoTowerLCM, tensors: dict[str, torch.Tensor], option: str
) -> None:
    settings = json.loads((REFERENCE / "config.json").read_text())["generation"]["guided"]
    check = next(check_generation(two_tower, tensors, {"guided": {**settings, option: 1.001 * settings[option]}}))
    assert check.error > 2 * check.tolerance


def run_tool(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.check_reference", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, cwd=REFERENCE.parents[2], check=False)


def test_tool_fails_on_other_numbers_and_names_them(tmp_path: Path) -> None:
    folder = shutil.copytree(REFERENCE, tmp_path / "reference")
    schedules = load_file(folder / "schedules.safetensors")
    schedules["cosine"][3] *= 1.001
    save_file(schedules, folder / "schedules.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "generation": {}}))
    result = run_tool(folder)
    assert result.returncode == 1
    summary = json.loads(result.stdout.splitlines()[-1])
    assert summary["failed"] == ["schedule, cosine"]


def test_tool_says_what_is_missing(tmp_path: Path) -> None:
    result = run_tool(tmp_path)
    assert result.returncode == 2
    assert "config.json" in result.stderr
    assert "Traceback" not in result.stderr


def test_published_options_are_understood() -> None:
    thresholds = {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 4.0}
    options = read_options("a", {"inference_timesteps": 5, "epsilon_scaling": None, **thresholds})
    assert (options.steps, options.epsilon_scaling) == (5, 1.0)
    assert (options.dynamic_threshold, options.dynamic_threshold_max) == (0.9, 4.0)
    assert read_options("a", {"thresholding": True}).dynamic_threshold == 0.995
    assert read_options("a", {**thresholds, "thresholding": False}).dynamic_threshold is None
    assert read_options("a", {}).dynamic_threshold is None
    with pytest.raises(UserError, match=r"generation a: ddim_eta=0\.5"):
        read_options("a", {"ddim_eta": 0.5})
    with pytest.raises(ConfigError, match="thresholds"):
        read_options("a", {"thresholds": True})


@pytest.mark.parametrize("name", ["base_layers", "context_layers", "denoiser_layers", "ffn_inner_dim"])
def test_stated_sizes_are_compared_with_the_weights(name: str, tmp_path: Path) -> None:
    folder = shutil.copytree(REFERENCE, tmp_path / "reference")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, name: 7}))
    with pytest.raises(UserError, match=f"{name}=7"):
        list(check_reference(folder))


def test_tool_says_that_noise_of_each_step_cannot_be_compared(tmp_path: Path) -> None:
    folder = shutil.copytree(REFERENCE, tmp_path / "reference")
    config = json.loads((folder / "config.json").read_text())
    config["generation"]["plain"]["ddim_eta"] = 0.5
    (folder / "config.json").write_text(json.dumps(config))
    result = run_tool(folder)
    assert result.returncode == 2
    assert result.stderr.startswith("generation plain: ddim_eta=0.5")
    assert len(result.stderr.splitlines()) == 1
