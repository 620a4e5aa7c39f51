"""How a two-tower model predicts concepts: contexts once, then denoising steps through the folded denoiser.

Shapes: B rows, L positions, K keys, D embedding dimension.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lexalcm.diffusion.guidance import Observer
from lexalcm.generate.denoising import DrawNoise, denoise, needs_pair
from lexalcm.generate.folded_denoiser import FoldedDenoiser
from lexalcm.generate.options import GenerationOptions
from lexalcm.model.cache import KeysValues
from lexalcm.model.denoiser import shift_contexts
from lexalcm.model.masks import Mask, causal_mask
from lexalcm.model.two_tower import TwoTowerLCM


class TwoTowerPredictor:
    """See `ConceptPredictor`."""

    def __init__(
        self,
        model: TwoTowerLCM,
        options: GenerationOptions,
        timesteps: Sequence[int],
        observe: Observer | None = None,
    ) -> None:
        self.model = model
        self.options = options
        self.timesteps = timesteps
        self.observe = observe
        self.denoiser = FoldedDenoiser(model.denoiser, timesteps)
        self._step = {timestep: step for step, timestep in enumerate(timesteps)}

    def new_reader(self, rows: int, slots: int, draw_noise: DrawNoise) -> "_Reader":
        """See `ConceptPredictor.new_reader`."""
        return _Reader(self, rows, slots, draw_noise)

    def predict_rows(
        self, concepts_BLD: Tensor, documents_BL: Tensor, positions_BL: Tensor, draw_noise: DrawNoise
    ) -> Tensor:
        """See `ConceptPredictor.predict_rows`."""
        mask = causal_mask(documents_BL, self.model.config.attention)
        memory_BLW = shift_contexts(self.model.contexts(concepts_BLD, positions_BL, mask), documents_BL)
        return self.denoise(self.model.keys_values(memory_BLW), mask, concepts_BLD.shape[1], draw_noise)

    def denoise(self, keys_values: Sequence[KeysValues], mask: Mask, positions: int, draw_noise: DrawNoise) -> Tensor:
        """Sample normalized concepts, `positions` in each row, each seeing the contexts that the mask says."""
        guided = needs_pair(self.options)
        attentions = self.denoiser.attend(keys_values, mask, positions)

        def network(x_BLD: Tensor, timestep: int) -> tuple[Tensor, ...]:
            return self.denoiser(x_BLD, self._step[timestep], attentions, guided=guided)

        return denoise(network, self.model.schedule, self.options, self.timesteps, draw_noise, self.observe)


class _Reader:
    def __init__(self, predictor: TwoTowerPredictor, rows: int, slots: int, draw_noise: DrawNoise) -> None:
        self.predictor = predictor
        self.draw_noise = draw_noise
        self.cache = predictor.model.new_cache(rows, slots)

    def read(self, concepts_BLD: Tensor, positions_BL: Tensor, used: int) -> None:
        for layer in [*self.cache.contextualizer, *self.cache.denoiser]:
            layer.reserve(used + 1)  # the zero vector's too
        self.predictor.model.extend(concepts_BLD, positions_BL, self.cache, used)

    def next(self, concept_BD: Tensor, positions_B: Tensor, used: int) -> Tensor:
        self.read(concept_BD[:, None], positions_B[:, None], used)
        slots = used + 1
        used_slots = [layer.first(slots) for layer in self.cache.denoiser]
        keys_values = [(k_BHKE.contiguous(), v_BHKE.contiguous()) for k_BHKE, v_BHKE in used_slots]
        mask_B11K = torch.arange(slots, device=positions_B.device) <= positions_B[:, None, None, None] + 1
        return self.predictor.denoise(keys_values, mask_B11K, 1, self.draw_noise)[:, 0]

    def keep(self, rows_K: Tensor) -> None:
        for layer in [*self.cache.contextualizer, *self.cache.denoiser]:
            layer.keep(rows_K)
