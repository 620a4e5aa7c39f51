import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lexalcm.train.tensor_file import file_sha256, write_tensors


def test_the_library_reads_what_was_streamed(tmp_path: Path) -> None:
    tensors = {
        "a": torch.randn(3, 5),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 4),
        "transposed": torch.randn(4, 2).t(),
        "half": torch.randn(7).bfloat16(),
    }
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    record = write_tensors(tmp_path / "file", shapes, iter(tensors.values()))
    read = load_file(tmp_path / "file")
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(read[name], tensor.float())
    content = (tmp_path / "file").read_bytes()
    assert record == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert file_sha256(tmp_path / "file") == record["sha256"]


def test_a_tensor_of_another_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a should be"):
        write_tensors(tmp_path / "file", {"a": torch.Size((2,))}, iter([torch.zeros(3)]))
