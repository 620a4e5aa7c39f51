"""How a two-tower model predicts concepts: contexts once, then denoising steps through the folded denoiser.

Shapes: B rows, L positions, K keys, D embedding dimension.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lexalcm.diffusion.samplers import DrawNoise, Observer
from lexalcm.model.layers.cache import KeysValues, LayerCache
from lexalcm.model.layers.masks import Mask, causal_mask
from lexalcm.model.layers.step_transformer import StepTransformer, causal_step_mask
from lexalcm.model.predictor import DenoisingProcess, NextConcept, StaticInputs
from lexalcm.model.two_tower.cache import TwoTowerCache
from lexalcm.model.two_tower.denoiser import shift_contexts
from lexalcm.model.two_tower.folded_denoiser import FoldedDenoiser
from lexalcm.model.two_tower.step_denoiser import StepDenoiser, next_context_mask

if TYPE_CHECKING:
    from lexalcm.model.two_tower.network import TwoTowerLCM


class TwoTowerPredictor:
    """See `ConceptPredictor`."""

    def __init__(self, model: "TwoTowerLCM", denoising: DenoisingProcess, observe: Observer | None = None) -> None:
        self.model = model
        self.denoising = denoising
        self.observe = observe
        self.denoiser = FoldedDenoiser(model.denoiser, denoising.evaluated)

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
        mask = causal_mask(documents_BL, self.model.config.attention)
        memory_BLW = shift_contexts(self.model.contexts(concepts_BLD, positions_BL, mask), documents_BL)
        return self.denoise(self.model.keys_values(memory_BLW), mask, concepts_BLD.shape[1], draw_noise)

    def denoise(self, keys_values: Sequence[KeysValues], mask: Mask, positions: int, draw_noise: DrawNoise) -> Tensor:
        """Sample normalized concepts, `positions` in each row, each seeing the contexts that the mask says."""
        attentions = self.denoiser.attend(keys_values, mask, positions)

        def network(x_BLD: Tensor, timestep: int) -> tuple[Tensor, ...]:
            return self.denoiser(x_BLD, timestep, attentions, guided=self.denoising.guided)

        return self.denoising(network, draw_noise, self.observe)


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


class _Next(NextConcept):
    """See `NextConcept`; the contextualizer's caches come first, the denoiser's slot 0 is the zero vector's."""

    other_slots = 1

    def __init__(self, predictor: TwoTowerPredictor) -> None:
        model = predictor.model
        self.predictor = predictor
        self.contextualizer = StepTransformer(model.contextualizer)
        self.denoiser = StepDenoiser(model.denoiser, predictor.denoiser)
        self.draws = predictor.denoising.draws
        self.halves = 2 if predictor.denoising.guided else 1

    def new_cache(self, rows: int, slots: int) -> list[LayerCache]:
        model = self.predictor.model
        memory = [LayerCache.empty(rows, slots, layer.cross_attention) for layer in model.denoiser.layers]
        return [*model.contextualizer.new_cache(rows, slots), *memory]

    def begin(self, cache: list[LayerCache]) -> None:
        parts = self._parts(cache)
        rows, device = len(cache[0].keys), cache[0].keys.device
        zero_R1W = cache[0].keys.new_zeros(rows, 1, self.predictor.model.config.width)
        self._remember(zero_R1W, torch.zeros(rows, 1, dtype=torch.int64, device=device), parts.denoiser)

    def read(self, concepts_BLD: Tensor, positions_BL: Tensor, cache: list[LayerCache], used: int) -> None:
        self.predictor.model.extend(concepts_BLD, positions_BL, self._parts(cache), used)

    def __call__(self, at: StaticInputs, observe: Observer | None) -> Tensor:
        model, parts = self.predictor.model, self._parts(at.cache)
        keys, positions_R1 = at.cache[0].keys, at.positions[:, None]
        x_R1W = model.contextualizer.project(at.concept[:, None])
        mask_R11K = causal_step_mask(positions_R1, keys)
        rotations = self.contextualizer.rotations(positions_R1)
        context_R1W = self.contextualizer(x_R1W, rotations, positions_R1, mask_R11K, parts.contextualizer)
        self._remember(context_R1W, positions_R1 + 1, parts.denoiser)
        mask_R1PK = next_context_mask(at.positions, self.halves, keys)

        def network(x_R1D: Tensor, timestep: int) -> tuple[Tensor, ...]:
            return self.denoiser(x_R1D, timestep, parts.denoiser, mask_R1PK)

        return self.predictor.denoising(network, at.draw_noise(), observe)[:, 0]

    def _remember(self, memory_R1W: Tensor, slots_R1: Tensor, cache: Sequence[LayerCache]) -> None:
        for layer, keys_values in zip(cache, self.predictor.model.keys_values(memory_R1W), strict=True):
            layer.write(*keys_values, slots_R1)

    def _parts(self, cache: list[LayerCache]) -> TwoTowerCache:
        layers = len(self.contextualizer.layers)
        return TwoTowerCache(cache[:layers], cache[layers:])
