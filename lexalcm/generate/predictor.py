"""A model made ready to predict concepts: its architecture's predictor, on a GPU with static buffers.

`prepare` does what needs doing once for a model and its options, such as the modulation of all denoising steps.

Shapes: B rows, L positions, D embedding dimension.
"""

from collections.abc import Sequence
from functools import cached_property

import torch

from lexalcm.diffusion.samplers import DrawNoise, Observer
from lexalcm.generate.denoising import Denoising
from lexalcm.generate.graphs import Capture, CudaGraphs
from lexalcm.generate.options import GenerationOptions
from lexalcm.generate.static_buffers import StaticBufferPool, StaticReader
from lexalcm.model.lcm import LCM, evaluating
from lexalcm.model.predictor import ArchitecturePredictor, ConceptPredictor, Reader


class StaticPredictor:
    """A predictor whose readers use static buffers, if its architecture can; rows it predicts as it is.

    What static buffers need of a model's weights, some of it copies, is made with the first reader.

    Args:
        predictor: of an architecture.
        capture: makes graphs of the work on static buffers; none: it is done operation by operation.
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
        if self._pool is None:
            return self._predictor.new_reader(rows, slots, draw_noise)
        return StaticReader(self._pool, rows, slots, draw_noise)

    @cached_property
    def _pool(self) -> StaticBufferPool | None:
        model = self.model
        with torch.inference_mode(), evaluating(model):
            next_concept = self._predictor.next_concept()
        if next_concept is None:
            return None
        return StaticBufferPool(next_concept, model.device, model.config.dim, self._capture, self._observe)


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
        options: how a diffusion model generates; a base model ignores it.
        timesteps: where the sampler's steps begin, strictly descending, from T - 1 to 0 at most, in place of those that
            `options.steps` gives.
        observe: is called at each denoising step, with normalized concepts; a base model has no steps. On a GPU, once
            all steps of a concept are done.
        graphs: whether concepts are made by CUDA graphs where their work can be captured; none: on a GPU.

    Raises:
        UserError: more denoising steps than the model was trained with, or timesteps that it does not have.
    """
    with evaluating(model):
        denoising = None if model.schedule is None else Denoising(model.schedule, options, timesteps)
        predictor = model.predictor(denoising, observe)
    on_gpu = model.device.type == "cuda"
    if on_gpu or graphs:
        capture = CudaGraphs(model.device) if graphs or graphs is None else None
        return StaticPredictor(predictor, capture, observe)
    return predictor
