"""Base LCM: one causal Transformer that predicts the next concept (LCM paper, section 2.3.1).

Trained by least squares it answers with the mean of what may follow, which is blurred where several continuations are
likely; in return a concept costs a single forward pass.

Shapes: B rows, L positions, D embedding dimension, W width.
"""

import torch
from torch import Tensor, nn

from lexalcm.diffusion.samplers import Observer
from lexalcm.model.base.predictor import BasePredictor
from lexalcm.model.base.presets import PRESETS
from lexalcm.model.config import ModelConfig
from lexalcm.model.layers.cache import LayerCache
from lexalcm.model.layers.linear import Linear
from lexalcm.model.layers.masks import causal_mask
from lexalcm.model.layers.transformer import Transformer
from lexalcm.model.lcm import LCM
from lexalcm.model.predictor import DenoisingProcess


class BaseLCM(LCM):
    """Next-concept regression."""

    presets = PRESETS
    flow = "Concepts go in at the bottom; each position predicts the next concept directly."

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.transformer = Transformer(config, config.num_layers)
        self.output_proj = Linear(config.width, config.dim)

    def predictor(self, denoising: DenoisingProcess | None, observe: Observer | None) -> BasePredictor:
        """See `LCM.predictor`."""
        return BasePredictor(self)

    def blocks(self) -> list[nn.Module]:
        """The Transformer's layers."""
        return list(self.transformer.layers)

    def forward(self, concepts_BLD: Tensor, documents_BL: Tensor, positions_BL: Tensor) -> Tensor:
        """The guess of the concept after each position of packed rows, normalized, float32 [B, L, D]; see `LCM`."""
        mask = causal_mask(documents_BL, self.config.attention)
        inputs_BLW = self.transformer.project(concepts_BLD)
        return self.output_proj(self.transformer(inputs_BLW, positions_BL, mask)).float()

    def new_cache(self, rows: int, slots: int) -> list[LayerCache]:
        """An empty cache for `rows` documents of up to `slots` concepts."""
        return self.transformer.new_cache(rows, slots)

    @torch.no_grad()
    def extend(self, concepts_BLD: Tensor, positions_BL: Tensor, cache: list[LayerCache], used: int) -> Tensor:
        """Take in new normalized concepts and guess the one after each of them, normalized, [B, L, D].

        Arguments as for `Transformer.extend`.
        """
        inputs_BLW = self.transformer.project(concepts_BLD)
        return self.output_proj(self.transformer.extend(inputs_BLW, positions_BL, cache, used)).float()
