"""The model's guess of every concept of a text from the true concepts before it: evaluation, and `lcm infer --each`.

A base model needs one forward pass. A two-tower model runs its contextualizer once and denoises all positions at once,
so that a whole packed row costs the sequential steps of a single concept.

Shapes: B rows, L positions, D embedding dimension.
"""

import torch
from torch import Tensor

from lexalcm.generate.denoising import ConceptDenoiser, DrawNoise
from lexalcm.generate.options import GenerationOptions
from lexalcm.model.attention import shifted_causal_mask
from lexalcm.model.base import BaseLCM
from lexalcm.model.lcm import LCM, check_rows, evaluating
from lexalcm.model.two_tower import TwoTowerLCM, shift_contexts


def predict_each(
    model: LCM, embeddings: Tensor, documents: Tensor, positions: Tensor, options: GenerationOptions, seed: int
) -> Tensor:
    """Guess each concept of packed rows from those before it in its document.

    Args:
        model: any architecture; run in evaluation mode.
        embeddings: concepts in the codec's space, [B, L, D].
        documents: which document of its row a position belongs to, int64 [B, L]; -1 on padding.
        positions: position within the document, int64 [B, L].
        options: how a diffusion model generates; a base model takes no notice.
        seed: of a diffusion model's noise, which is drawn on the CPU: the same on every device.

    Returns:
        guesses in the codec's space, float32 [B, L, D]; NaN at the first position of a document and on padding.

    Raises:
        UserError: shapes that do not agree, another dimension than the model's, NaN, more steps than in training.
    """
    check_rows(model.config, embeddings, documents=documents, positions=positions)
    model.check_concepts(embeddings, "embeddings")
    generator = torch.Generator().manual_seed(seed)
    shape = embeddings.shape
    return predict_each_from_noise(
        model, embeddings, documents, positions, options, lambda: torch.randn(shape, generator=generator)
    )


@torch.inference_mode()
def predict_each_from_noise(
    model: LCM,
    embeddings_BLD: Tensor,
    documents_BL: Tensor,
    positions_BL: Tensor,
    options: GenerationOptions,
    draw_noise: DrawNoise,
) -> Tensor:
    """`predict_each` with noise [B, L, D] from `draw_noise`, unchecked."""
    device = model.device
    documents_BL, positions_BL = documents_BL.to(device), positions_BL.to(device)
    with evaluating(model):
        concepts_BLD = model.normalizer.normalize(embeddings_BLD.to(device))
        if isinstance(model, BaseLCM):
            next_BLD = model.predict(concepts_BLD, documents_BL, positions_BL)
            guesses_BLD = next_BLD.roll(1, dims=1)
        elif isinstance(model, TwoTowerLCM):
            mask_B1LK = shifted_causal_mask(documents_BL, torch.zeros_like(documents_BL, dtype=torch.bool))
            memory_BKW = shift_contexts(model.contextualizer(concepts_BLD, documents_BL, positions_BL))
            denoiser = ConceptDenoiser(model, options)
            guesses_BLD = denoiser.denoise(memory_BKW, mask_B1LK, lambda: draw_noise().to(device))
        else:
            raise TypeError(f"no way to generate with {type(model).__name__}")
    before_BL = torch.cat([torch.full_like(documents_BL[:, :1], -1), documents_BL[:, :-1]], dim=1)
    unknown_BL = (documents_BL != before_BL) | (documents_BL == -1)
    return model.normalizer.denormalize(guesses_BLD).masked_fill(unknown_BL.unsqueeze(-1), torch.nan)
