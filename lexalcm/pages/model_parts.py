"""What a model is made of: its parts and their pieces, with parameters and memory, counted without allocating them."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from lexalcm.model.config import ModelConfig
from lexalcm.model.create import meta_model

PIECES = {
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
"""Names of modules in words, where they are not their own words."""

WEIGHTS = {"bf16": 2, "fp32": 4}
"""Bytes of a parameter."""

TRAINING = {"weights": 2, "gradients": 2, "float32 weights": 4, "AdamW": 8}
"""Bytes of a parameter in bf16 training: AdamW keeps two float32 means of each, and updates a float32 copy."""


@dataclass(frozen=True)
class Piece:
    """Some modules of one kind in one part.

    Attributes:
        part: a tower, or the model's own modules.
        name: in words.
        layers: over how many layers its parameters are spread; 0 for what stands outside the layers.
        parameters: of all layers together.
    """

    part: str
    name: str
    layers: int
    parameters: int


def model_pieces(config: ModelConfig) -> list[Piece]:
    """The pieces of a model, in the order in which it holds them; together they hold all its parameters."""
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
        elif part in PIECES or "." not in rest:  # of the model's own, outside its towers
            part, rest = "input and output", name
        module = rest.split(".")[0]
        key = (part, "norms" if module.endswith("norm") else PIECES.get(module, module.replace("_", " ")))
        counts[key] += parameter.numel()
        if layer is not None:
            layers[key].add(layer)
    return [Piece(part, piece, len(layers[part, piece]), count) for (part, piece), count in counts.items()]


def parts(pieces: Sequence[Piece]) -> dict[str, int]:
    """Parameters of each part."""
    return {part: sum(piece.parameters for piece in pieces if piece.part == part) for part in _names(pieces)}


def _names(pieces: Sequence[Piece]) -> list[str]:
    return list(dict.fromkeys(piece.part for piece in pieces))


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
