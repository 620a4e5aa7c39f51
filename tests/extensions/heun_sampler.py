"""Heun's method (EDM, arXiv 2206.00364, algorithm 1, without churn): two network evaluations a step, one in the last.

x = alpha x_0 + sigma noise turns by the angle of sigma and alpha, with the velocity alpha noise - sigma x_0.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from lexalcm.diffusion.samplers import DenoiseFn, Observer, Sampler, ignore, trailing_timesteps
from lexalcm.diffusion.schedule import NoiseSchedule


def sample_heun(
    predict: DenoiseFn, x: Tensor, schedule: NoiseSchedule, timesteps: Sequence[int], *, observe: Observer = ignore
) -> Tensor:
    """Arguments as for `sample_ddim`."""
    for step, (timestep, next_timestep) in enumerate(pairwise(timesteps), start=1):
        (alpha, sigma), (next_alpha, next_sigma) = map(schedule.alpha_sigma, (timestep, next_timestep))
        turn = math.atan2(next_sigma, next_alpha) - math.atan2(sigma, alpha)
        now = predict(x, timestep)
        observe(step, len(timesteps), now)
        then = predict(next_alpha * now.x0 + next_sigma * now.epsilon, next_timestep)
        velocities = alpha * now.epsilon - sigma * now.x0 + next_alpha * then.epsilon - next_sigma * then.x0
        x = x + turn / 2 * velocities
    last = predict(x, timesteps[-1])
    observe(len(timesteps), len(timesteps), last)
    return last.x0


HEUN = Sampler("Heun", "second order, even steps of time", sample_heun, trailing_timesteps)
