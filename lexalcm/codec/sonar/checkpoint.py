"""SONAR weights in the three layouts that they are published in, read into one: names as in Transformers' M2M-100.

| layout | embedding table | order of its first four rows |
|---|---|---|
| fairseq2 (the released `.pt` files) | `encoder_frontend.embed.weight` | pad, unk, bos, eos |
| fairseq (older files) | `embed_tokens.weight` | bos, pad, eos, unk |
| Transformers (hub repositories) | `embed_tokens.weight`, `shared.weight` | bos, pad, eos, unk |

The order of fairseq2 is the one used here: it is the tokenizer's. Sizes are read off the tensors. Files are opened with
`weights_only=True` and memory-mapped; no tensor is copied but the embedding table where its rows are reordered.
"""

import argparse
import hashlib
import pickle
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from lexalcm.codec.sonar.tokenizer import CONTROL_SYMBOLS
from lexalcm.errors import CodecError

Side = Literal["encoder", "decoder"]

EMBEDDING = "embed_tokens.weight"
OUTPUT = "output_projection.weight"

_FAIRSEQ_ORDER = (1, 3, 0, 2)
"""Where pad, unk, bos, eos stand in tables of fairseq and Transformers."""

_RENAMES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^(?:encoder|decoder)(?:_frontend)?\.", ""),
        (r"^(?:embed|shared)\.", "embed_tokens."),
        (r"^(?:final_proj|lm_head)\.", "output_projection."),
        (r"\.ffn\.inner_proj\.", ".fc1."),
        (r"\.ffn\.output_proj\.", ".fc2."),
        (r"\.ffn_layer_norm\.", ".final_layer_norm."),
        (r"\.encoder_decoder_attn", ".encoder_attn"),
        (r"_attn\.output_proj\.", "_attn.out_proj."),
    )
)
_OF_DECODER = re.compile(r"\.encoder(?:_decoder)?_attn\.")
_NO_WEIGHTS = re.compile(r"(?:^|\.)(?:version|embed_positions\b.*|pos_encoder\b.*)$")


@dataclass(frozen=True)
class SonarSizes:
    """Sizes of an encoder or decoder, as its tensors say. The number of heads does not show in them."""

    vocab_size: int
    dim: int
    ffn_dim: int
    layers: int


@dataclass(frozen=True)
class SonarWeights:
    """One side of SONAR: tensors under the names of Transformers' `M2M100Encoder` or `M2M100Decoder`."""

    side: Side
    sizes: SonarSizes
    tensors: dict[str, Tensor]


def read_weights(file: Path, side: Side) -> SonarWeights:
    """Read an encoder or decoder from a `.pt`, `.bin` or `.safetensors` file of any of the layouts.

    Raises:
        CodecError: the file is missing, damaged, wants to run code, or holds something else.
    """
    return arrange(_read_file(file), side, str(file))


def arrange(state: Mapping[str, Any], side: Side, source: str) -> SonarWeights:
    """Bring a state dict of any layout into the common one.

    Args:
        state: the checkpoint, with or without the levels `model` and `state_dict` around the tensors; fairseq's own
            files keep the embedding table beside `state_dict` and not in it.
        side: which half is wanted of a checkpoint that holds both.
        source: where it is from, for messages.

    Raises:
        CodecError: tensors are missing, unknown, or of sizes that do not belong together.
    """
    state, beside = _inner(state)
    ordered = f"{side}_frontend.embed.weight" in state
    tensors = dict(_renamed(state, side))
    if EMBEDDING not in tensors and beside is not None:
        tensors |= _renamed({EMBEDDING if isinstance(beside, Tensor) else "embed_tokens": beside}, side)
    if EMBEDDING not in tensors:
        raise CodecError(f"{source} is not a SONAR text {side}: it has no table of token embeddings")
    output = tensors.pop(OUTPUT, None)
    if output is not None and not _same(output, tensors[EMBEDDING]):
        raise CodecError(f"{source} is not a SONAR text {side}: its output projection is not its embedding table")
    if not ordered:
        tensors[EMBEDDING] = _reorder_rows(tensors[EMBEDDING])
    return SonarWeights(side, _sizes(tensors, side, source), tensors)


def weights_digest(weights: SonarWeights) -> str:
    """SHA-256 of an encoder's numbers, whatever layout and number type they are stored in, as float32.

    Rows that no text reaches (pad, bos and the control symbols behind the languages) do not count: ports differ there.
    """

    def digest(name: str) -> bytes:
        tensor = weights.tensors[name]
        parts = [tensor[1:2], tensor[3:-CONTROL_SYMBOLS]] if name == EMBEDDING else [tensor]
        found = hashlib.sha256(name.encode())
        for part in parts:
            for rows in part.split(16384):
                found.update(rows.to("cpu", torch.float32).contiguous().numpy().data)
        return found.digest()

    with ThreadPoolExecutor() as pool:  # hashing frees the interpreter
        digests = list(pool.map(digest, sorted(weights.tensors)))
    return hashlib.sha256(b"".join(digests)).hexdigest()


def holds_decoder(file: Path) -> bool:
    """Whether a file of weights has a decoder's.

    Raises:
        CodecError: as `read_weights`.
    """
    if file.suffix != ".safetensors":
        return any(_OF_DECODER.search(str(name)) for name in _inner(_read_file(file))[0])
    try:
        with safe_open(file, framework="pt") as opened:
            return any(_OF_DECODER.search(name) for name in opened.keys())  # noqa: SIM118  safe_open has no iterator
    except (OSError, SafetensorError) as error:
        raise CodecError(f"{file} is damaged: download it again") from error


def _read_file(file: Path) -> Mapping[str, Any]:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        # plain containers that older files hold beside the tensors
        with torch.serialization.safe_globals([argparse.Namespace, torch.nn.Embedding]):
            try:
                found = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError as error:
                if "mmap can only be used" not in str(error):
                    raise
                found = torch.load(file, map_location="cpu", weights_only=True)  # from before torch 1.6
    except OSError as error:
        raise CodecError(f"cannot read the weights {file}: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        raise CodecError(
            f"{file} is not a weights file, or holds more than weights: it is not opened, because that could run code"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, ValueError) as error:
        raise CodecError(f"{file} is damaged or not a file of weights: download it again") from error
    if not isinstance(found, Mapping):
        raise CodecError(f"{file} holds no weights by name: give a SONAR text encoder or decoder")
    return found


def _inner(state: Mapping[str, Any]) -> tuple[Mapping[str, Any], Any]:
    """The tensors by name without the levels around them, and an embedding table that stood beside them."""
    beside: Any = None
    for level in ("model", "state_dict"):
        if isinstance(state.get(level), Mapping):
            beside = state.get("embed_tokens", beside)
            state = state[level]
    return state, beside


def _renamed(state: Mapping[str, Any], side: Side) -> Iterable[tuple[str, Tensor]]:
    other = "decoder" if side == "encoder" else "encoder"
    for key, value in state.items():
        name = key.removeprefix("model.")
        if name.startswith((f"{other}.", f"{other}_frontend.")) or _NO_WEIGHTS.search(name):
            continue
        if isinstance(value, torch.nn.Embedding):  # some older files keep the module
            name, value = f"{name}.weight", value.weight.detach()
        for pattern, replacement in _RENAMES:
            name = pattern.sub(replacement, name)
        if isinstance(value, Tensor):
            yield name, value


def _same(one: Tensor, other: Tensor) -> bool:
    return one.data_ptr() == other.data_ptr() or (one.shape == other.shape and torch.equal(one, other))


def _reorder_rows(table: Tensor) -> Tensor:
    reordered = table.clone()
    reordered[: len(_FAIRSEQ_ORDER)] = table[list(_FAIRSEQ_ORDER)]
    return reordered


def _sizes(tensors: Mapping[str, Tensor], side: Side, source: str) -> SonarSizes:
    """Sizes, once every tensor is there and has its shape."""
    numbers = [int(match[1]) for name in tensors if (match := re.match(r"layers\.(\d+)\.", name))]
    inner = tensors.get("layers.0.fc1.weight")
    if not numbers or inner is None:
        raise CodecError(f"{source} is not a SONAR text {side}: it has no layers")
    vocab_size, dim = tensors[EMBEDDING].shape
    sizes = SonarSizes(vocab_size, dim, inner.shape[0], max(numbers) + 1)
    expected = expected_shapes(sizes, side)
    missing = [name for name in expected if name not in tensors]
    unknown = [name for name in tensors if name not in expected]
    if missing or unknown:
        what = f"{missing[0]} is missing" if missing else f"{unknown[0]} is unknown"
        raise CodecError(f"{source} is not a SONAR text {side}: {what}")
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape:
            raise CodecError(
                f"{source} is a SONAR text {side} of sizes that do not fit: "
                f"{name} is {tuple(tensors[name].shape)}, expected {shape}"
            )
    return sizes


def expected_shapes(sizes: SonarSizes, side: Side) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of an encoder or decoder."""
    dim, ffn_dim = sizes.dim, sizes.ffn_dim
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (sizes.vocab_size, dim)}

    def linear(name: str, rows: int, columns: int) -> None:
        shapes.update({f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)})

    def norm(name: str) -> None:
        shapes.update({f"{name}.weight": (dim,), f"{name}.bias": (dim,)})

    for layer in range(sizes.layers):
        prefix = f"layers.{layer}"
        for attention in ("self_attn",) if side == "encoder" else ("self_attn", "encoder_attn"):
            for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
                linear(f"{prefix}.{attention}.{projection}", dim, dim)
            norm(f"{prefix}.{attention}_layer_norm")
        linear(f"{prefix}.fc1", ffn_dim, dim)
        linear(f"{prefix}.fc2", dim, ffn_dim)
        norm(f"{prefix}.final_layer_norm")
    norm("layer_norm")
    return shapes
