import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lexalcm.io.hashing import file_sha256
from lexalcm.io.safetensors_writer import StoredTensors, TensorSpec, write_tensors


def test_the_library_reads_what_was_streamed(tmp_path: Path) -> None:
    tensors = {
        "a": torch.randn(3, 5),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 4),
        "transposed": torch.randn(4, 2).t(),
        "half": torch.randn(7).bfloat16(),
        "bytes": torch.arange(9, dtype=torch.uint8),
    }
    layout = {name: TensorSpec(tensor.shape) for name, tensor in tensors.items()}
    layout["bytes"] = TensorSpec(tensors["bytes"].shape, torch.uint8)
    record = write_tensors(tmp_path / "file", layout, iter(tensors.values()))
    read = load_file(tmp_path / "file")
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(read[name], tensor.float() if name != "bytes" else tensor)
    assert read["bytes"].dtype == torch.uint8
    content = (tmp_path / "file").read_bytes()
    assert record == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert file_sha256(tmp_path / "file") == record["sha256"]


def test_some_files_are_read_as_if_they_were_one(tmp_path: Path) -> None:
    tensors = {name: torch.randn(3, number) for number, name in enumerate("abcde", start=1)}
    files = {"one": "ca", "two": "bed", "none": ""}
    for file, names in files.items():
        layout = {name: TensorSpec(tensors[name].shape) for name in names}
        write_tensors(tmp_path / file, layout, (tensors[name] for name in names))
    read = StoredTensors(tmp_path / file for file in files)
    assert (sorted(read), len(read)) == (sorted(tensors), 5)
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())
    assert "f" not in read
    assert not StoredTensors([])


def test_a_tensor_of_another_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a should be"):
        write_tensors(tmp_path / "file", {"a": TensorSpec(torch.Size((2,)))}, iter([torch.zeros(3)]))
