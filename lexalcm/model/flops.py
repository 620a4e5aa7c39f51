"""How many operations a model's design needs: what throughput is measured against.

The model's own forward pass is run on tensors without numbers (device `meta`) under torch's `FlopCounterMode`, so that
there is no formula that could come apart from the model. Counted are products of matrices, a multiplication and an
addition as two operations:

- every linear layer, for every position that goes through it (a one-tower row has two positions a concept);
- scores and mixtures of attention. Torch counts those of all pairs of a row; what the mathematics asks for is the share
  of them that a position may attend, `LCM.attended` (of a causal mask, half), in documents as long as they are;
- what is computed once for a batch, such as the modulation for each of the T timesteps.

Not counted: norms, softmax, activations, the optimizer, and whatever is computed twice to save memory. The backward
pass is taken as twice the forward pass. Counted are rows so short that a model has no way of its own for large batches:
the denoiser's self-projection counts as two matrices, also where their product is made first, which saves a step of a
two-tower model up to 6% of this (`SelfProjection`).
"""

from functools import cache
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from lexalcm.model.config import ModelConfig
from lexalcm.model.create import meta_model
from lexalcm.model.lcm import LCM

LENGTH = 4
"""Concepts of the shorter of the two rows that are counted."""


class Operations(NamedTuple):
    """Operations of a forward pass over N concepts of documents of n: constant + N linear + N n quadratic."""

    constant: float
    linear: float
    quadratic: float


def training_flops(config: ModelConfig, positions: int, document_length: float) -> float:
    """Floating-point operations of forward and backward pass over one micro-batch; arguments as for `forward_flops`."""
    return 3 * forward_flops(config, positions, document_length)


def forward_flops(config: ModelConfig, positions: int, document_length: float) -> float:
    """Floating-point operations of the forward pass over one micro-batch.

    Args:
        config: sizes.
        positions: concepts in the micro-batch, padding included.
        document_length: mean length of the documents in it, in concepts, for attention.
    """
    counted = count_operations(config)
    return counted.constant + positions * (counted.linear + document_length * counted.quadratic)


@cache
def count_operations(config: ModelConfig) -> Operations:
    """Count a model's operations, in a fraction of a second, or in two for the largest; draws no random numbers.

    A constant, a linear and a quadratic part follow from rows of two lengths, and one of them twice.
    """
    model = meta_model(config.model_copy(update={"attention": "sdpa"})).eval()
    once, twice, long = _count(model, 1, LENGTH), _count(model, 2, LENGTH), _count(model, 1, 2 * LENGTH)
    quadratic = (long - twice) / (2 * LENGTH**2)
    linear = (twice - once) / LENGTH - LENGTH * quadratic
    return Operations(2 * once - twice, linear, model.attended * quadratic)


def _count(model: LCM, rows: int, length: int) -> int:
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        concepts_BLD = torch.empty(rows, length, model.config.dim)
        numbers_BL = torch.empty(rows, length, dtype=torch.int64)  # documents, positions, timesteps
        noise = (concepts_BLD, numbers_BL, numbers_BL.bool()) if model.denoises else ()
        model(concepts_BLD, numbers_BL, numbers_BL, *noise)
    return counter.get_total_flops()
