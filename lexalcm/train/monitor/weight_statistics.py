"""A few numbers about each weight, taken from an engine that gives weights whole, one at a time.

Where weights are sharded each is gathered, which costs about what the forward pass of one micro-batch sends between
processes. So this is for now and then. What is kept of a weight is its norm and some of its numbers, not the weight.
"""

from typing import NamedTuple

import torch

from lexalcm.train.engines.protocol import Engine

SAMPLED = 256
"""Numbers kept of a weight, evenly spread over it."""


class WeightStatistics(NamedTuple):
    """Of one weight."""

    norm: float  # Euclidean; not finite where a number is not
    numel: int
    sample: torch.Tensor  # float32 [n], on the CPU


@torch.no_grad()
def weight_statistics(engine: Engine) -> dict[str, WeightStatistics]:
    """Statistics of every trained weight by name; every process must call it, and each gets them."""
    found, sizes = [], []
    for gather in engine.weights().values():
        flat = gather(None).detach().flatten()
        count = min(SAMPLED, flat.numel())
        places = torch.arange(count, device=flat.device) * (flat.numel() - 1) // max(1, count - 1)
        norm = torch.linalg.vector_norm(flat, dtype=torch.float64)
        found.append(torch.cat([norm[None], flat[places].double()]))
        sizes.append(flat.numel())
    rows = torch.cat(found).cpu().split([len(row) for row in found])  # one transfer from a GPU
    return {
        name: WeightStatistics(float(row[0]), size, row[1:].float())
        for name, row, size in zip(engine.shapes, rows, sizes, strict=True)
    }


def weight_norms(engine: Engine) -> dict[str, float]:
    """The norm of every trained weight by name; every process must call it."""
    return {name: statistics.norm for name, statistics in weight_statistics(engine).items()}
