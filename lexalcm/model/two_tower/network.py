"""Two-tower diffusion LCM: a contextualizer reads the clean concepts, a denoiser predicts the next one (LCM paper,
section 2.3.4).

Position i of the denoiser attends a zero vector and the contexts of the earlier positions of its document. A position
whose conditioning is dropped attends the zero vector alone. So does a document's first position.

Shapes: B rows, L positions, D embedding dimension, W width.
"""

import torch
from torch import Tensor, nn

from lexalcm.diffusion.samplers import Observer
from lexalcm.errors import ConfigError
from lexalcm.model.config import ModelConfig
from lexalcm.model.diffusion_lcm import DiffusionLCM
from lexalcm.model.layers.cache import KeysValues, LayerCache
from lexalcm.model.layers.masks import Mask, causal_mask
from lexalcm.model.layers.transformer import Transformer
from lexalcm.model.predictor import DenoisingProcess
from lexalcm.model.two_tower.cache import TwoTowerCache
from lexalcm.model.two_tower.denoiser import Denoiser, shift_contexts
from lexalcm.model.two_tower.predictor import TwoTowerPredictor
from lexalcm.model.two_tower.presets import PRESETS


class TwoTowerLCM(DiffusionLCM):
    """Next-concept diffusion with a contextualizer and a denoiser."""

    presets = PRESETS
    flow = (
        "The contextualizer reads the concepts so far, once. The denoiser removes noise from the next concept, "
        "attending to the contexts; its output, with less noise, goes in again (dotted) until it is clean."
    )

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.contextualizer = Transformer(config, config.context_layers)
        self.denoiser = Denoiser(config, self.schedule.steps)

    @classmethod
    def check_config(cls, config: ModelConfig) -> None:
        """See `LCM.check_config`."""
        if config.context_layers == 0:
            raise ConfigError("context_layers=0: a two-tower model needs at least one contextualizer layer")

    def predictor(self, denoising: DenoisingProcess | None, observe: Observer | None) -> TwoTowerPredictor:
        """See `LCM.predictor`."""
        assert denoising is not None  # it denoises
        return TwoTowerPredictor(self, denoising, observe)

    def blocks(self) -> list[nn.Module]:
        """The contextualizer's layers, then the denoiser's."""
        return [*self.contextualizer.layers, *self.denoiser.layers]

    def forward(
        self,
        concepts_BLD: Tensor,
        documents_BL: Tensor,
        positions_BL: Tensor,
        noisy_BLD: Tensor,
        timesteps_BL: Tensor,
        dropped_BL: Tensor,
    ) -> Tensor:
        """See `DiffusionLCM.forward`."""
        mask = causal_mask(documents_BL, self.config.attention)
        context_BLW = self.contexts(concepts_BLD, positions_BL, mask)
        memory_BLW = shift_contexts(context_BLW, documents_BL)
        return self.denoiser(noisy_BLD, timesteps_BL, memory_BLW, mask, dropped_BL).float()

    def contexts(self, concepts_BLD: Tensor, positions_BL: Tensor, mask: Mask) -> Tensor:
        """The contextualizer over packed rows: position i holds what is known after concept i, [B, L, W]."""
        return self.contextualizer(self.contextualizer.project(concepts_BLD), positions_BL, mask)

    def keys_values(self, memory_BKW: Tensor) -> list[KeysValues]:
        """The keys and values of contexts in each of the denoiser's layers."""
        return [layer.cross_attention.keys_values(memory_BKW) for layer in self.denoiser.layers]

    def new_cache(self, rows: int, slots: int) -> TwoTowerCache:
        """A cache for `rows` documents of up to `slots` concepts, empty but for the zero vector."""
        attentions = [layer.cross_attention for layer in self.denoiser.layers]
        denoiser = [LayerCache.empty(rows, slots + 1, attention) for attention in attentions]
        zero_vector_B1W = self.denoiser.norm.weight.new_zeros(rows, 1, self.config.width)
        first_B1 = torch.zeros(rows, 1, dtype=torch.int64, device=self.device)
        cache = TwoTowerCache(self.contextualizer.new_cache(rows, slots), denoiser)
        self._remember(zero_vector_B1W, first_B1, cache)
        return cache

    @torch.no_grad()
    def extend(self, concepts_BLD: Tensor, positions_BL: Tensor, cache: TwoTowerCache, used: int) -> None:
        """Take in new normalized concepts; arguments as for `Transformer.extend`."""
        inputs_BLW = self.contextualizer.project(concepts_BLD)
        context_BLW = self.contextualizer.extend(inputs_BLW, positions_BL, cache.contextualizer, used)
        self._remember(context_BLW, positions_BL + 1, cache)

    def _remember(self, memory_BLW: Tensor, slots_BL: Tensor, cache: TwoTowerCache) -> None:
        for layer, keys_values in zip(cache.denoiser, self.keys_values(memory_BLW), strict=True):
            layer.write(*keys_values, slots_BL)
