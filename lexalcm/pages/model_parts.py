"""Parts of a model and the groups of modules in them: parameters and memory, counted without allocating them."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from lexalcm.model.config import ModelConfig
from lexalcm.model.create import meta_model

MODULE_NAMES = {
    "input_proj": "input projection",
    "attention": "self-attention",
    "self_projection": "self-projection",
    "cross_attention": "cross-attention",
    "ffn": "feed-forward",
    "modulator": "modulator",
    "time_embedding": "timestep embedding",
    "time_proj": "timestep projection",
    "output_proj": "output projection",
}
"""Display names of modules, where they differ from their own."""

WEIGHTS = {"bf16": 2, "fp32": 4}
"""Bytes of a parameter."""

TRAINING = {"weights": 2, "gradients": 2, "float32 weights": 4, "AdamW": 8}
"""Bytes of a parameter in bf16 training: AdamW keeps two float32 means of each, and updates a float32 copy."""


@dataclass(frozen=True)
class ModuleGroup:
    """The modules of one kind in one part.

    Attributes:
        part: a tower, or the model's own modules.
        name: for display.
        layers: over how many layers its parameters are spread; 0 for what stands outside the layers.
        parameters: of all layers together.
    """

    part: str
    name: str
    layers: int
    parameters: int


def module_groups(config: ModelConfig) -> list[ModuleGroup]:
    """The groups of a model, in its own order; together they hold all its parameters."""
    model = meta_model(config)
    blocks = {id(block) for block in model.blocks()}
    towers = [name for name, module in model.named_modules() if id(module) in blocks]
    counts: dict[tuple[str, str], int] = defaultdict(int)
    layers: dict[tuple[str, str], set[str]] = defaultdict(set)
    for name, parameter in model.named_parameters():
        part, _, rest = name.partition(".")
        layer = next((layer for layer in towers if name.startswith(f"{layer}.")), None)
        if layer is not None:
            rest = name.removeprefix(f"{layer}.")
        elif part in MODULE_NAMES or "." not in rest:  # of the model's own, outside its towers
            part, rest = "input and output", name
        module = rest.split(".")[0]
        key = (part, "norms" if module.endswith("norm") else MODULE_NAMES.get(module, module.replace("_", " ")))
        counts[key] += parameter.numel()
        if layer is not None:
            layers[key].add(layer)
    return [ModuleGroup(part, group, len(layers[part, group]), count) for (part, group), count in counts.items()]


def parameters_by_part(groups: Sequence[ModuleGroup]) -> dict[str, int]:
    """Parameters of each part."""
    return {part: sum(group.parameters for group in groups if group.part == part) for part in _names(groups)}


def _names(groups: Sequence[ModuleGroup]) -> list[str]:
    return list(dict.fromkeys(group.part for group in groups))


def size_text(count: float) -> str:
    """Bytes in few letters: `1.2 GB` (of 10^9)."""
    return _scaled(count, "kMGTP") + "B"


def operations_text(count: float) -> str:
    """Floating-point operations in few letters: `32 MFLOP`."""
    return _scaled(count, "kMGTP") + "FLOP"


def count_text(count: float) -> str:
    """A large number in few letters: `1.61 B`, `350 M`."""
    return _scaled(count, "kMBT").strip()


def _scaled(count: float, prefixes: str) -> str:
    thousands = 0
    while round(count, 3 - len(f"{count:.0f}")) >= 1000 and thousands < len(prefixes):
        count, thousands = count / 1000, thousands + 1
    return f"{count:.3g} {prefixes[thousands - 1] if thousands else ''}"
