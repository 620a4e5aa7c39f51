"""How a one-tower model predicts concepts: clean concepts' keys and values once, then steps of noisy ones beside them.

With guidance a noisy concept stands twice in the row: once seeing the clean concepts before it, once itself alone.

Shapes: B rows, L positions, S clean concepts, P = 2 with guidance or 1, K = S + P L keys, D embedding dimension.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lexalcm.diffusion.guidance import Observer
from lexalcm.generate.denoising import DrawNoise, denoise, needs_pair
from lexalcm.generate.options import GenerationOptions
from lexalcm.model.cache import KeysValues, LayerCache
from lexalcm.model.masks import Mask, next_concept_mask, noisy_beside_clean_mask
from lexalcm.model.one_tower import OneTowerLCM


class OneTowerPredictor:
    """See `ConceptPredictor`."""

    def __init__(
        self,
        model: OneTowerLCM,
        options: GenerationOptions,
        timesteps: Sequence[int],
        observe: Observer | None = None,
    ) -> None:
        self.model = model
        self.options = options
        self.timesteps = timesteps
        self.observe = observe
        self.halves = 2 if needs_pair(options) else 1
        times_TW = model.times(torch.tensor([*timesteps, model.clean], device=model.device))
        self._time = dict(zip([*timesteps, model.clean], times_TW, strict=True))

    def new_reader(self, rows: int, slots: int, draw_noise: DrawNoise) -> "_Reader":
        """See `ConceptPredictor.new_reader`."""
        return _Reader(self, rows, slots, draw_noise)

    def predict_rows(
        self, concepts_BLD: Tensor, documents_BL: Tensor, positions_BL: Tensor, draw_noise: DrawNoise
    ) -> Tensor:
        """See `ConceptPredictor.predict_rows`."""
        clean = self.model.read_rows(concepts_BLD, documents_BL, positions_BL, self._time[self.model.clean])
        mask = noisy_beside_clean_mask(documents_BL, self.halves, self.model.config.attention)
        return self.denoise(positions_BL, mask, clean, draw_noise)

    def read(self, concepts_BLD: Tensor, positions_BL: Tensor, cache: list[LayerCache], used: int) -> None:
        """Take in clean concepts; arguments as for `Transformer.extend`."""
        self.model.extend(concepts_BLD, positions_BL, self._time[self.model.clean], cache, used)

    def denoise(self, positions_BL: Tensor, mask: Mask, clean: Sequence[KeysValues], draw_noise: DrawNoise) -> Tensor:
        """Sample normalized concepts for the given positions; the mask is that of `OneTowerLCM.denoise`."""
        halves = self.halves

        def network(x_BLD: Tensor, timestep: int) -> tuple[Tensor, ...]:
            noisy_BLD, repeated_BL = x_BLD.repeat(1, halves, 1), positions_BL.repeat(1, halves)
            return self.model.denoise(noisy_BLD, self._time[timestep], repeated_BL, mask, clean).chunk(halves, dim=1)

        return denoise(network, self.model.schedule, self.options, self.timesteps, draw_noise, self.observe)


class _Reader:
    def __init__(self, predictor: OneTowerPredictor, rows: int, slots: int, draw_noise: DrawNoise) -> None:
        self.predictor = predictor
        self.draw_noise = draw_noise
        self.cache = predictor.model.new_cache(rows, slots)

    def read(self, concepts_BLD: Tensor, positions_BL: Tensor, used: int) -> None:
        for layer in self.cache:
            layer.reserve(used)
        self.predictor.read(concepts_BLD, positions_BL, self.cache, used)

    def next(self, concept_BD: Tensor, positions_B: Tensor, used: int) -> Tensor:
        self.read(concept_BD[:, None], positions_B[:, None], used)
        clean = [layer.first(used) for layer in self.cache]
        mask = next_concept_mask(positions_B, used, self.predictor.halves)
        return self.predictor.denoise(positions_B[:, None] + 1, mask, clean, self.draw_noise)[:, 0]

    def keep(self, rows_K: Tensor) -> None:
        for layer in self.cache:
            layer.keep(rows_K)
