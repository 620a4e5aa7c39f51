"""From noise to a clean concept: samplers as plain functions of a predictor and a list of timesteps.

A sampler asks the predictor for the clean concept and the noise in x_t at each timestep, highest first, moves to the
next timestep and returns the last clean concept. It neither knows the network nor guidance (`guidance.py` wraps those
into a predictor). The predictor is called once per listed timestep: forty steps are forty calls.

Shapes: any, as long as `x` and the predictor's answers agree; the last dimension is a concept's.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from lexalcm.diffusion.schedule import NoiseSchedule, Prediction
from lexalcm.errors import UserError

Predictor = Callable[[Tensor, int], Prediction]
"""From x_t and t to x_0 and the noise."""

CLEAN = -1  # the timestep below the first one: no noise left


def trailing_timesteps(steps: int, train_steps: int) -> list[int]:
    """`steps` timesteps spread evenly over the training's, from the last one down (arXiv 2305.08891, table 2).

    Raises:
        UserError: more steps than the model was trained with.
    """
    _check_steps(steps, train_steps)
    return [round(train_steps - i * train_steps / steps) - 1 for i in range(steps)]


def log_snr_timesteps(steps: int, schedule: NoiseSchedule) -> list[int]:
    """`steps` timesteps spread evenly over the log-SNR, from the last timestep down to the first (arXiv 2206.00927).

    That is what a solver of higher order extrapolates in. A last timestep without signal comes before the even ones.

    Raises:
        UserError: more steps than the model was trained with.
    """
    _check_steps(steps, schedule.steps)
    pure_noise = [schedule.steps - 1] if schedule.alphas_cumprod[-1] == 0 else []
    log_snr_T = (schedule.snr[: schedule.steps - len(pure_noise)]).log()
    targets = torch.linspace(float(log_snr_T[-1]), float(log_snr_T[0]), steps - len(pure_noise))
    timesteps = pure_noise + [int((log_snr_T - target).abs().argmin()) for target in targets]
    for i in range(1, steps):  # where steps are close, the nearest timestep may be one that is taken
        timesteps[i] = min(timesteps[i], timesteps[i - 1] - 1)
    return [max(timestep, steps - 1 - i) for i, timestep in enumerate(timesteps)]


def _check_steps(steps: int, train_steps: int) -> None:
    if steps > train_steps:
        raise UserError(f"{steps} denoising steps: this model was trained with {train_steps}, choose at most so many")


def sample_ddim(
    predict: Predictor,
    x: Tensor,
    schedule: NoiseSchedule,
    timesteps: Sequence[int],
    *,
    eta: float = 0.0,
    draw_noise: Callable[[], Tensor] | None = None,
) -> Tensor:
    """DDIM (arXiv 2010.02502, eq. 12).

    Args:
        predict: the model, guided or not.
        x: pure noise, or a concept with the noise of the first timestep.
        schedule: the model's.
        timesteps: descending.
        eta: share of fresh noise (eq. 16), from 0, deterministic, to 1, DDPM.
        draw_noise: makes fresh noise of the shape of `x`; needed when `eta` is not 0.

    Raises:
        UserError: `eta` without `draw_noise`.
    """
    if eta and draw_noise is None:
        raise UserError(f"eta={eta}: fresh noise needs draw_noise, give it or set eta to 0")
    for timestep, next_timestep in pairwise([*timesteps, CLEAN]):
        x0, epsilon = predict(x, timestep)
        next_alpha, next_sigma = schedule.alpha_sigma(next_timestep)
        fresh = fresh_noise(schedule, timestep, next_timestep, eta)
        x = next_alpha * x0 + math.sqrt(max(next_sigma**2 - fresh**2, 0.0)) * epsilon
        if fresh and draw_noise is not None:
            x = x + fresh * draw_noise()
    return x


def fresh_noise(schedule: NoiseSchedule, timestep: int, next_timestep: int, eta: float) -> float:
    """How much fresh noise DDIM adds in one step, as its standard deviation (arXiv 2010.02502, eq. 16)."""
    alpha, sigma = schedule.alpha_sigma(timestep)
    next_alpha, next_sigma = schedule.alpha_sigma(next_timestep)
    return eta * next_sigma / sigma * math.sqrt(1 - (alpha / next_alpha) ** 2)


def sample_dpm_solver(predict: Predictor, x: Tensor, schedule: NoiseSchedule, timesteps: Sequence[int]) -> Tensor:
    """DPM-Solver++ 2M (arXiv 2211.01095, algorithm 2): DDIM on a clean concept extrapolated from the last two.

    The first step, whose log-SNR may be minus infinity, and the last, which removes all noise, are of first order, that
    is DDIM's. Arguments as for `sample_ddim`.
    """
    previous_x0: Tensor | None = None
    previous_log_snr = -math.inf
    for timestep, next_timestep in pairwise([*timesteps, CLEAN]):
        x0, epsilon = predict(x, timestep)
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
