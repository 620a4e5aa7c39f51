"""Settings: what wins over what, and what each mistake is answered with."""

from pathlib import Path

import pytest

from lexalcm.config import load_settings
from lexalcm.errors import ConfigError
from lexalcm.model.config import ModelConfig
from lexalcm.train.settings import RunConfig


def test_overrides_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("train: {lr: 0.5, steps: 7}\n")
    config = load_settings(RunConfig, file, ["train.lr=1e-4", "data.path=elsewhere"])
    assert config.train.lr == 1e-4
    assert config.train.steps == 7
    assert config.data.path == "elsewhere"
    assert config.train.seed == RunConfig().train.seed


def test_settings_survive_a_round_trip(tmp_path: Path) -> None:
    config = load_settings(RunConfig, overrides=["train.betas=[0.8, 0.99]", "name='7'"])
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert load_settings(RunConfig, tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.learning_rate=1", "unknown setting train.learning_rate"),
        ("train.step=1", "unknown setting train.step: did you mean steps?"),
        ("trian.lr=1", "unknown setting trian: did you mean train?"),
        ("lr=1e-4", r"^unknown setting lr: did you mean train\.lr\?$"),
        ("data.lr=1e-4", r"^unknown setting data\.lr: did you mean train\.lr\?$"),
        ("checkpoint.every=5", r"^unknown setting checkpoint: did you mean train\.checkpoint\?$"),
        ("step=5", r"^unknown setting step: did you mean train\.steps\?$"),
        ("every=5", r"mean train\.checkpoint\.every or train\.watch\.every or train\.samples\.every\?$"),
        ("train.learning_rate=1", r"did you mean train\.lr\?$"),
        ("batch_size=8", r"did you mean data\.micro_batch or data\.global_batch\?$"),
        ("data.sets=[{path: a, wieght: 2}]", r"^unknown setting data\.sets\.0\.wieght: did you mean weight\?$"),
        ("qqq=1", "^unknown setting qqq: known are model, name, deepspeed, data, train$"),
        ("train.lr=fast", "train.lr: expected a valid number.*got 'fast'"),
        ("train.ema=0.9", "train.ema is no value, it has settings of its own: train.ema.decay"),
        ("train.steps=0", "train.steps: expected greater than 0, got 0"),
        ("train.steps=2.5", "train.steps"),
        ("train.lr=.nan", "train.lr"),
        ("train.engine=gpu", "train.engine: unknown engine 'gpu': known are auto, single, ddp, fsdp, deepspeed"),
        ("train.lr", "write it as key=value"),
        ("model.x=1", "model"),
        ("train.lr=[", "not valid YAML"),
    ],
)
def test_a_wrong_override_is_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        load_settings(RunConfig, overrides=[override])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {lr: x}", r"train.lr.*in .*bad.yaml"),
        ("- a\n- b", "must hold settings"),
        ("a: [", "not valid YAML"),
        ("speed: 1", "unknown setting speed"),
        ("lr: 1.0e-4", r"^unknown setting lr \(in .*bad.yaml\): did you mean train\.lr\?$"),
        ("train: {bf16: true}", r"^unknown setting train\.bf16 \(in .*bad.yaml\): did you mean train\.precision\?$"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        load_settings(RunConfig, tmp_path / "bad.yaml")
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such config file: .*none.yaml"):
        load_settings(RunConfig, tmp_path / "none.yaml")


def test_a_prefix_keeps_to_its_part() -> None:
    base = {"architecture": "base", "dim": 8, "width": 16, "num_heads": 2, "ffn_dim": 16, "num_layers": 1}
    config = load_settings(ModelConfig, overrides=["model.num_layers=3"], base=base, prefix="model")
    assert config.num_layers == 3
    with pytest.raises(ConfigError, match=r"only model\.\* can be set"):
        load_settings(ModelConfig, overrides=["train.lr=3"], base=base, prefix="model")
    with pytest.raises(ConfigError, match=r"only model\.\* can be set here: did you mean model\.num_layers\?$"):
        load_settings(ModelConfig, overrides=["num_layers=3"], base=base, prefix="model")
    with pytest.raises(ConfigError, match=r"unknown setting model\.num_layer: did you mean num_layers"):
        load_settings(ModelConfig, overrides=["model.num_layer=3"], base=base, prefix="model")


@pytest.mark.parametrize("key", ["data.row_length", "data.micro_batch"])
def test_rows_longer_than_any_machine_holds_are_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{key}: expected less than or equal to [0-9]+, got 1000000000000$"):
        load_settings(RunConfig, overrides=[f"{key}=1000000000000"])
