"""Concepts as the codec makes them <-> concepts as the network sees them: per coordinate (x - center) / scale.

The statistics are fitted on a data set (`lexalcm.data.normalizer.fit`) and are part of the model, not of the data:
weights mean nothing under another normalizer. They stay float32 whatever the model is cast to, because a bfloat16
center is off by up to 0.4% of itself, which for SONAR can exceed the scale.

Shapes: D embedding dimension, ... any leading shape.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import Self

from lexalcm.errors import UserError


class Normalizer(nn.Module):
    """Robust or standard scaling per dimension, with optional clipping in normalized space.

    Buffers: `center`, `scale`, and `clip_min`, `clip_max`, which are infinite when there is no clipping.
    """

    center: Tensor
    scale: Tensor
    clip_min: Tensor
    clip_max: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))
        self.register_buffer("clip_min", torch.full((dim,), -torch.inf))
        self.register_buffer("clip_max", torch.full((dim,), torch.inf))

    def normalize(self, embeddings: Tensor) -> Tensor:
        """[..., D] from the codec's space to the network's, float32."""
        return ((embeddings.float() - self.center) / self.scale).clamp(self.clip_min, self.clip_max)

    def denormalize(self, normalized: Tensor) -> Tensor:
        """[..., D] from the network's space to the codec's, float32."""
        return normalized.float().clamp(self.clip_min, self.clip_max) * self.scale + self.center

    @torch.no_grad()
    def set_statistics(self, statistics: Mapping[str, np.ndarray | Tensor]) -> None:
        """Take over fitted statistics: `center`, `scale` and, both or neither, `clip_min`, `clip_max`, each [D].

        Raises:
            UserError: another shape than the model's, a number that is not finite, or a scale that is not positive.
        """
        clipping = {"clip_min", "clip_max"}
        known = {"center", "scale"} | (clipping if clipping & statistics.keys() else set())
        if statistics.keys() != known:
            raise UserError(f"a normalizer holds {', '.join(sorted(known))}, got {', '.join(sorted(statistics))}")
        values = {name: torch.as_tensor(statistics[name]).float() for name in known}
        for name, value in values.items():
            if value.shape != self.center.shape:
                raise UserError(
                    f"the normalizer's {name} has shape {list(value.shape)}, the model's concepts have "
                    f"{self.center.numel()} dimensions: use a data set and a model of the same codec"
                )
        _check_numbers(values, "the normalizer")
        for name, value in values.items():
            getattr(self, name).copy_(value)

    def check(self, source: str) -> None:
        """Make sure that the statistics of a model from outside can be used; without clipping its bounds are infinite.

        Raises:
            UserError: a center or scale that is not finite, a scale that is not positive, or bounds out of order.
        """
        _check_numbers(dict(self.named_buffers()), f"{source}: the normalizer")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def moved_not_cast(tensor: Tensor) -> Tensor:
            result = fn(tensor)
            return result if result.dtype == tensor.dtype else tensor.to(result.device)

        arguments: dict[str, Any] = {"recurse": recurse}
        return super()._apply(moved_not_cast, **arguments)


def _check_numbers(values: Mapping[str, Tensor], owner: str) -> None:
    for name, value in values.items():
        finite = ~value.isnan() if name.startswith("clip_") else value.isfinite()
        if not finite.all():
            raise UserError(f"{owner}'s {name} holds NaN or infinity: fit it again")
    if (values["scale"] <= 0).any():
        dead = int((values["scale"] <= 0).nonzero()[0, 0])
        raise UserError(f"{owner}'s scale is not positive in dimension {dead}: fit it on varied text")
    if "clip_min" in values and (values["clip_min"] > values["clip_max"]).any():
        raise UserError(f"{owner} clips at bounds in the wrong order: fit it again")
