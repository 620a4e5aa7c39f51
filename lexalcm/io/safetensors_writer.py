"""Safetensors files written one tensor at a time, so that a sharded model is never whole in one memory.

The library's own writer wants all tensors at once. The format is small enough to stream: eight bytes with the
header's length, a JSON header that names each tensor's type, shape and place, then the numbers
(https://github.com/huggingface/safetensors#format). Reading is left to the library, of several files as if of one.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open

NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.uint8: "U8", torch.int64: "I64"}
"""Of the types that are written, in the format."""


class TensorSpec(NamedTuple):
    """What a stored tensor is like."""

    shape: torch.Size
    dtype: torch.dtype = torch.float32

    @property
    def nbytes(self) -> int:
        """Bytes of its numbers."""
        return self.shape.numel() * self.dtype.itemsize


def write_tensors(path: Path, layout: Mapping[str, TensorSpec], tensors: Iterable[torch.Tensor]) -> dict[str, Any]:
    """Write tensors, which come in the order of the `layout` of their names, and in any type that can be made theirs.

    Returns:
        The file's `bytes` and `sha256`, to tell a damaged file by.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}  # what Transformers' loaders look for
    offset = 0
    for name, spec in layout.items():
        end = offset + spec.nbytes
        header[name] = {"dtype": NAMES[spec.dtype], "shape": list(spec.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the numbers begin at a multiple of eight bytes
    digest = hashlib.sha256()
    written = 0
    with path.open("wb") as file:

        def write(data: Any) -> None:
            nonlocal written
            digest.update(data)
            written += file.write(data)

        write(len(text).to_bytes(8, "little"))
        write(text)
        for (name, spec), tensor in zip(layout.items(), tensors, strict=True):
            if tensor.shape != spec.shape:
                raise ValueError(f"{name} should be {tuple(spec.shape)}, but is {tuple(tensor.shape)}")
            if tensor.numel():
                write(_bytes(tensor.detach().to("cpu", spec.dtype)))
    return {"bytes": written, "sha256": digest.hexdigest()}


class StoredTensors(Mapping[str, torch.Tensor]):
    """The tensors of some safetensors files by name, each read when it is asked for."""

    def __init__(self, files: Iterable[Path]) -> None:
        opened = [safe_open(file, framework="pt") for file in files]
        self._file_of = {name: file for file in opened for name in file.keys()}  # noqa: SIM118  no mapping

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._file_of[name].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)


def _bytes(tensor: torch.Tensor) -> memoryview:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().data
