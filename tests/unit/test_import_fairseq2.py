"""Published checkpoints: both file forms, inferred sizes, and errors that name what does not fit.

That imported weights compute the published numbers is tested by `test_check_reference.py`.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lexalcm.errors import ConfigError, UserError
from lexalcm.model import create_model
from lexalcm.model.importers.fairseq2 import import_fairseq2

REFERENCE = Path(__file__).parents[1] / "data" / "reference_lcm"
FILES = {name: REFERENCE / f"{name.replace('-', '_')}_weights.safetensors" for name in ("base", "two-tower")}
CONFIG = REFERENCE / "config.json"


@pytest.fixture
def weights() -> dict[str, Tensor]:
    return load_file(FILES["two-tower"])


def saved(tmp_path: Path, content: Any) -> Path:
    torch.save(content, tmp_path / "model.pt")
    return tmp_path / "model.pt"


@pytest.mark.parametrize("name", FILES)
def test_sizes_come_from_the_weights(name: str) -> None:
    stated = json.loads(CONFIG.read_text())
    config = import_fairseq2(FILES[name], CONFIG).config
    assert config.architecture == name
    assert (config.dim, config.width) == (stated["embed_dim"], stated["model_dim"])
    assert config.num_heads == stated["heads"]
    if name == "base":
        assert config.num_layers == stated["base_layers"]
    else:
        assert (config.context_layers, config.num_layers) == (stated["context_layers"], stated["denoiser_layers"])


def test_only_query_and_key_of_the_denoisers_self_attention_are_left_out(weights: dict[str, Tensor]) -> None:
    model = import_fairseq2(FILES["two-tower"], CONFIG)
    numbers = sum(parameter.numel() for parameter in model.parameters())
    left_out = [
        f"denoiser.layers.{layer}.self_attn.{name}_proj.{part}"
        for layer in range(model.config.num_layers)
        for name in "qk"
        for part in ("weight", "bias")
    ]
    published = sum(tensor.numel() for name, tensor in weights.items() if "normalizer" not in name)
    assert numbers == published - sum(weights[name].numel() for name in left_out)


@pytest.mark.parametrize("wrapped", [True, False])
def test_pt_files_give_the_same_model(weights: dict[str, Tensor], wrapped: bool, tmp_path: Path) -> None:
    file = saved(tmp_path, {"model": weights} if wrapped else weights)
    expected = import_fairseq2(FILES["two-tower"], CONFIG).state_dict()
    state = import_fairseq2(file, CONFIG).state_dict()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_half_precision_becomes_float32(weights: dict[str, Tensor], tmp_path: Path) -> None:
    file = saved(tmp_path, {name: tensor.bfloat16() for name, tensor in weights.items()})
    assert all(parameter.dtype == torch.float32 for parameter in import_fairseq2(file, CONFIG).parameters())


def test_clipping_of_the_normalizer_is_taken_over(weights: dict[str, Tensor], tmp_path: Path) -> None:
    weights["sonar_normalizer.clip_min"] = torch.full((48,), -2.0)
    weights["sonar_normalizer.clip_max"] = torch.full((48,), 3.0)
    normalizer = import_fairseq2(saved(tmp_path, weights), CONFIG).normalizer
    assert normalizer.normalize(torch.full((48,), 1e6)).tolist() == [3.0] * 48
    assert normalizer.normalize(torch.full((48,), -1e6)).tolist() == [-2.0] * 48


@pytest.mark.parametrize(
    ("part", "number"), [("scale", 0.0), ("scale", -1.0), ("scale", torch.nan), ("center", torch.nan)]
)
def test_a_normalizer_that_cannot_be_used_is_refused(
    weights: dict[str, Tensor], part: str, number: float, tmp_path: Path
) -> None:
    weights[f"sonar_normalizer.{part}"][5] = number
    with pytest.raises(UserError, match=f"normalizer's {part}"):
        import_fairseq2(saved(tmp_path, weights), CONFIG)


def test_missing_and_unknown_parameters_are_listed(weights: dict[str, Tensor], tmp_path: Path) -> None:
    del weights["context_encoder.layers.1.self_attn.q_proj.weight"]
    weights["denoiser.layers.0.extra"] = torch.zeros(1)
    with pytest.raises(UserError) as raised:
        import_fairseq2(saved(tmp_path, weights), CONFIG)
    assert "missing context_encoder.layers.1.self_attn.q_proj.weight" in str(raised.value)
    assert "unknown denoiser.layers.0.extra" in str(raised.value)


def test_a_published_config_is_understood(tmp_path: Path) -> None:
    published = """
model_type: two_tower_diffusion_lcm
model_dim: 64
sonar_embed_dim: 48
frontend: {dropout_p: 0.0}
context_encoder: {num_attn_heads: 8, rope_theta: 500.0, dropout_p: 0.2, norm_order_style: pre,
  pos_embedding_style: rope}
denoiser: {num_attn_heads: 8, rope_theta: 500.0, dropout_p: 0.2, norm_order_style: pre, pos_embedding_style: none}
noise_scheduler: {num_diffusion_train_steps: 200, beta_schedule: sigmoid, sigmoid_schedule_alpha: 3.5,
  prediction_type: v_prediction, rescale_betas_zero_snr: true}
"""
    (tmp_path / "model.yaml").write_text(published)
    config = import_fairseq2(FILES["two-tower"], tmp_path / "model.yaml").config
    assert (config.num_heads, config.rope_theta, config.dropout) == (8, 500.0, 0.2)
    diffusion = config.diffusion
    assert diffusion is not None
    assert (diffusion.steps, diffusion.schedule, diffusion.sigmoid_alpha) == (200, "sigmoid", 3.5)
    assert (diffusion.prediction, diffusion.zero_terminal_snr) == ("v", True)


def test_this_projects_config_is_understood(tmp_path: Path) -> None:
    config = import_fairseq2(FILES["base"], CONFIG).config
    (tmp_path / "config.json").write_text(config.model_dump_json())
    assert import_fairseq2(FILES["base"], tmp_path / "config.json").config == config
    deeper = config.model_copy(update={"num_layers": 4})
    (tmp_path / "config.json").write_text(deeper.model_dump_json())
    with pytest.raises(UserError, match="num_layers=3, its config says 4"):
        import_fairseq2(FILES["base"], tmp_path / "config.json")


def test_heads_must_be_known() -> None:
    with pytest.raises(ConfigError, match="num_heads"):
        import_fairseq2(FILES["two-tower"])  # 64 wide; published models have heads of 128


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model_dim: 128\nheads: 4", "width=64, its config says 128"),
        ("heads: 3", "does not divide"),
        ("a: {num_attn_heads: 4}\nb: {num_attn_heads: 8}", "several values"),
        ("heads: 4\nbeta_schedule: linear", "not supported"),
        (
            "heads: 4\ncontext_encoder: {norm_order_style: post}",
            "context_encoder.norm_order_style=post is not supported",
        ),
        ("heads: 4\ncontext_encoder: {pos_embedding_style: learned}", "pos_embedding_style=learned is not supported"),
        ("heads: 4\ndenoiser: {pos_embedding_style: rope}", "denoiser.pos_embedding_style=rope is not supported"),
        ("heads: 4\nlcm: {dropout_p: 0.1}\ndenoiser: {dropout_p: 0.3}", "several values of dropout"),
        ("[1, 2", "not readable"),
        ("4", "key: value"),
    ],
)
def test_configs_that_do_not_fit(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        import_fairseq2(FILES["two-tower"], tmp_path / "config.yaml")


def test_files_that_are_no_checkpoint(weights: dict[str, Tensor], tmp_path: Path) -> None:
    (tmp_path / "cut.safetensors").write_bytes(FILES["base"].read_bytes()[:-10])
    (tmp_path / "text.pt").write_text("weights")
    whole = saved(tmp_path, weights).read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    torch.save({"model": create_model}, tmp_path / "pickle.pt")
    torch.save({"model": {"step": 3}}, tmp_path / "other.pt")
    torch.save([1], tmp_path / "list.pt")
    torch.save({"encoder.weight": torch.zeros(1)}, tmp_path / "foreign.pt")
    for name, message in {
        "none.pt": "no such checkpoint",
        "cut.safetensors": "truncated",
        "text.pt": "not a checkpoint",
        "cut.pt": "truncated",
        "pickle.pt": "more than weights",
        "other.pt": "more than weights: step",
        "list.pt": "no weights by name",
        "foreign.pt": "not a base or two-tower model",
    }.items():
        with pytest.raises(UserError, match=message) as raised:
            import_fairseq2(tmp_path / name, CONFIG)
        assert "\n" not in str(raised.value)
