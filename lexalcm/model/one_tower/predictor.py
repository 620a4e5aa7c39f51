"""How a one-tower model predicts concepts: clean concepts' keys and values once, then steps of noisy ones beside them.

With guidance a noisy concept stands twice in the row: once seeing the clean concepts before it, once itself alone.

Shapes: B rows, L positions, S clean concepts, P = 2 with guidance or 1, K = S + P L keys, D embedding dimension.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lexalcm.diffusion.samplers import DrawNoise, Observer
from lexalcm.model.layers.cache import KeysValues, LayerCache
from lexalcm.model.layers.masks import Mask, next_concept_mask, noisy_beside_clean_mask
from lexalcm.model.layers.step_transformer import StepTransformer, additive, causal_step_mask
from lexalcm.model.predictor import DenoisingProcess, NextConcept, StaticInputs

if TYPE_CHECKING:
    from lexalcm.model.one_tower.network import OneTowerLCM


class OneTowerPredictor:
    """See `ConceptPredictor`."""

    def __init__(self, model: "OneTowerLCM", denoising: DenoisingProcess, observe: Observer | None = None) -> None:
        self.model = model
        self.denoising = denoising
        self.observe = observe
        self.halves = 2 if denoising.guided else 1
        timesteps = [*denoising.evaluated, model.clean]
        times_TW = model.times(torch.tensor(timesteps, device=model.device))
        self.time = dict(zip(timesteps, times_TW, strict=True))

    def new_reader(self, rows: int, slots: int, draw_noise: DrawNoise) -> "_Reader":
        """See `ConceptPredictor.new_reader`."""
        return _Reader(self, rows, slots, draw_noise)

    def next_concept(self) -> NextConcept:
        """See `StaticPredictor`."""
        return _Next(self)

    def predict_rows(
        self, concepts_BLD: Tensor, documents_BL: Tensor, positions_BL: Tensor, draw_noise: DrawNoise
    ) -> Tensor:
        """See `ConceptPredictor.predict_rows`."""
        clean = self.model.read_rows(concepts_BLD, documents_BL, positions_BL, self.time[self.model.clean])
        mask = noisy_beside_clean_mask(documents_BL, self.halves, self.model.config.attention)
        return self.denoise(positions_BL, mask, clean, draw_noise)

    def read(self, concepts_BLD: Tensor, positions_BL: Tensor, cache: list[LayerCache], used: int) -> None:
        """Take in clean concepts; arguments as for `Transformer.extend`."""
        self.model.extend(concepts_BLD, positions_BL, self.time[self.model.clean], cache, used)

    def denoise(self, positions_BL: Tensor, mask: Mask, clean: Sequence[KeysValues], draw_noise: DrawNoise) -> Tensor:
        """Sample normalized concepts for the given positions; the mask is that of `OneTowerLCM.denoise`."""
        halves = self.halves

        def network(x_BLD: Tensor, timestep: int) -> tuple[Tensor, ...]:
            noisy_BLD, repeated_BL = x_BLD.repeat(1, halves, 1), positions_BL.repeat(1, halves)
            return self.model.denoise(noisy_BLD, self.time[timestep], repeated_BL, mask, clean).chunk(halves, dim=1)

        return self.denoising(network, draw_noise, self.observe)


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


class _Next(NextConcept):
    """See `NextConcept`; a cache's last slots are those of the noisy concepts, written anew in each step."""

    def __init__(self, predictor: OneTowerPredictor) -> None:
        model = predictor.model
        self.predictor = predictor
        self.transformer = StepTransformer(model.transformer)
        self.draws = predictor.denoising.draws
        self.other_slots = predictor.halves

    def new_cache(self, rows: int, slots: int) -> list[LayerCache]:
        return self.predictor.model.new_cache(rows, slots)

    def read(self, concepts_BLD: Tensor, positions_BL: Tensor, cache: list[LayerCache], used: int) -> None:
        self.predictor.read(concepts_BLD, positions_BL, cache, used)

    def __call__(self, at: StaticInputs, observe: Observer | None) -> Tensor:
        predictor, model, halves = self.predictor, self.predictor.model, self.predictor.halves
        project, cache, positions_R1 = model.transformer.project, at.cache, at.positions[:, None]
        keys = cache[0].keys
        x_R1W = project(at.concept[:, None]) + predictor.time[model.clean]
        rotations, mask_R11K = self.transformer.rotations(positions_R1), causal_step_mask(positions_R1, keys)
        self.transformer(x_R1W, rotations, positions_R1, mask_R11K, cache)

        rotations = self.transformer.rotations(positions_R1 + 1)
        slots = keys.shape[2]
        slots_RP = torch.arange(slots - halves, slots, device=keys.device).expand(len(keys), -1)
        mask_R1PK = additive(next_concept_mask(at.positions, slots - halves, halves), keys)

        def network(x_R1D: Tensor, timestep: int) -> tuple[Tensor, ...]:
            x_RPW = (project(x_R1D) + predictor.time[timestep]).expand(-1, halves, -1)
            hidden_RPW = self.transformer(x_RPW, rotations, slots_RP, mask_R1PK, cache)
            return model.output_proj(hidden_RPW).float().split(1, dim=1)

        return predictor.denoising(network, at.draw_noise(), observe)[:, 0]
