"""How a base model predicts concepts: one forward pass."""

from torch import Tensor

from lexalcm.generate.denoising import DrawNoise
from lexalcm.model.base import BaseLCM


class BasePredictor:
    """See `ConceptPredictor`; no noise is drawn."""

    def __init__(self, model: BaseLCM) -> None:
        self.model = model

    def new_reader(self, rows: int, slots: int, draw_noise: DrawNoise) -> "_Reader":
        """See `ConceptPredictor.new_reader`."""
        return _Reader(self.model, rows, slots)

    def predict_rows(
        self, concepts_BLD: Tensor, documents_BL: Tensor, positions_BL: Tensor, draw_noise: DrawNoise
    ) -> Tensor:
        """See `ConceptPredictor.predict_rows`."""
        return self.model.predict(concepts_BLD, documents_BL, positions_BL).roll(1, dims=1)


class _Reader:
    def __init__(self, model: BaseLCM, rows: int, slots: int) -> None:
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
