"""The reference folders, and SONAR codecs over them."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import load_file

from lexalcm.codec.sonar.hf import SonarHfCodec

DATA = Path(__file__).parents[1] / "data"
REFERENCE = DATA / "reference_sonar"
RARE = DATA / "reference_sonar_rare"
EXPECTED = json.loads((REFERENCE / "expected.json").read_bytes())
TENSORS = load_file(REFERENCE / "expected.safetensors")
LANGUAGES = EXPECTED["langs"]
OPTIONS = {"languages": LANGUAGES, "heads": EXPECTED["config"]["heads"], "max_seq_len": 64}

FAIRSEQ_ROWS = [2, 0, 3, 1]
"""Where bos, pad, eos, unk, the first rows of fairseq's tables, stand in fairseq2's."""


def hf_codec(folder: Path = REFERENCE, **options: Any) -> SonarHfCodec:
    return SonarHfCodec.create((), **({"weights": str(folder)} | OPTIONS | options))


def state_of(side: str, folder: Path = REFERENCE) -> dict[str, torch.Tensor]:
    """A published checkpoint's tensors, under fairseq2's names."""
    return torch.load(folder / f"{side}.pt", weights_only=True)["model"]


def as_fairseq(state: dict[str, torch.Tensor], side: str) -> dict[str, torch.Tensor]:
    """The same weights as older files have them: other names, other first four rows."""
    renamed = {}
    for key, tensor in state.items():
        name = key.removeprefix(f"{side}.").replace(f"{side}_frontend.embed.", "embed_tokens.")
        name = name.replace(".encoder_decoder_attn", ".encoder_attn").replace("attn.output_proj.", "attn.out_proj.")
        name = name.replace(".ffn.inner_proj.", ".fc1.").replace(".ffn.output_proj.", ".fc2.")
        name = name.replace(".ffn_layer_norm.", ".final_layer_norm.").replace("final_proj.", "output_projection.")
        if tensor.shape[0] == EXPECTED["config"]["vocab_size"]:
            tensor = torch.cat([tensor[FAIRSEQ_ROWS], tensor[4:]])
        renamed[name] = tensor
    return renamed
