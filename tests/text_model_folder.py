"""A small model folder with a real codec, fitted on a slice of the packaged text: reads and writes in milliseconds."""

from functools import cache
from itertools import groupby
from pathlib import Path

import numpy as np
import torch

from lexalcm.codec.lsa.codec import LsaCodec
from lexalcm.codec.registry import CODEC_FOLDER
from lexalcm.codec.special import SPECIAL_FILE, write_special
from lexalcm.data.sources.corpus import Source, read_documents
from lexalcm.data.sources.sample import packaged_text
from lexalcm.model import ModelConfig, create_model
from lexalcm.text.segment import segment

SIZES = {"width": 32, "num_heads": 2, "ffn_dim": 48, "num_layers": 2}
GENERATION = {"sampler": "ddim", "steps": 3, "guidance_scale": 2.0, "max_sentences": 4}


@cache
def fitted_codec() -> LsaCodec:
    """Six documents each of English and Japanese: some hundred sentences."""
    with packaged_text() as path:
        documents = sorted(read_documents([Source(path, path.name)]), key=lambda one: one.lang)
    of_language = [list(group) for _, group in groupby(documents, key=lambda one: one.lang)]
    chosen = [one for group in of_language for one in group[:: -(-len(group) // 6)]]
    return LsaCodec.create([(one.lang, segment(one.text, one.lang)) for one in chosen], dim=32)


def make_text_model(folder: Path, architecture: str = "two-tower", **generation: object) -> Path:
    """Write a model folder whose weights all matter; `generation` goes over `GENERATION`."""
    codec = fitted_codec()
    towers = {"context_layers": 1} if architecture == "two-tower" else {}
    config = ModelConfig(architecture=architecture, dim=codec.dim, codec=codec.record(), **SIZES, **towers)
    model = create_model(config, seed=0)
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "modulator" in name:  # zero before training, which would hide the context
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=noise))
    embeddings = np.concatenate([codec.encode([text], lang) for lang, text in codec.bank.sentences[:50]])
    model.normalizer.set_statistics({"center": embeddings.mean(0), "scale": embeddings.std(0)})
    model.generation_config = {**GENERATION, **generation}
    folder.mkdir(parents=True)
    model.save_pretrained(folder)
    codec.save(folder / CODEC_FOLDER)
    write_special(folder / SPECIAL_FILE, codec)
    return folder
