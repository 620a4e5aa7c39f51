"""How many multiplications a model's design needs: what throughput is measured against.

Counted are the products of matrices that the mathematics asks for, a multiplication and an addition as two operations:

- every linear layer, for every position that goes through it (a one-tower row has two positions a concept);
- scores and mixtures of attention over what is seen, on average half of a document before each position;
- modulation and timestep embeddings once for each of the T timesteps, whatever the batch.

Not counted: norms, softmax, activations, the optimizer, and whatever is computed twice to save memory. The backward
pass is taken as twice the forward pass. Self-projection counts as two matrices a position, or as their product where
the model makes it first (`SelfProjection`).

W width, F feed-forward size, D embedding dimension.
"""

from lexalcm.model.config import ModelConfig
from lexalcm.model.denoiser import FREQUENCIES, PARTS, SelfProjection


def training_flops(config: ModelConfig, positions: int, document_length: float) -> float:
    """Floating-point operations of forward and backward pass over one micro-batch.

    Args:
        config: sizes.
        positions: concepts in the micro-batch, padding included.
        document_length: mean length of the documents in it, in concepts, for attention.
    """
    return 3 * 2 * forward_multiplications(config, positions, document_length)


def forward_multiplications(config: ModelConfig, positions: int, document_length: float) -> float:
    """Multiplications of the forward pass; arguments as for `training_flops`."""
    width, dim = config.width, config.dim
    attention = width * document_length  # scores and mixture, each W times half a document
    ffn = 3 * width * config.ffn_dim
    causal_layer = 4 * width**2 + attention + ffn
    if config.architecture == "base":
        return positions * (config.num_layers * causal_layer + 2 * dim * width)
    assert config.diffusion is not None  # filled by the config
    timesteps = config.diffusion.steps
    time_embedding = FREQUENCIES * width + width**2
    if config.architecture == "one-tower":
        per_concept = 2 * config.num_layers * causal_layer + 3 * dim * width
        return positions * per_concept + (timesteps + 1) * (time_embedding + width**2)
    denoiser_layer = 4 * width**2 + attention + ffn
    contextualizer = config.context_layers * causal_layer + dim * width
    denoiser = config.num_layers * denoiser_layer + 2 * dim * width
    modulation = timesteps * (time_embedding + config.num_layers * 3 * PARTS * width**2)
    self_projection = config.num_layers * SelfProjection.multiplications(width, positions)
    return positions * (contextualizer + denoiser) + modulation + self_projection
