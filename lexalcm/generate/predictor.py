"""A model made ready to predict concepts: one small class per architecture behind one protocol.

`prepare` does what needs doing once for a model and its options, such as the modulation of all denoising steps. What it
returns reads documents concept by concept (`generate.autoregressive`) or predicts whole packed rows
(`generate.teacher_forced`).

Shapes: B rows, L positions, D embedding dimension.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from lexalcm.diffusion.samplers import DrawNoise, Observer
from lexalcm.generate.base import BasePredictor
from lexalcm.generate.denoising import Denoising
from lexalcm.generate.graphs import Capture, CudaGraphs
from lexalcm.generate.one_tower import OneTowerPredictor
from lexalcm.generate.options import GenerationOptions
from lexalcm.generate.stations import NextConcept, StationReader, Stations
from lexalcm.generate.two_tower import TwoTowerPredictor
from lexalcm.model.base import BaseLCM
from lexalcm.model.lcm import LCM, evaluating
from lexalcm.model.one_tower import OneTowerLCM
from lexalcm.model.two_tower import TwoTowerLCM


class Reader(Protocol):
    """Keeps what is needed of the concepts so far of B documents."""

    def read(self, concepts_BLD: Tensor, positions_BL: Tensor, used: int) -> None:
        """Take in normalized concepts; arguments as for `Transformer.extend`."""

    def next(self, concept_BD: Tensor, positions_B: Tensor, used: int) -> Tensor:
        """Take in one more concept of each document and guess the one after it, normalized, [B, D]."""

    def keep(self, rows_K: Tensor) -> None:
        """Go on with these documents alone, by their places, int64 [K]; noise is then drawn for them alone."""


class ConceptPredictor(Protocol):
    """A model with its options."""

    @property
    def model(self) -> LCM:
        """The model; must not change any more."""

    def new_reader(self, rows: int, slots: int, draw_noise: DrawNoise) -> Reader:
        """A reader of `rows` documents, with room for `slots` concepts, or more when they come; noise is [B, 1, D]."""

    def predict_rows(
        self, concepts_BLD: Tensor, documents_BL: Tensor, positions_BL: Tensor, draw_noise: DrawNoise
    ) -> Tensor:
        """Guess each concept of packed rows from those before it in its document, normalized, [B, L, D].

        What stands at the first position of a document means nothing. Noise is [B, L, D].
        """


class ArchitecturePredictor(ConceptPredictor, Protocol):
    """A predictor that knows how to work at stations too."""

    def next_concept(self) -> NextConcept:
        """What stations do for a concept; takes memory of its own."""


class StationaryPredictor:
    """A predictor whose readers work at stations, see `lexalcm.generate.stations`; rows it predicts as it is.

    What stations need of a model's weights, some of it copies, is made with the first reader.

    Args:
        predictor: of an architecture.
        capture: makes graphs of the stations' work; none: it is done operation by operation.
        observe: is shown what each denoising step predicted, once its concept is made.
    """

    def __init__(
        self, predictor: ArchitecturePredictor, capture: Capture | None, observe: Observer | None = None
    ) -> None:
        self._predictor = predictor
        self._capture = capture
        self._observe = observe
        self.predict_rows = predictor.predict_rows

    @property
    def model(self) -> LCM:
        """See `ConceptPredictor.model`."""
        return self._predictor.model

    def new_reader(self, rows: int, slots: int, draw_noise: DrawNoise) -> Reader:
        """See `ConceptPredictor.new_reader`."""
        return StationReader(self._stations, rows, slots, draw_noise)

    @cached_property
    def _stations(self) -> Stations:
        model = self.model
        with torch.inference_mode(), evaluating(model):
            next_concept = self._predictor.next_concept()
        return Stations(next_concept, model.device, model.config.dim, self._capture, self._observe)


@torch.inference_mode()
def prepare(
    model: LCM,
    options: GenerationOptions,
    timesteps: Sequence[int] | None = None,
    observe: Observer | None = None,
    *,
    graphs: bool | None = None,
) -> ConceptPredictor:
    """Make a model ready.

    Args:
        model: any architecture; its weights must not change while the predictor is in use.
        options: how a diffusion model generates; a base model takes no notice.
        timesteps: where the sampler's steps begin, strictly descending, from T - 1 to 0 at most, in place of those that
            `options.steps` gives.
        observe: is told of each denoising step, with normalized concepts; a base model has no steps. On a GPU, once all
            steps of a concept are done.
        graphs: whether concepts are made by CUDA graphs where their work can be captured; none: on a GPU.

    Raises:
        UserError: more denoising steps than the model was trained with, or timesteps that it does not have.
    """
    with evaluating(model):
        predictor = _of_architecture(model, options, timesteps, observe)
    on_gpu = model.device.type == "cuda"
    if on_gpu or graphs:
        capture = CudaGraphs(model.device) if graphs or graphs is None else None
        return StationaryPredictor(predictor, capture, observe)
    return predictor


def _of_architecture(
    model: LCM, options: GenerationOptions, timesteps: Sequence[int] | None, observe: Observer | None
) -> ArchitecturePredictor:
    match model:
        case BaseLCM():
            return BasePredictor(model)
        case OneTowerLCM():
            return OneTowerPredictor(model, Denoising(model.schedule, options, timesteps), observe)
        case TwoTowerLCM():
            return TwoTowerPredictor(model, Denoising(model.schedule, options, timesteps), observe)
    raise TypeError(f"no way to generate with {type(model).__name__}")
