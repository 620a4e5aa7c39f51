"""Read a checkpoint of the published code (large_concept_model, on fairseq2) as a model of this project.

Names are translated one to one. The denoiser's self-attention queries and keys are dropped: attending one position
only, they never mattered. Sizes come from the weights themselves; what weights do not show (number of heads, rotary
base, noise schedule) comes from a config, or is what all published presets share: heads of 128, base 10,000, cosine.
"""

import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lexalcm.config import validate
from lexalcm.errors import ConfigError, UserError
from lexalcm.model.config import ModelConfig
from lexalcm.model.create import meta_model
from lexalcm.model.lcm import LCM
from lexalcm.model.storage.folder import check_shapes, describe_names, list_names
from lexalcm.yaml_text import YAMLTextError, parse_yaml

PUBLISHED_HEAD_SIZE = 128

# this project's name -> the published name: the first prefix that fits, then every part inside a layer
_PREFIXES: dict[str, tuple[tuple[str, str], ...]] = {
    "base": (
        ("normalizer.", "frontend.sonar_normalizer."),
        ("transformer.input_proj.", "frontend.pre_linear."),
        ("transformer.norm.", "lcm.layer_norm."),
        ("transformer.", "lcm."),
        ("output_proj.", "postnet.fc."),
    ),
    "two-tower": (
        ("normalizer.", "sonar_normalizer."),
        ("contextualizer.input_proj.", "encoder_frontend.pre_linear."),
        ("contextualizer.norm.", "context_encoder.layer_norm."),
        ("contextualizer.", "context_encoder."),
        ("denoiser.time_embedding.", "denoiser.embed_time."),
        ("denoiser.input_proj.", "denoiser.initial_proj.fc."),
        ("denoiser.output_proj.", "denoiser.final_proj.fc."),
        ("denoiser.norm.", "denoiser.layer_norm."),
    ),
}
_PARTS = (
    (".attention.", ".self_attn."),
    (".attention_norm.", ".self_attn_layer_norm."),
    (".self_projection.value_", ".self_attn.v_proj."),
    (".self_projection.output_", ".self_attn.output_proj."),
    (".self_norm.", ".self_attn_layer_norm."),
    (".cross_attention_norm.", ".cross_attention_layer_norm."),
    (".ffn_norm.", ".ffn_layer_norm."),
    (".modulator.", ".modulator.fc."),
)
_DROPPED = re.compile(r"denoiser\.layers\.\d+\.self_attn\.[qk]_proj\.(weight|bias)")
_OPTIONAL = {"normalizer.clip_min": -torch.inf, "normalizer.clip_max": torch.inf}  # absent where nothing is clipped

# names that published configs, and folders laid out like this project's reference data, use for a setting
_SYNONYMS: dict[str, tuple[str, ...]] = {
    "num_heads": ("num_heads", "num_attn_heads", "heads"),
    "rope_theta": ("rope_theta",),
    "dropout": ("dropout_p",),
    "width": ("width", "model_dim"),
    "dim": ("dim", "sonar_embed_dim", "embed_dim"),
    "diffusion.steps": ("num_diffusion_train_steps", "diffusion_steps"),
    "diffusion.schedule": ("beta_schedule",),
    "diffusion.beta_start": ("beta_start",),
    "diffusion.beta_end": ("beta_end",),
    "diffusion.sigmoid_alpha": ("sigmoid_schedule_alpha",),
    "diffusion.sigmoid_beta": ("sigmoid_schedule_beta",),
    "diffusion.zero_terminal_snr": ("rescale_betas_zero_snr",),
    "diffusion.prediction": ("prediction_type",),
}
_VALUES = {
    "diffusion.schedule": {"squaredcos_cap_v2": "cosine", "scaled_linear": "quadratic", "sigmoid": "sigmoid"},
    "diffusion.prediction": {"sample": "x0", "epsilon": "epsilon", "v_prediction": "v"},
}
_TOWERS = ("lcm", "context_encoder", "denoiser")
"""Sections of a published config that describe layers; a frontend has a dropout of its own, not the model's."""


def import_fairseq2(file: Path | str, config: Path | str | None = None) -> LCM:
    """Read a training checkpoint of the published code, base or two-tower.

    Args:
        file: safetensors, or a `.pt` file with `{"model": weights}` or the weights themselves (never unpickled beyond
            tensors).
        config: YAML or JSON: a config of the published code, or one of this project's (`config.json`). None: heads of
            128 and the published schedule.

    Returns:
        the model in evaluation mode, float32.

    Raises:
        UserError: unreadable file; unknown or missing parameters, listed; sizes that a config contradicts; a
            normalizer that cannot be used.
        ConfigError: a config that is unreadable, does not say how many heads there are where that is not clear, or
            states a kind of layer that this project does not have.
    """
    file = Path(file)
    published = _read_checkpoint(file)
    model_config = infer_config(published, _read_config(Path(config)) if config is not None else {}, str(file))
    model = meta_model(model_config)
    model.load_state_dict(_translate(published, model, str(file)), assign=True)
    model.normalizer.check(str(file))
    return model.eval()


def infer_config(published: Mapping[str, Tensor], stated: Mapping[str, Any], source: str) -> ModelConfig:
    """The config of published weights: sizes from their shapes, the rest from what a config states.

    Raises:
        UserError: neither a base nor a two-tower model, or sizes that contradict the config.
        ConfigError: the number of heads is not known, or the config contradicts itself or states another kind of layer.
    """
    two_tower = any(name.startswith("denoiser.") for name in published)
    input_name = "denoiser.initial_proj.fc.weight" if two_tower else "frontend.pre_linear.weight"
    tower = "denoiser" if two_tower else "lcm"
    gate_name = f"{tower}.layers.0.ffn.gate_proj.weight"
    missing = {name for name in (input_name, gate_name) if name not in published}
    if missing:
        raise UserError(f"{source} is not a base or two-tower model of the published code: no {list_names(missing)}")
    width, dim = published[input_name].shape
    sizes: dict[str, Any] = {
        "architecture": "two-tower" if two_tower else "base",
        "dim": dim,
        "width": width,
        "ffn_dim": published[gate_name].shape[0],
        "num_layers": _count_layers(published, tower),
        "context_layers": _count_layers(published, "context_encoder"),
    }
    if "architecture" in stated:
        own = validate(ModelConfig, stated)
        for name, value in sizes.items():
            if getattr(own, name) != value:
                raise UserError(f"{source} has {name}={value}, its config says {getattr(own, name)}: wrong config?")
        return own
    _check_styles(stated)
    found = {setting: value for setting in _SYNONYMS if (value := _find(stated, setting)) is not None}
    for name in ("width", "dim"):
        if found.pop(name, sizes[name]) != sizes[name]:
            raise UserError(f"{source} has {name}={sizes[name]}, its config says {_find(stated, name)}: wrong config?")
    if "num_heads" not in found:
        if width % PUBLISHED_HEAD_SIZE:
            raise ConfigError(
                f"weights do not show how many heads a width of {width} has: give a config with num_heads"
            )
        found["num_heads"] = width // PUBLISHED_HEAD_SIZE
    diffusion = {name.partition(".")[2]: found.pop(name) for name in list(found) if name.startswith("diffusion.")}
    return validate(ModelConfig, {**sizes, **found, **({"diffusion": diffusion} if two_tower else {})})


def _translate(published: Mapping[str, Tensor], model: LCM, source: str) -> dict[str, Tensor]:
    """Weights under this project's names, float32; whatever is missing, unknown or of another shape is an error."""
    names = {name: _published_name(name, model.config.architecture) for name in model.state_dict()}
    missing = {theirs for ours, theirs in names.items() if theirs not in published and ours not in _OPTIONAL}
    unknown = {name for name in published.keys() - names.values() if not _DROPPED.fullmatch(name)}
    if missing or unknown:
        raise UserError(f"{source} is not a model of the published code: {describe_names(missing, unknown)}")
    state = {ours: published[theirs].float() for ours, theirs in names.items() if theirs in published}
    for name, value in _OPTIONAL.items():
        state.setdefault(name, torch.full((model.config.dim,), value))
    check_shapes(model, state, source)
    return state


def _published_name(name: str, architecture: str) -> str:
    for ours, theirs in _PREFIXES[architecture]:
        if name.startswith(ours):
            name = theirs + name.removeprefix(ours)
            break
    for ours, theirs in _PARTS:
        name = name.replace(ours, theirs)
    return name


def _count_layers(published: Mapping[str, Tensor], tower: str) -> int:
    numbers = [int(match[1]) for name in published if (match := re.match(rf"{tower}\.layers\.(\d+)\.", name))]
    return max(numbers, default=-1) + 1


def _find(stated: Mapping[str, Any], setting: str) -> Any:
    """The value of a setting anywhere in a nested config, or None."""
    values = [
        value
        for section, name, value in _walk(stated)
        if name in _SYNONYMS[setting] and value is not None and (setting != "dropout" or section in ("", *_TOWERS))
    ]
    if any(value != values[0] for value in values):
        raise ConfigError(f"the config gives several values of {setting}: {', '.join(map(str, values))}")
    if not values:
        return None
    known = _VALUES.get(setting)
    if known is not None and values[0] not in known:
        raise ConfigError(f"{setting}={values[0]} is not supported: known are {', '.join(known)}")
    return values[0] if known is None else known[values[0]]


def _check_styles(stated: Mapping[str, Any]) -> None:
    """Make sure that layers normalize before, and that only those who read the context know positions, as rotations."""
    for section, name, value in _walk(stated):
        known = {"norm_order_style": "pre", "pos_embedding_style": "none" if section == "denoiser" else "rope"}
        if value is not None and name in known and value != known[name]:
            where = f"{section}.{name}" if section else name
            raise ConfigError(f"{where}={value} is not supported: this project has {known[name]} alone")


def _walk(tree: Mapping[str, Any], section: str = "") -> Iterator[tuple[str, str, Any]]:
    """Every setting, with the section that it stands in; "" at the top."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _walk(value, str(name))
        else:
            yield section, name, value


def _read_config(file: Path) -> dict[str, Any]:
    try:
        content = parse_yaml(file.read_bytes())
    except FileNotFoundError as error:
        raise ConfigError(f"no such config file: {file}") from error
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from error
    except YAMLTextError as error:
        raise ConfigError(f"{file} is not readable YAML or JSON: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{file} must hold settings as key: value lines")
    return content


def _read_checkpoint(file: Path) -> Mapping[str, Tensor]:
    if not file.is_file():
        raise UserError(f"no such checkpoint: {file}")
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{file} is not a checkpoint, or holds more than weights: save its weights alone") from error
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError) as error:
        raise UserError(f"{file} is truncated or not a checkpoint: copy it again") from error
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    if not isinstance(content, dict):
        raise UserError(f"{file} holds no weights by name: expected {{'model': weights}}")
    others = {str(name) for name, value in content.items() if not isinstance(value, Tensor)}
    if others:
        raise UserError(f"{file} holds more than weights: {list_names(others)}")
    return content
