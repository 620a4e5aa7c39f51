"""Sizes of base models."""

from lexalcm.model.presets import WIDTHS, Preset

PRESETS = {
    "tiny": Preset({"num_layers": 4, "width": 256, "num_heads": 4, "ffn_dim": 768}, reencode=True),
    # about 60M, 350M and 800M parameters; medium trains in 12 GB
    "small": Preset({"num_layers": 17, **WIDTHS["small"]}),
    "medium": Preset({"num_layers": 27, **WIDTHS["medium"]}),
    "large": Preset({"num_layers": 28, **WIDTHS["large"]}),
    "1.6b": Preset({"num_layers": 32, **WIDTHS["1.6b"]}),  # the published one
}
