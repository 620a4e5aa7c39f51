"""Model folders: what is saved is what is loaded; what cannot be loaded says why in one line."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import CONFIGS, DIM, lively_model, packed_rows

from lexalcm.errors import UserError
from lexalcm.model import LCM, BaseLCM, TwoTowerLCM, load_model
from lexalcm.objective import create_objective

ARCHITECTURES = list(CONFIGS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lively_model("two-tower").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_saved_and_loaded_models_agree(architecture: str, tmp_path: Path) -> None:
    model = lively_model(architecture)
    model.generation_config = {"steps": 12}
    model.save_pretrained(tmp_path / "model")
    for loaded in (load_model(tmp_path / "model"), LCM.from_pretrained(tmp_path / "model")):
        assert type(loaded) is type(model)
        assert loaded.config == model.config
        assert loaded.generation_config == {"steps": 12}
        assert not loaded.training
        torch.manual_seed(0)
        expected = create_objective(model)(**packed_rows([[4]], 4)).sum
        torch.manual_seed(0)
        torch.testing.assert_close(create_objective(loaded)(**packed_rows([[4]], 4)).sum, expected, rtol=0, atol=0)


def test_a_loaded_model_can_be_trained(folder: Path) -> None:
    model = load_model(folder).train()
    create_objective(model)(**packed_rows([[4]], 4)).sum.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_folder_holds_a_card_for_the_hub(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: lexalcm\n")
    assert "two-tower" in card


def test_a_runs_folder_is_found(folder: Path) -> None:
    assert isinstance(load_model(folder.parent), TwoTowerLCM)


def test_the_wrong_class_is_an_error(folder: Path) -> None:
    with pytest.raises(UserError, match="two-tower"):
        BaseLCM.from_pretrained(folder)


def test_hub_ids_without_a_network_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="cannot be fetched"):
        load_model("somebody/some-model")


def test_a_missing_folder_is_not_sought_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("models/base", "mine/base", "base"):
        with pytest.raises(UserError, match=f"no such model: {name}"):
            load_model(name)


def break_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def break_weights(folder: Path, name: str, tensor: torch.Tensor | None) -> None:
    state = load_file(folder / "model.safetensors")
    if tensor is None:
        del state[name]
    else:
        state[name] = tensor
    save_file(state, folder / "model.safetensors")


def change_type(folder: Path, dtype: torch.dtype) -> None:
    name = "denoiser.norm.weight"
    break_weights(folder, name, load_file(folder / "model.safetensors")[name].to(dtype))


BROKEN = {
    "no such model": lambda folder: shutil.rmtree(folder),
    "no config.json": lambda folder: (folder / "config.json").unlink(),
    "not readable JSON": lambda folder: (folder / "config.json").write_text("{"),
    "JSON object": lambda folder: (folder / "config.json").write_text("[]"),
    "did you mean num_layers": lambda folder: break_config(folder, num_layer=3),
    "width: expected": lambda folder: break_config(folder, width="wide"),
    "does not divide": lambda folder: break_config(folder, num_heads=3),
    "no model.safetensors": lambda folder: (folder / "model.safetensors").unlink(),
    "truncated or damaged": lambda folder: (folder / "model.safetensors").write_bytes(
        (folder / "model.safetensors").read_bytes()[:-100]
    ),
    "missing denoiser.norm.weight": lambda folder: break_weights(folder, "denoiser.norm.weight", None),
    "unknown extra.weight": lambda folder: break_weights(folder, "extra.weight", torch.zeros(1)),
    "denoiser.norm.weight has shape": lambda folder: break_weights(folder, "denoiser.norm.weight", torch.zeros(3)),
    "does not fit its config: denoiser.norm.weight holds int32": lambda folder: change_type(folder, torch.int32),
    "does not fit its config: denoiser.norm.weight holds bool": lambda folder: change_type(folder, torch.bool),
    "does not fit its config: denoiser.norm.weight holds complex64": lambda folder: change_type(
        folder, torch.complex64
    ),
    "not readable JSON: line 1: nested too deep": lambda folder: (folder / "config.json").write_text("[" * 100_000),
    "scale is not positive in dimension 0": lambda folder: break_weights(folder, "normalizer.scale", torch.zeros(DIM)),
    "normalizer's center holds NaN": lambda folder: break_weights(
        folder, "normalizer.center", torch.full((DIM,), torch.nan)
    ),
    "bounds in the wrong order": lambda folder: (
        break_weights(folder, "normalizer.clip_max", torch.full((DIM,), -torch.inf))
        or break_weights(folder, "normalizer.clip_min", torch.zeros(DIM))
    ),
}


@pytest.mark.parametrize("message", BROKEN)
def test_broken_folders_say_what_is_wrong(message: str, folder: Path) -> None:
    BROKEN[message](folder)
    with pytest.raises(UserError, match=message) as raised:
        load_model(folder)
    assert "\n" not in str(raised.value)
