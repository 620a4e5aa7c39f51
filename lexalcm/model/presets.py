"""Named model sizes: what a preset is, and those of all architectures by name.

A preset is called by its architecture and its size, e.g. `two-tower-tiny`; each architecture holds its own
(`LCM.presets`). `lcm bootstrap --list` prints exact parameter counts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lexalcm.codec.registry import answers_from_bank
from lexalcm.config import validate
from lexalcm.errors import ConfigError, UserError, nearest
from lexalcm.model.config import ModelConfig
from lexalcm.registries import ARCHITECTURES

DEFAULT_PRESET = "two-tower-tiny"
MAX_BOTTLENECK = 4
PUBLISHED_DIM = 1024  # of SONAR, for which the published presets were made

WIDTHS: dict[str, dict[str, Any]] = {
    "small": {"width": 512, "num_heads": 8, "ffn_dim": 1536},
    "medium": {"width": 1024, "num_heads": 16, "ffn_dim": 2816},
    "large": {"width": 1536, "num_heads": 24, "ffn_dim": 4096},
    "1.6b": {"width": 2048, "num_heads": 16, "ffn_dim": 5632},
    "7b": {"width": 4096, "num_heads": 32, "ffn_dim": 11008},
}
"""Sizes of layers that architectures share.

1.6b and 7b are the published ones (LCM paper, sections 2.4 and 4); the others are this project's: heads of 64,
feed-forward sizes near 8/3 of the width.
"""


@dataclass(frozen=True)
class Preset:
    """A size of an architecture.

    Attributes:
        sizes: fields of `ModelConfig`.
        generation: generation options of a new model that are not the published ones.
        reencode: whether the model, fed with its own concepts (strongly guided, or averages), would soon say one thing
            of a bank for ever: where the codec answers from a bank, it reads the decoded text again.
    """

    sizes: Mapping[str, Any]
    generation: Mapping[str, Any] = field(default_factory=dict)
    reencode: bool = False


def preset_names() -> list[str]:
    """All presets, in the order of the architectures and of their sizes."""
    return [f"{name}-{size}" for name in ARCHITECTURES.names() for size in ARCHITECTURES.load(name).presets]


def generation_options(name: str, codec: str) -> dict[str, Any]:
    """What a new model of a preset keeps in its `generation_config.json`.

    Args:
        name: the preset.
        codec: the name of its concepts' codec. Only where that answers from a bank is the decoded text read again: a
            decoder that writes what a concept says leaves it to `--reencode`.
    """
    _, found = _find(name)
    reencoded = {"reencode": True} if found.reencode and answers_from_bank(codec) else {}
    return {**found.generation, **reencoded}


def preset(name: str, dim: int) -> ModelConfig:
    """The config of a preset for concepts of `dim` numbers.

    Raises:
        UserError: no such preset; names the nearest.
        ConfigError: concepts more than four times as wide as the model, which it could hardly pass through.
    """
    architecture, found = _find(name)
    sizes = {"architecture": architecture, "preset": name, "dim": dim, **found.sizes}
    config = validate(ModelConfig, sizes, prefix="model")
    if dim > MAX_BOTTLENECK * config.width:
        raise ConfigError(f"preset {name} is {config.width} wide, too narrow for dim={dim}: choose a larger preset")
    return config


def _find(name: str) -> tuple[str, Preset]:
    """The architecture and the size of that name; imports no other architecture.

    Raises:
        UserError: there is none.
    """
    for architecture in ARCHITECTURES.names():
        size = name.removeprefix(f"{architecture}-")
        if size != name and size in ARCHITECTURES.load(architecture).presets:
            return architecture, ARCHITECTURES.load(architecture).presets[size]
    raise UserError(f"unknown preset {name}{nearest(name, preset_names())}")
