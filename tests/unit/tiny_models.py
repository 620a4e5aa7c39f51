"""Small models and packed rows for tests, with weights that let every part matter."""

import torch
from torch import Tensor

from lexalcm.model import LCM, ModelConfig, create_model

DIM = 6
CONFIGS = {
    "base": ModelConfig(architecture="base", dim=DIM, width=16, num_heads=2, ffn_dim=24, num_layers=2),
    "one-tower": ModelConfig(architecture="one-tower", dim=DIM, width=16, num_heads=2, ffn_dim=24, num_layers=2),
    "two-tower": ModelConfig(
        architecture="two-tower", dim=DIM, width=16, num_heads=2, ffn_dim=24, num_layers=2, context_layers=2
    ),
}


def lively_model(architecture: str, seed: int = 0, **changes: object) -> LCM:
    """A model whose modulators, zero at the start of training, are random; with a normalizer that does something."""
    model = create_model(CONFIGS[architecture].model_copy(update=changes), seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "modulator" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    model.normalizer.set_statistics({"center": torch.linspace(-1, 1, DIM), "scale": torch.linspace(0.5, 2, DIM)})
    return model.eval()


def packed_rows(lengths: list[list[int]], row_length: int, seed: int = 0) -> dict[str, Tensor]:
    """Rows of random documents of the given lengths, as a loader packs them: the fields of a batch."""
    rows = len(lengths)
    embeddings = torch.zeros(rows, row_length, DIM)
    documents = torch.full((rows, row_length), -1)
    positions = torch.zeros(rows, row_length, dtype=torch.int64)
    generator = torch.Generator().manual_seed(seed)
    for row, row_lengths in enumerate(lengths):
        start = 0
        for number, length in enumerate(row_lengths):
            place = slice(start, start + length)
            embeddings[row, place] = torch.randn(length, DIM, generator=generator)
            documents[row, place] = number
            positions[row, place] = torch.arange(length)
            start += length
    targets = (documents >= 0) & (positions > 0)
    return {"embeddings": embeddings, "documents": documents, "positions": positions, "targets": targets}
