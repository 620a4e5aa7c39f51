"""The model's guess of every concept of a text from the true concepts before it: evaluation, and `lcm infer --each`.

A base model needs one forward pass. A diffusion model reads the clean concepts once and denoises all positions at once,
so that a whole packed row costs the sequential steps of a single concept.

Shapes: B rows, L positions, D embedding dimension.
"""

import torch
from torch import Tensor

from lexalcm.data.batches.batch import check_rows
from lexalcm.diffusion.samplers import DrawNoise
from lexalcm.model.lcm import evaluating
from lexalcm.model.predictor import ConceptPredictor


def predict_each(
    predictor: ConceptPredictor, embeddings: Tensor, documents: Tensor, positions: Tensor, seed: int
) -> Tensor:
    """Guess each concept of packed rows from those before it in its document.

    Args:
        predictor: a model with its options, see `prepare`.
        embeddings: concepts in the codec's space, [B, L, D].
        documents: which document of its row a position belongs to, int64 [B, L]; -1 on padding.
        positions: position within the document, int64 [B, L].
        seed: of a diffusion model's noise, which is drawn on the CPU: the same on every device.

    Returns:
        guesses in the codec's space, float32 [B, L, D]; NaN at the first position of a document and on padding.

    Raises:
        UserError: shapes that do not agree, another dimension than the model's, NaN.
    """
    model = predictor.model
    check_rows(model.config.dim, embeddings, documents=documents, positions=positions)
    model.check_concepts(embeddings, "embeddings")
    generator = torch.Generator().manual_seed(seed)
    shape = embeddings.shape
    return predict_each_from_noise(
        predictor, embeddings, documents, positions, lambda: torch.randn(shape, generator=generator)
    )


@torch.inference_mode()
def predict_each_from_noise(
    predictor: ConceptPredictor,
    embeddings_BLD: Tensor,
    documents_BL: Tensor,
    positions_BL: Tensor,
    draw_noise: DrawNoise,
) -> Tensor:
    """`predict_each` with noise [B, L, D] from `draw_noise`, unchecked."""
    model = predictor.model
    device = model.device
    documents_BL, positions_BL = documents_BL.to(device), positions_BL.to(device)
    with evaluating(model):
        concepts_BLD = model.normalizer.normalize(embeddings_BLD.to(device))
        guesses_BLD = predictor.predict_rows(concepts_BLD, documents_BL, positions_BL, lambda: draw_noise().to(device))
    before_BL = torch.cat([torch.full_like(documents_BL[:, :1], -1), documents_BL[:, :-1]], dim=1)
    unknown_BL = (documents_BL != before_BL) | (documents_BL == -1)
    return model.normalizer.denormalize(guesses_BLD).masked_fill(unknown_BL.unsqueeze(-1), torch.nan)
