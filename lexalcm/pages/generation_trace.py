"""Denoising trajectories of one concept: the model's estimate of it at each denoising step.

The steps are observed, not changed: the estimates are those that the sampler continues from, and the last one is what
`lcm infer` would say with the same seed. There are several samples, each with noise of its own, with guidance and
without, because a single one says little.

Shapes: S denoising steps, N samples, D embedding dimension.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lexalcm.diffusion.schedule import Prediction
from lexalcm.errors import UserError
from lexalcm.generate.autoregressive import generate
from lexalcm.generate.denoising import Denoising
from lexalcm.generate.options import GenerationOptions
from lexalcm.generate.predictor import prepare
from lexalcm.generate.text import TextModel
from lexalcm.model.lcm import LCM


@dataclass(frozen=True)
class Trajectory:
    """The samples' trajectories from noise to a concept, with one guidance scale.

    Attributes:
        name: in words.
        guidance: the scale; 1 is no guidance.
        timesteps: where the steps begin, S of them, descending.
        estimates: of the concept after each step, in the codec's space, float32 [S, N, D].
        squared_l2: to the true concept, in normalized space, [S, N].
        cosine: cosine similarity with the true concept, in the codec's space, [S, N].
        projection: on the line from the mean to the true concept, in its length: 0 at the mean, 1 at the truth, [S, N].
        residual: distance from that line, in the same unit, [S, N].
    """

    name: str
    guidance: float
    timesteps: Sequence[int]
    estimates: Tensor
    squared_l2: np.ndarray
    cosine: np.ndarray
    projection: np.ndarray
    residual: np.ndarray


@dataclass(frozen=True)
class Trace:
    """All trajectories to one concept, and the distances of predictions that need no model.

    Attributes:
        trajectories: the guided ones first.
        squared_l2_of_mean: squared L2 between the true concept and the mean of all concepts.
        squared_l2_of_last: that between the true concept and the one before it.
    """

    trajectories: Sequence[Trajectory]
    squared_l2_of_mean: float
    squared_l2_of_last: float


def check_denoises(model: LCM, name: object) -> None:
    """Make sure that a model denoises.

    Raises:
        UserError: it answers in one step.
    """
    if not model.denoises:
        raise UserError(
            f"{name} is a {model.config.architecture} model: it answers in one step and denoises nothing; "
            "see lcm infer --each"
        )


def trace(model: TextModel, concepts: Tensor, options: GenerationOptions, seeds: Sequence[int]) -> Trace:
    """Predict the last of some concepts from those before it.

    Args:
        model: a diffusion model with its codec.
        concepts: the prompt's and the true next one, in the codec's space, float32 [n, D], n of at least 2.
        options: sampler, steps, guidance; with a guidance scale of 1 there is only the unguided trajectory.
        seeds: of the noise, N of them.

    Raises:
        UserError: a base model, or more steps than it was trained with.
    """
    check_denoises(model.model, model.folder)
    kinds = [("unguided", options.model_copy(update={"guidance_scale": 1.0}))]
    if options.guidance_scale != 1:
        kinds.insert(0, (f"guided, scale {options.guidance_scale:g}", options))
    trajectories = [_trace_one(model.model, name, concepts, kind, seeds) for name, kind in kinds]
    last, truth = _normalize(model.model, concepts[-2:])
    return Trace(trajectories, float(truth.square().sum()), float((last - truth).square().sum()))


def _trace_one(model: LCM, name: str, concepts: Tensor, options: GenerationOptions, seeds: Sequence[int]) -> Trajectory:
    assert model.schedule is not None  # it denoises
    seen: list[Tensor] = []

    def observe(_step: int, _steps: int, prediction: Prediction) -> None:
        seen.append(prediction.x0[:, 0].float().cpu())

    predictor = prepare(model, options, observe=observe)
    next(generate(predictor, [concepts[:-1]] * len(seeds), seeds, 1))
    normalized_SND = torch.stack(seen)
    truth_D = _normalize(model, concepts[-1])
    length = truth_D.norm().clamp_min(torch.finfo(torch.float32).tiny)
    projection_SN = normalized_SND @ truth_D / length**2
    residual_SN = (normalized_SND - projection_SN.unsqueeze(-1) * truth_D).norm(dim=-1) / length
    estimates_SND = model.normalizer.denormalize(normalized_SND.to(model.device)).float().cpu()
    return Trajectory(
        name=name,
        guidance=options.guidance_scale,
        timesteps=Denoising(model.schedule, options).timesteps,
        estimates=estimates_SND,
        squared_l2=(normalized_SND - truth_D).square().sum(-1).numpy(),
        cosine=torch.cosine_similarity(estimates_SND, concepts[-1], dim=-1).numpy(),
        projection=projection_SN.numpy(),
        residual=residual_SN.numpy(),
    )


def _normalize(model: LCM, concepts: Tensor) -> Tensor:
    return model.normalizer.normalize(concepts.to(model.device)).float().cpu()
