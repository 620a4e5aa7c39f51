"""Safetensors files written one tensor at a time, so that a sharded model is never whole in one memory.

The library's own writer wants all tensors at once. The format is small enough to stream: eight bytes with the
header's length, a JSON header that names each tensor's type, shape and place, then the numbers
(https://github.com/huggingface/safetensors#format). Reading is left to the library.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

FLOAT32_BYTES = 4


def write_tensors(path: Path, shapes: Mapping[str, torch.Size], tensors: Iterable[torch.Tensor]) -> dict[str, Any]:
    """Write float32 tensors, which come in the order of their names' `shapes`.

    Returns:
        The file's `bytes` and `sha256`, to tell a damaged file by.
    """
    header: dict[str, object] = {}
    offset = 0
    for name, shape in shapes.items():
        end = offset + FLOAT32_BYTES * shape.numel()
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the numbers begin at a multiple of eight bytes
    digest = hashlib.sha256()
    written = 0
    with path.open("wb") as file:

        def write(data: bytes) -> None:
            nonlocal written
            digest.update(data)
            written += file.write(data)

        write(len(text).to_bytes(8, "little"))
        write(text)
        for (name, shape), tensor in zip(shapes.items(), tensors, strict=True):
            if tensor.shape != shape:
                raise ValueError(f"{name} should be {tuple(shape)}, but is {tuple(tensor.shape)}")
            if tensor.numel():
                write(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return {"bytes": written, "sha256": digest.hexdigest()}


def file_sha256(path: Path) -> str:
    """A file's SHA-256, in hexadecimal."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
