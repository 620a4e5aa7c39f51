"""From a config to a model: seeded initialisation, sizes without memory."""

import os

import torch
from torch import nn

from lexalcm.errors import UserError
from lexalcm.model.config import ModelConfig
from lexalcm.model.lcm import LCM
from lexalcm.registries import ARCHITECTURES


def create_model(config: ModelConfig, seed: int) -> LCM:
    """Make a model with new weights; the same config and seed give the same weights.

    The initialisation is that of the published code (fairseq2's): attention queries, keys and values Xavier-uniform
    with gain 1/sqrt(2), attention outputs Xavier-uniform, both with zero biases; feed-forward, input and output
    projections uniform within 1/sqrt(inputs), biases too; norms one; timestep embedding normal(0.02) with zero biases;
    modulators zero (adaLN-zero), so that the denoiser starts as a map of its noisy input alone. The normalizer is the
    identity until statistics are set. The caller's random generator is left as it was.

    Raises:
        UserError: its weights in float32 take more than the machine's memory.
    """
    needed = 4 * sum(count_parameters(config).values())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > memory:
        raise UserError(
            f"the model's weights take {needed / 1e9:,.1f} GB, this machine has {memory / 1e9:,.1f} GB: "
            "choose a smaller size"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ARCHITECTURES.load(config.architecture)(config)


def meta_model(config: ModelConfig) -> LCM:
    """A model without memory: names and shapes alone, on the device `meta`."""
    with torch.device("meta"):
        return ARCHITECTURES.load(config.architecture)(config)


def count_parameters(config: ModelConfig) -> dict[str, int]:
    """Parameters of each part, e.g. `{"contextualizer": ..., "denoiser": ...}`, without allocating them.

    The normalizer has none: its numbers are fitted, not trained.
    """
    return {name: count for name, part in meta_model(config).named_children() if (count := _count(part))}


def _count(part: nn.Module) -> int:
    return sum(parameter.numel() for parameter in part.parameters())
