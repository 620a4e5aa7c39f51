import io

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from lexalcm.codec.registry import fit_codec
from lexalcm.codec.special import SPECIAL_FILE, encode_special
from lexalcm.model import ModelConfig, create_model
from lexalcm.verify.checks import passed
from lexalcm.verify.model import verify_model

SENTENCES = ["The sun rises over the hills.", "A river runs through the town.", "Nobody saw the boat return."]
SIZES = {"width": 16, "num_heads": 2, "ffn_dim": 24, "num_layers": 1}


@pytest.fixture(scope="module")
def codec():
    return fit_codec("lsa", [("eng_Latn", SENTENCES)] * 2, dim=8)


@pytest.fixture(params=["base", "two-tower"])
def make(request, codec, tmp_path):
    """Writes a complete model folder, after `change(model)`."""
    sizes = SIZES | ({"context_layers": 1} if request.param == "two-tower" else {})

    def write(change=lambda model: None):
        config = ModelConfig.model_validate(
            {"architecture": request.param, "dim": codec.dim, "codec": codec.record(), **sizes}
        )
        model = create_model(config, seed=0)
        model.normalizer.set_statistics({"center": np.full(8, 0.1), "scale": np.full(8, 0.5)})
        model.generation_config = {"steps": 2}
        change(model)
        folder = tmp_path / "model"
        folder.mkdir()
        model.save_pretrained(folder)
        codec.save(folder / "codec")
        save_file(encode_special(codec), folder / SPECIAL_FILE)
        return folder

    return write


def problems(folder):
    report = verify_model(folder)
    found = [check.name for check in report.checks if check.status == "problem"]
    assert passed(report.checks) == (not found)
    assert report.to_json()["ok"] == (not found)
    return found


def test_a_complete_model_passes_and_its_parameters_are_counted(make):
    folder = make()
    report = verify_model(folder)
    assert {check.status for check in report.checks} == {"ok"}
    assert [check.name for check in report.checks][-1] == "prediction"
    weights = load_file(folder / "model.safetensors")
    stored = sum(array.size for name, array in weights.items() if not name.startswith("normalizer."))
    assert sum(report.parameters.values()) == stored


def test_nan_in_a_weight_is_found(make):
    def spoil(model):
        with torch.no_grad():
            next(iter(model.parameters())).view(-1)[3] = torch.nan

    assert problems(make(spoil)) == ["weights"]


def test_a_normalizer_that_cannot_be_inverted_is_found(make):
    assert problems(make(lambda model: model.normalizer.scale[2:3].zero_())) == ["normalizer"]


def test_an_unfitted_normalizer_is_noted(make):
    def forget(model):
        model.normalizer.center.zero_()
        model.normalizer.scale.fill_(1)

    checks = {check.name: check for check in verify_model(make(forget)).checks}
    assert checks["normalizer"].status == "note"


def test_a_missing_codec_folder_is_found(make):
    folder = make()
    (folder / "codec" / "lsa.json").unlink()
    assert problems(folder) == ["codec"]


def test_missing_and_broken_special_concepts_are_found(make):
    folder = make()
    vectors = load_file(folder / SPECIAL_FILE)
    save_file({name: vector for name, vector in vectors.items() if name != "pad"}, folder / SPECIAL_FILE)
    assert problems(folder) == ["special concepts"]
    save_file({**vectors, "pad": vectors["pad"][:3]}, folder / SPECIAL_FILE)
    assert problems(folder) == ["special concepts"]
    (folder / SPECIAL_FILE).unlink()
    assert problems(folder) == ["special concepts"]


def test_unknown_generation_options_are_found(make):
    folder = make()
    (folder / "generation_config.json").write_text('{"stepps": 3}')
    assert problems(folder) == ["generation options"]


def test_weights_that_do_not_fit_their_config_are_one_problem(make):
    folder = make()
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"ffn_dim": 24', '"ffn_dim": 32'))
    assert problems(folder) == ["files"]
    (folder / "model.safetensors").write_bytes(b"not weights")
    assert problems(folder) == ["files"]


def test_weights_of_another_type_are_one_problem(make):
    folder = make()
    weights = load_file(folder / "model.safetensors")
    name = next(iter(weights))
    save_file(weights | {name: weights[name].astype(np.int32)}, folder / "model.safetensors")
    assert problems(folder) == ["files"]


@pytest.mark.parametrize("text", ["[]", "null", '{"vocabulary": 5}', "[" * 100_000])
def test_a_codec_of_other_types_is_found(make, text):
    folder = make()
    (folder / "codec/lsa.json").write_text(text)
    assert problems(folder) == ["codec"]


def test_what_may_not_be_read_is_not_called_damaged(make, monkeypatch):
    folder = make()
    opened = io.open

    def refuse(path, *arguments, **options):
        if str(path).endswith(".safetensors"):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(io, "open", refuse)
    [files] = verify_model(folder).checks
    assert files.value == f"cannot read {folder}/model.safetensors: Permission denied"
