"""From noise to a clean concept: samplers as plain functions of a predictor and a list of timesteps.

A step begins at each listed timestep, highest first, and ends at the next one; the last one ends at a clean concept. A
sampler asks the predictor for the clean concept and the noise in x_t where a step begins, and wherever else it wants to
know them, as often as it wants. It neither knows the network nor guidance (`guidance.py` wraps those into a predictor).

A new one is a function and a `Sampler`, named in `lexalcm.registries.SAMPLERS` or by another package's entry point; see
`docs/extending.md`.

Shapes: any, as long as `x` and the predictor's answers agree; the last dimension is a concept's.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from lexalcm.diffusion.schedule import NoiseSchedule, Prediction
from lexalcm.errors import UserError

DenoiseFn = Callable[[Tensor, int], Prediction]
"""From x_t and t, any timestep of the schedule, to x_0 and the noise."""

DrawNoise = Callable[[], Tensor]
"""Makes standard normal noise of the shape of the concepts, new at each call."""

Observer = Callable[[int, int, Prediction], None]
"""Is called by the sampler at each step: its number, from 1; of how many; the clean concept and the noise that the step
goes on with. The clean concept of the last step is the result."""

CLEAN = -1  # the timestep below the first one: no noise left


def ignore(step: int, steps: int, prediction: Prediction) -> None:
    """An observer that does nothing."""


@dataclass(frozen=True)
class Sampler:
    """A way from noise to a clean concept.

    Attributes:
        title: as papers write it.
        about: its order and where its steps lie, in a few words, for people who choose one.
        sample: the function, called as `sample(predict, x, schedule, timesteps, observe=...)`; see `sample_ddim`. Where
            it calls `predict` may depend on the schedule and the timesteps, not on what is predicted.
        timesteps: where that number of steps begins on a schedule, descending.
        adds_noise: whether `sample` takes `eta`, the share of fresh noise, and `draw_noise` too.
    """

    title: str
    about: str
    sample: Callable[..., Tensor]
    timesteps: Callable[[int, NoiseSchedule], list[int]]
    adds_noise: bool = False

    def __call__(
        self,
        predict: DenoiseFn,
        x: Tensor,
        schedule: NoiseSchedule,
        timesteps: Sequence[int],
        *,
        observe: Observer,
        eta: float,
        draw_noise: DrawNoise,
    ) -> Tensor:
        """Run it; `eta` and `draw_noise` are given only to a sampler that adds noise."""
        noise = {"eta": eta, "draw_noise": draw_noise} if self.adds_noise else {}
        return self.sample(predict, x, schedule, timesteps, observe=observe, **noise)


class Calls(NamedTuple):
    """What a sampler asks for on its way."""

    evaluated: list[int]
    """The timestep of each call of the predictor, in order."""
    draws: int
    """How many times fresh noise is drawn."""


def dry_run(sampler: Sampler, schedule: NoiseSchedule, timesteps: Sequence[int], eta: float = 0.0) -> Calls:
    """What a sampler will ask for, found by having it denoise one concept of two numbers without a network.

    Raises:
        UserError: it asks for a timestep that the schedule does not have, or does not tell its observer of every step.
    """
    x = torch.zeros(1, 1, 2)
    evaluated, observed, drawn = [], [], []

    def predict(x_t: Tensor, timestep: int) -> Prediction:
        if not 0 <= timestep < schedule.steps:
            raise UserError(f"{sampler.title} asks for timestep {timestep}: this model has 0 to {schedule.steps - 1}")
        evaluated.append(timestep)
        return Prediction(torch.zeros_like(x_t), torch.zeros_like(x_t))

    def draw_noise() -> Tensor:
        drawn.append(1)
        return torch.zeros_like(x)

    def observe(step: int, steps: int, prediction: Prediction) -> None:
        observed.append((step, steps))

    sampler(predict, x, schedule, timesteps, observe=observe, eta=eta, draw_noise=draw_noise)
    if observed != [(step, len(timesteps)) for step in range(1, len(timesteps) + 1)]:
        raise UserError(f"{sampler.title} must call observe(step, steps, prediction) once a step, from 1")
    return Calls(evaluated, len(drawn))


def trailing_timesteps(steps: int, schedule: NoiseSchedule) -> list[int]:
    """`steps` timesteps spread evenly over the training's, from the last one down (arXiv 2305.08891, table 2).

    Raises:
        UserError: more steps than the model was trained with.
    """
    _check_steps(steps, schedule)
    return [round(schedule.steps - i * schedule.steps / steps) - 1 for i in range(steps)]


def log_snr_timesteps(steps: int, schedule: NoiseSchedule) -> list[int]:
    """`steps` timesteps spread evenly over the log-SNR, from the last timestep down to the first (arXiv 2206.00927).

    That is what a solver of higher order extrapolates in. A last timestep without signal comes before the even ones.

    Raises:
        UserError: more steps than the model was trained with.
    """
    _check_steps(steps, schedule)
    pure_noise = [schedule.steps - 1] if schedule.alphas_cumprod[-1] == 0 else []
    log_snr_T = (schedule.snr[: schedule.steps - len(pure_noise)]).log()
    targets = torch.linspace(float(log_snr_T[-1]), float(log_snr_T[0]), steps - len(pure_noise))
    timesteps = pure_noise + [int((log_snr_T - target).abs().argmin()) for target in targets]
    for i in range(1, steps):  # where steps are close, the nearest timestep may be one that is taken
        timesteps[i] = min(timesteps[i], timesteps[i - 1] - 1)
    return [max(timestep, steps - 1 - i) for i, timestep in enumerate(timesteps)]


def _check_steps(steps: int, schedule: NoiseSchedule) -> None:
    if steps > schedule.steps:
        most = schedule.steps
        raise UserError(f"{steps} denoising steps: this model was trained with {most}: choose at most {most}")


def sample_ddim(
    predict: DenoiseFn,
    x: Tensor,
    schedule: NoiseSchedule,
    timesteps: Sequence[int],
    *,
    observe: Observer = ignore,
    eta: float = 0.0,
    draw_noise: DrawNoise | None = None,
) -> Tensor:
    """DDIM (arXiv 2010.02502, eq. 12).

    Args:
        predict: the model, guided or not.
        x: pure noise, or a concept with the noise of the first timestep.
        schedule: the model's.
        timesteps: where steps begin, descending.
        observe: is called at each step.
        eta: share of fresh noise (eq. 16), from 0, deterministic, to 1, DDPM.
        draw_noise: makes fresh noise of the shape of `x`; needed when `eta` is not 0.

    Raises:
        UserError: `eta` without `draw_noise`.
    """
    if eta and draw_noise is None:
        raise UserError(f"eta={eta}: fresh noise needs draw_noise, give it or set eta to 0")
    for step, (timestep, next_timestep) in enumerate(pairwise([*timesteps, CLEAN]), start=1):
        x0, epsilon = prediction = predict(x, timestep)
        observe(step, len(timesteps), prediction)
        next_alpha, next_sigma = schedule.alpha_sigma(next_timestep)
        fresh = _fresh_noise(schedule, timestep, next_timestep, eta)
        x = next_alpha * x0 + math.sqrt(max(next_sigma**2 - fresh**2, 0.0)) * epsilon
        if fresh and draw_noise is not None:
            x = x + fresh * draw_noise()
    return x


def _fresh_noise(schedule: NoiseSchedule, timestep: int, next_timestep: int, eta: float) -> float:
    """How much fresh noise DDIM adds in one step, as its standard deviation (arXiv 2010.02502, eq. 16)."""
    alpha, sigma = schedule.alpha_sigma(timestep)
    next_alpha, next_sigma = schedule.alpha_sigma(next_timestep)
    return eta * next_sigma / sigma * math.sqrt(1 - (alpha / next_alpha) ** 2)


DDIM = Sampler("DDIM", "even steps of time", sample_ddim, trailing_timesteps, adds_noise=True)


def sample_dpm_solver(
    predict: DenoiseFn, x: Tensor, schedule: NoiseSchedule, timesteps: Sequence[int], *, observe: Observer = ignore
) -> Tensor:
    """DPM-Solver++ 2M (arXiv 2211.01095, algorithm 2): DDIM on a clean concept extrapolated from the last two.

    The first step, whose log-SNR may be minus infinity, and the last, which removes all noise, are of first order, that
    is DDIM's. Arguments as for `sample_ddim`.
    """
    previous_x0: Tensor | None = None
    previous_log_snr = -math.inf
    for step, (timestep, next_timestep) in enumerate(pairwise([*timesteps, CLEAN]), start=1):
        x0, epsilon = prediction = predict(x, timestep)
        observe(step, len(timesteps), prediction)
        alpha, sigma = schedule.alpha_sigma(timestep)
        next_alpha, next_sigma = schedule.alpha_sigma(next_timestep)
        log_snr = math.log(alpha / sigma) if alpha > 0 else -math.inf
        x = next_alpha * x0 + next_sigma * epsilon
        if previous_x0 is not None and next_sigma > 0:
            ahead = math.log(next_alpha / next_sigma) - log_snr
            correction = ahead / (2 * (log_snr - previous_log_snr)) * (x0 - previous_x0)
            x = x + (next_alpha - next_sigma * alpha / sigma) * correction
        previous_x0, previous_log_snr = x0, log_snr
    return x


DPM_SOLVER = Sampler("DPM-Solver++", "second order, even steps of log-SNR", sample_dpm_solver, log_snr_timesteps)
