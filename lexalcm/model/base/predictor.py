"""How a base model predicts concepts: one forward pass."""

from typing import TYPE_CHECKING

from torch import Tensor

from lexalcm.diffusion.samplers import DrawNoise, Observer
from lexalcm.model.layers.cache import LayerCache
from lexalcm.model.layers.step_transformer import StepTransformer, causal_step_mask
from lexalcm.model.predictor import NextConcept, StaticInputs

if TYPE_CHECKING:
    from lexalcm.model.base.network import BaseLCM


class BasePredictor:
    """See `ConceptPredictor`; no noise is drawn."""

    def __init__(self, model: "BaseLCM") -> None:
        self.model = model

    def new_reader(self, rows: int, slots: int, draw_noise: DrawNoise) -> "_Reader":
        """See `ConceptPredictor.new_reader`."""
        return _Reader(self.model, rows, slots)

    def next_concept(self) -> NextConcept:
        """See `StaticPredictor`."""
        return _Next(self.model)

    def predict_rows(
        self, concepts_BLD: Tensor, documents_BL: Tensor, positions_BL: Tensor, draw_noise: DrawNoise
    ) -> Tensor:
        """See `ConceptPredictor.predict_rows`."""
        return self.model(concepts_BLD, documents_BL, positions_BL).roll(1, dims=1)


class _Reader:
    def __init__(self, model: "BaseLCM", rows: int, slots: int) -> None:
        self.model = model
        self.cache = model.new_cache(rows, slots)

    def read(self, concepts_BLD: Tensor, positions_BL: Tensor, used: int) -> None:
        for layer in self.cache:
            layer.reserve(used)
        self.model.extend(concepts_BLD, positions_BL, self.cache, used)

    def next(self, concept_BD: Tensor, positions_B: Tensor, used: int) -> Tensor:
        for layer in self.cache:
            layer.reserve(used)
        return self.model.extend(concept_BD[:, None], positions_B[:, None], self.cache, used)[:, 0]

    def keep(self, rows_K: Tensor) -> None:
        for layer in self.cache:
            layer.keep(rows_K)


class _Next(NextConcept):
    """See `NextConcept`."""

    def __init__(self, model: "BaseLCM") -> None:
        self.model = model
        self.transformer = StepTransformer(model.transformer)

    def new_cache(self, rows: int, slots: int) -> list[LayerCache]:
        return self.model.new_cache(rows, slots)

    def read(self, concepts_BLD: Tensor, positions_BL: Tensor, cache: list[LayerCache], used: int) -> None:
        self.model.extend(concepts_BLD, positions_BL, cache, used)

    def __call__(self, at: StaticInputs, observe: Observer | None) -> Tensor:
        x_R1W, positions_R1 = self.model.transformer.project(at.concept[:, None]), at.positions[:, None]
        mask_R11K = causal_step_mask(positions_R1, at.cache[0].keys)
        hidden_R1W = self.transformer(
            x_R1W, self.transformer.rotations(positions_R1), positions_R1, mask_R11K, at.cache
        )
        return self.model.output_proj(hidden_R1W)[:, 0].float()
