"""Sizes of one-tower models."""

from lexalcm.model.diffusion_lcm import TINY_GENERATION
from lexalcm.model.presets import WIDTHS, Preset

PRESETS = {  # layers as base of the same size: the paper gives no sizes for its one-tower model
    "tiny": Preset(
        {"num_layers": 4, "width": 256, "num_heads": 4, "ffn_dim": 768},
        {**TINY_GENERATION, "guidance_scale": 3.0},
        reencode=True,
    ),
    "small": Preset({"num_layers": 17, **WIDTHS["small"]}),
    "medium": Preset({"num_layers": 27, **WIDTHS["medium"]}),
    "large": Preset({"num_layers": 28, **WIDTHS["large"]}),
    "1.6b": Preset({"num_layers": 32, **WIDTHS["1.6b"]}),
}
