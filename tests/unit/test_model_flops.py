"""Operations that torch counts are those of a formula in closed form, and of the pairs that masks let through."""

import pytest
import torch
from tiny_models import CONFIGS

from lexalcm.model import ModelConfig, preset, preset_names
from lexalcm.model.flops import count_operations, forward_flops, training_flops
from lexalcm.model.layers.masks import causal_mask, clean_noisy_mask
from lexalcm.model.layers.timestep_embedding import FREQUENCIES
from lexalcm.model.two_tower.denoiser import PARTS
from lexalcm.registries import ARCHITECTURES

MADE_AS_PRODUCT = 0.06
"""What a two-tower model saves at most by making the product of self-projection's matrices first."""


def closed_form(config: ModelConfig, positions: int, document_length: float, *, product: bool = False) -> float:
    """Multiplications of a forward pass, by hand; with `product`, self-projection's two matrices are made one first."""
    width, dim = config.width, config.dim
    attention = width * document_length  # scores and mixture, each W times half a document
    ffn = 3 * width * config.ffn_dim
    layer = 4 * width**2 + attention + ffn
    if config.architecture == "base":
        return positions * (config.num_layers * layer + 2 * dim * width)
    assert config.diffusion is not None
    timesteps = config.diffusion.steps
    time_embedding = FREQUENCIES * width + width**2
    if config.architecture == "one-tower":
        per_concept = 2 * config.num_layers * layer + 3 * dim * width
        return positions * per_concept + (timesteps + 1) * (time_embedding + width**2)
    contextualizer = config.context_layers * layer + dim * width
    denoiser = config.num_layers * layer + 2 * dim * width
    modulation = timesteps * (time_embedding + config.num_layers * 3 * PARTS * width**2)
    self_projection = (positions + width) * width**2 if product else 2 * positions * width**2
    return positions * (contextualizer + denoiser) + modulation + config.num_layers * self_projection


@pytest.mark.parametrize("name", preset_names())
def test_torch_counts_what_the_closed_form_says(name: str) -> None:
    config = preset(name, 1024)
    if not name.endswith("-tiny"):  # a further layer costs what the one before it does, here too
        config = config.model_copy(update={"num_layers": 3, "context_layers": min(1, config.context_layers)})
    for positions, length in ((1, 1), (10, 4), (8192, 128), (65536, 512.5)):
        counted = forward_flops(config, positions, length)
        assert counted == 2 * closed_form(config, positions, length)
        assert training_flops(config, positions, length) == 3 * counted
        if config.architecture == "two-tower" and positions >= 2 * config.width:
            assert counted * (1 - MADE_AS_PRODUCT) < 2 * closed_form(config, positions, length, product=True) < counted


@pytest.mark.parametrize("architecture", CONFIGS)
def test_the_share_of_pairs_is_that_of_the_mask(architecture: str) -> None:
    length = 256
    documents = torch.zeros(1, length, dtype=torch.int64)
    mask = causal_mask(documents, "sdpa")
    if architecture == "one-tower":
        mask = clean_noisy_mask(documents, torch.zeros_like(documents, dtype=torch.bool), "sdpa")
    assert isinstance(mask, torch.Tensor)
    share = mask.double().mean().item()
    assert share == pytest.approx(ARCHITECTURES.load(architecture).attended, rel=2 / length)


def test_counting_draws_no_random_numbers() -> None:
    before = torch.get_rng_state()
    for config in CONFIGS.values():
        count_operations(config.model_copy(update={"width": 32}))
    assert torch.equal(torch.get_rng_state(), before)
