"""A sampler that asks the network between its steps too, and draws noise: what generation must not rely on."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor

from lexalcm.diffusion.samplers import CLEAN, DenoiseFn, Observer, Sampler, ignore, trailing_timesteps
from lexalcm.diffusion.schedule import NoiseSchedule


def sample_midpoint(
    predict: DenoiseFn,
    x: Tensor,
    schedule: NoiseSchedule,
    timesteps: Sequence[int],
    *,
    observe: Observer = ignore,
    eta: float = 0.0,
    draw_noise: Callable[[], Tensor] | None = None,
) -> Tensor:
    """Half of a step as DDIM makes it; what is predicted there makes the whole one, with a share of fresh noise."""
    for step, (timestep, next_timestep) in enumerate(pairwise([*timesteps, CLEAN]), start=1):
        prediction = predict(x, timestep)
        middle = (timestep + next_timestep) // 2
        if next_timestep < middle < timestep:
            alpha, sigma = schedule.alpha_sigma(middle)
            prediction = predict(alpha * prediction.x0 + sigma * prediction.epsilon, middle)
        observe(step, len(timesteps), prediction)
        alpha, sigma = schedule.alpha_sigma(next_timestep)
        x = alpha * prediction.x0 + math.sqrt(1 - eta**2) * sigma * prediction.epsilon
        if eta and sigma > 0:
            x = x + eta * sigma * draw_noise()
    return x


MIDPOINT = Sampler("Midpoint", "second order, even steps of time", sample_midpoint, trailing_timesteps, adds_noise=True)
