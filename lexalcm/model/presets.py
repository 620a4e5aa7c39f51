"""Named model sizes.

The 1.6B and 7B presets have the published widths, layers, heads and feed-forward sizes (LCM paper, section 2.4 and 4);
their two-tower counts are the published ones less the denoiser's self-attention queries and keys, which do not exist
here. The others are this project's: heads of 64, feed-forward sizes near 8/3 of the width, and for two-tower a small
contextualizer under a larger denoiser, as in the published models. `lcm bootstrap --list` prints exact counts.
"""

import difflib
from typing import Any

from lexalcm.codec.registry import answers_from_bank
from lexalcm.config import validate
from lexalcm.errors import ConfigError, UserError
from lexalcm.model.config import ModelConfig

DEFAULT_PRESET = "two-tower-tiny"
MAX_BOTTLENECK = 4
PUBLISHED_DIM = 1024  # of SONAR, for which the published presets were made

_WIDTHS: dict[str, dict[str, Any]] = {
    "small": {"width": 512, "num_heads": 8, "ffn_dim": 1536},
    "medium": {"width": 1024, "num_heads": 16, "ffn_dim": 2816},
    "large": {"width": 1536, "num_heads": 24, "ffn_dim": 4096},
    "1.6b": {"width": 2048, "num_heads": 16, "ffn_dim": 5632},
    "7b": {"width": 4096, "num_heads": 32, "ffn_dim": 11008},
}

PRESETS: dict[str, dict[str, Any]] = {
    # trains in minutes on two CPU cores
    "base-tiny": {"architecture": "base", "num_layers": 4, "width": 256, "num_heads": 4, "ffn_dim": 768},
    # about 60M, 350M and 800M parameters; medium trains in 12 GB
    "base-small": {"architecture": "base", "num_layers": 17, **_WIDTHS["small"]},
    "base-medium": {"architecture": "base", "num_layers": 27, **_WIDTHS["medium"]},
    "base-large": {"architecture": "base", "num_layers": 28, **_WIDTHS["large"]},
    "base-1.6b": {"architecture": "base", "num_layers": 32, **_WIDTHS["1.6b"]},
    # as base of the same size: the paper gives no sizes for its one-tower model
    "one-tower-tiny": {"architecture": "one-tower", "num_layers": 4, "width": 256, "num_heads": 4, "ffn_dim": 768},
    "one-tower-small": {"architecture": "one-tower", "num_layers": 17, **_WIDTHS["small"]},
    "one-tower-medium": {"architecture": "one-tower", "num_layers": 27, **_WIDTHS["medium"]},
    "one-tower-large": {"architecture": "one-tower", "num_layers": 28, **_WIDTHS["large"]},
    "one-tower-1.6b": {"architecture": "one-tower", "num_layers": 32, **_WIDTHS["1.6b"]},
    "two-tower-tiny": {
        "architecture": "two-tower",
        "context_layers": 2,
        "num_layers": 3,
        "width": 256,
        "num_heads": 4,
        "ffn_dim": 512,
    },
    "two-tower-small": {"architecture": "two-tower", "context_layers": 3, "num_layers": 8, **_WIDTHS["small"]},
    "two-tower-medium": {"architecture": "two-tower", "context_layers": 4, "num_layers": 12, **_WIDTHS["medium"]},
    "two-tower-large": {"architecture": "two-tower", "context_layers": 4, "num_layers": 13, **_WIDTHS["large"]},
    "two-tower-1.6b": {"architecture": "two-tower", "context_layers": 5, "num_layers": 13, **_WIDTHS["1.6b"]},
    "two-tower-7b": {"architecture": "two-tower", "context_layers": 5, "num_layers": 14, **_WIDTHS["7b"]},
}

GENERATION: dict[str, dict[str, Any]] = {
    # Trained for minutes, the context decides little of the next concept, and an unguided sample hardly shows it:
    # strong guidance, few steps. Chosen on training documents held out for it, among 1 to 40 steps and scales 1 to 20:
    # 1, 4 and 10 steps came out alike; of them 4 is the cheapest that still denoises.
    "two-tower-tiny": {
        "sampler": "ddim",
        "steps": 4,
        "guidance_scale": 20.0,
        "guidance_rescale": 0.9,
        "initial_noise_scale": 0.3,
    },
    "one-tower-tiny": {
        "sampler": "ddim",
        "steps": 4,
        "guidance_scale": 3.0,
        "guidance_rescale": 0.9,
        "initial_noise_scale": 0.3,
    },
}
"""Generation options of presets that are not the published ones."""

REENCODED = ("two-tower-tiny", "base-tiny", "one-tower-tiny")
"""Presets that, fed with their own concepts (strongly guided, or averages), soon say one thing of a bank for ever."""


def generation_options(name: str, codec: str) -> dict[str, Any]:
    """What a new model of a preset keeps in its `generation_config.json`.

    Args:
        name: the preset.
        codec: the name of its concepts' codec. Only where that answers from a bank is the decoded text read again: a
            decoder that writes what a concept says leaves it to `--reencode`.
    """
    reencoded = {"reencode": True} if name in REENCODED and answers_from_bank(codec) else {}
    return GENERATION.get(name, {}) | reencoded


def preset(name: str, dim: int) -> ModelConfig:
    """The config of a preset for concepts of `dim` numbers.

    Raises:
        UserError: no such preset; names the nearest.
        ConfigError: concepts more than four times as wide as the model, which it could hardly pass through.
    """
    if name not in PRESETS:
        close = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(PRESETS)}"
        raise UserError(f"unknown preset {name}: {hint}")
    config = validate(ModelConfig, {**PRESETS[name], "preset": name, "dim": dim}, prefix="model")
    if dim > MAX_BOTTLENECK * config.width:
        raise ConfigError(f"preset {name} is {config.width} wide, too narrow for dim={dim}: choose a larger preset")
    return config
