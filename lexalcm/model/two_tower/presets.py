"""Sizes of two-tower models."""

from lexalcm.model.diffusion_lcm import TINY_GENERATION
from lexalcm.model.presets import WIDTHS, Preset

PRESETS = {
    "tiny": Preset(
        {"context_layers": 2, "num_layers": 3, "width": 256, "num_heads": 4, "ffn_dim": 512},
        {**TINY_GENERATION, "guidance_scale": 20.0},
        reencode=True,
    ),
    "small": Preset({"context_layers": 3, "num_layers": 8, **WIDTHS["small"]}),
    "medium": Preset({"context_layers": 4, "num_layers": 12, **WIDTHS["medium"]}),
    "large": Preset({"context_layers": 4, "num_layers": 13, **WIDTHS["large"]}),
    "1.6b": Preset({"context_layers": 5, "num_layers": 13, **WIDTHS["1.6b"]}),
    "7b": Preset({"context_layers": 5, "num_layers": 14, **WIDTHS["7b"]}),
}
"""A small contextualizer under a larger denoiser, as in the published models: 1.6b and 7b have their sizes, and their
counts less the denoiser's self-attention queries and keys, which do not exist here."""
