"""SONAR weights of every layout they are published in become the same tensors; nothing is ever run."""

import argparse
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from sonar_reference import REFERENCE, as_fairseq, state_of

from lexalcm.codec.sonar.checkpoint import EMBEDDING, arrange, expected_shapes, read_weights, weights_digest
from lexalcm.errors import CodecError

SIDES = ["encoder", "decoder"]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("side", SIDES)
def test_sizes_are_read_off_the_tensors(side: Any) -> None:
    weights = read_weights(REFERENCE / f"{side}.pt", side)
    assert vars(weights.sizes) == {"vocab_size": 1007, "dim": 64, "ffn_dim": 128, "layers": 2}
    assert {name: tuple(tensor.shape) for name, tensor in weights.tensors.items()} == expected_shapes(
        weights.sizes, side
    )


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state},
        lambda state: {"state_dict": state},
        lambda state: {"model": {"state_dict": state}, "args": argparse.Namespace(arch="transformer")},
    ],
)
def test_older_files_have_other_names_and_rows(tmp_path: Path, side: Any, wrap: Any) -> None:
    state = as_fairseq(state_of(side), side)
    state["version"] = torch.tensor([3.0])
    state["embed_positions._float_tensor"] = torch.zeros(1)
    torch.save(wrap(state), tmp_path / "old.pt")
    found = read_weights(tmp_path / "old.pt", side)
    assert same(found.tensors, read_weights(REFERENCE / f"{side}.pt", side).tensors)


def test_older_files_may_keep_the_embedding_module(tmp_path: Path) -> None:
    state: dict[str, Any] = as_fairseq(state_of("encoder"), "encoder")
    state["embed_tokens"] = torch.nn.Embedding.from_pretrained(state.pop("embed_tokens.weight"))
    torch.save({"model": {"state_dict": state}}, tmp_path / "old.pt")
    found = read_weights(tmp_path / "old.pt", "encoder")
    assert same(found.tensors, read_weights(REFERENCE / "encoder.pt", "encoder").tensors)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("module", [True, False])
def test_older_files_may_keep_the_table_beside_the_state_dict(tmp_path: Path, side: Any, module: bool) -> None:
    """As those that fairseq wrote for SONAR: Meta's converter reads `checkpoint["embed_tokens"].weight`."""
    state: dict[str, Any] = as_fairseq(state_of(side), side)
    table = state.pop("embed_tokens.weight")
    beside = torch.nn.Embedding.from_pretrained(table) if module else table
    torch.save({"state_dict": state, "embed_tokens": beside, "args": argparse.Namespace()}, tmp_path / "old.pt")
    found = read_weights(tmp_path / "old.pt", side)
    assert same(found.tensors, read_weights(REFERENCE / f"{side}.pt", side).tensors)


def test_a_table_inside_counts_more_than_one_beside() -> None:
    state: dict[str, Any] = as_fairseq(state_of("encoder"), "encoder")
    other = torch.nn.Embedding.from_pretrained(torch.zeros_like(state["embed_tokens.weight"]))
    found = arrange({"state_dict": state, "embed_tokens": other}, "encoder", "")
    assert same(found.tensors, read_weights(REFERENCE / "encoder.pt", "encoder").tensors)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_transformers_layout_with_both_halves_in_one_file(tmp_path: Path, side: Any, suffix: str) -> None:
    state = {}
    for half in SIDES:
        table = as_fairseq(state_of(half), half)
        table.pop("output_projection.weight", None)
        weight = table.pop("embed_tokens.weight")
        if half == side:
            state["model.shared.weight"] = weight
        state |= {f"model.{half}.{name}": tensor.clone() for name, tensor in table.items()}
    file = tmp_path / f"model.{suffix}"
    save_file(state, file) if suffix == "safetensors" else torch.save(state, file)
    assert same(read_weights(file, side).tensors, read_weights(REFERENCE / f"{side}.pt", side).tensors)


def test_before_zip_files_too(tmp_path: Path) -> None:
    torch.save({"model": state_of("encoder")}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    assert read_weights(tmp_path / "x.pt", "encoder").sizes.layers == 2


def test_a_file_that_would_run_code_does_not(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"model": state_of("encoder") | {"evil": Evil()}}, tmp_path / "evil.pt")
    with pytest.raises(CodecError, match="not opened, because that could run code"):
        read_weights(tmp_path / "evil.pt", "encoder")
    assert not (tmp_path / "ran").exists()


def test_the_digest_is_of_the_numbers_that_embeddings_depend_on() -> None:
    state = state_of("encoder")
    digest = weights_digest(arrange(state, "encoder", ""))
    assert weights_digest(arrange(as_fairseq(state, "encoder"), "encoder", "")) == digest

    def changed(name: str, row: int) -> str:
        other = {key: tensor.clone() for key, tensor in state.items()}
        other[name][row] += 1
        return weights_digest(arrange(other, "encoder", ""))

    table = "encoder_frontend.embed.weight"
    unread = {"pad": 0, "bos": 2, "control": 1004, "last": 1006}
    read = {"unk": 1, "eos": 3, "piece": 4, "language": 1003}
    assert {changed(table, row) for row in unread.values()} == {digest}
    assert len({digest, *(changed(table, row) for row in read.values())}) == 1 + len(read)
    assert changed("encoder.layers.1.ffn.inner_proj.bias", 5) != digest


class OnGpu(torch.Tensor):
    """A tensor that, like one on a GPU, gives numpy nothing before it is brought to the CPU."""

    def numpy(self) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu()")

    def to(self, *where: Any) -> torch.Tensor:
        moved = super().to(*where)
        return moved.as_subclass(torch.Tensor) if "cpu" in where else moved


def test_the_digest_of_weights_on_a_gpu_is_the_same() -> None:
    """As sonar-space has them, whose pipeline puts the model on its device before anything is measured."""
    state = state_of("encoder")
    there = {name: tensor.as_subclass(OnGpu) for name, tensor in state.items()}
    with pytest.raises(TypeError):
        there["layer_norm.weight"].to(torch.float64).numpy()
    assert weights_digest(arrange(there, "encoder", "")) == weights_digest(arrange(state, "encoder", ""))


def drop(state: dict[str, torch.Tensor]) -> None:
    del state["encoder.layers.1.self_attn.k_proj.bias"]


def add(state: dict[str, torch.Tensor]) -> None:
    state["encoder.layers.0.adapter.weight"] = torch.zeros(2)


def reshape(state: dict[str, torch.Tensor]) -> None:
    state["encoder.layers.1.ffn.output_proj.weight"] = torch.zeros(64, 100)


def no_layers(state: dict[str, torch.Tensor]) -> None:
    for name in [name for name in state if "layers" in name]:
        del state[name]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (drop, r"layers\.1\.self_attn\.k_proj\.bias is missing"),
        (add, r"layers\.0\.adapter\.weight is unknown"),
        (reshape, r"sizes that do not fit: layers\.1\.fc2\.weight is \(64, 100\), expected \(64, 128\)"),
        (no_layers, "it has no layers"),
        (lambda state: state.clear(), "no table of token embeddings"),
    ],
)
def test_what_is_no_encoder_is_named(harm: Any, message: str) -> None:
    state = state_of("encoder")
    harm(state)
    with pytest.raises(CodecError, match=message):
        arrange(state, "encoder", "x.pt")


def test_a_decoder_is_no_encoder() -> None:
    with pytest.raises(CodecError, match=r"decoder\.pt is not a SONAR text encoder"):
        read_weights(REFERENCE / "decoder.pt", "encoder")


def test_a_decoder_with_a_projection_of_its_own_is_refused() -> None:
    state = state_of("decoder")
    state["final_proj.weight"] = state["final_proj.weight"] + 1
    with pytest.raises(CodecError, match="its output projection is not its embedding table"):
        arrange(state, "decoder", "x.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No such file"), (b"", "damaged|no file"), (b"<html>not found</html>", "damaged|no file")],
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_missing_and_damaged_files_are_named(tmp_path: Path, content: Any, message: str, suffix: str) -> None:
    file = tmp_path / f"encoder{suffix}"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(CodecError, match=message) as caught:
        read_weights(file, "encoder")
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_half_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes((REFERENCE / "encoder.pt").read_bytes()[:200_000])
    with pytest.raises(CodecError, match="damaged"):
        read_weights(tmp_path / "x.pt", "encoder")


def test_rows_stand_where_the_tokenizer_looks(tmp_path: Path) -> None:
    """Of fairseq's bos, pad, eos, unk the tokenizer wants pad, unk, bos, eos."""
    state = as_fairseq(state_of("encoder"), "encoder")
    bos, pad, eos, unk = state["embed_tokens.weight"][:4]
    rows = arrange(state, "encoder", "").tensors[EMBEDDING][:4]
    assert torch.equal(rows, torch.stack([pad, unk, bos, eos]))
