"""Predictors around a network: classifier-free guidance, and limits on what a sampler gets to see.

Guidance acts on the noise and not on the clean concept, as the published code does; with rescaling the two differ. At a
timestep without signal (zero SNR) noise says nothing about the concept, so there the conditional answer is taken as is.

Shapes: the last dimension is a concept's, D.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lexalcm.diffusion.samplers import DenoiseFn
from lexalcm.diffusion.schedule import NoiseSchedule, Prediction

Network = Callable[[Tensor, int], Tensor]
"""From x_t and t to what the network was trained to predict."""

NetworkPair = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""The same with and without conditioning, in one pass."""


def unguided(network: Network, schedule: NoiseSchedule) -> DenoiseFn:
    """A predictor that takes the conditional network as it is."""
    return lambda x_t, timestep: schedule.interpret(network(x_t, timestep), x_t, timestep)


def guided(pair: NetworkPair, schedule: NoiseSchedule, scale: float, rescale: float) -> DenoiseFn:
    """A predictor with classifier-free guidance (arXiv 2207.12598) and rescaling (arXiv 2305.08891, algorithm 2).

    Args:
        pair: with and without conditioning; both are asked for at every timestep.
        schedule: the model's.
        scale: 1 means no guidance; above, the difference that conditioning makes is multiplied by it.
        rescale: from 0, none, to 1: how far the guided noise gets the standard deviation of the conditional noise.
    """

    def predict(x_t: Tensor, timestep: int) -> Prediction:
        alpha, sigma = schedule.alpha_sigma(timestep)
        conditional, unconditional = (schedule.interpret(output, x_t, timestep) for output in pair(x_t, timestep))
        if alpha == 0:
            return conditional
        epsilon = unconditional.epsilon + scale * (conditional.epsilon - unconditional.epsilon)
        if rescale:
            ratio = conditional.epsilon.std(-1, keepdim=True) / epsilon.std(-1, keepdim=True)
            epsilon = epsilon * (rescale * ratio + (1 - rescale))
        return Prediction((x_t - sigma * epsilon) / alpha, epsilon)

    return predict


def limited(
    predict: DenoiseFn,
    *,
    clip_noisy: float,
    epsilon_scaling: float,
    clip_x0: float | None = None,
    dynamic_threshold: float | None = None,
    dynamic_threshold_max: float = 1.0,
) -> DenoiseFn:
    """A predictor whose input and answers are kept in bounds.

    Args:
        predict: the predictor to wrap.
        clip_noisy: x_t is kept within plus and minus this.
        epsilon_scaling: the noise is divided by it (arXiv 2308.15321), after x_0 was computed from it.
        clip_x0: x_0 is kept within plus and minus this.
        dynamic_threshold: a quantile of |x_0| over a concept; x_0 is clipped to it and divided by it (arXiv 2205.11487,
            section 2.3).
        dynamic_threshold_max: that quantile is taken as at least 1 and at most this.
    """

    def predict_limited(x_t: Tensor, timestep: int) -> Prediction:
        x0, epsilon = predict(x_t.clamp(-clip_noisy, clip_noisy), timestep)
        if clip_x0 is not None:
            x0 = x0.clamp(-clip_x0, clip_x0)
        if dynamic_threshold is not None:
            bound = torch.quantile(x0.abs(), dynamic_threshold, dim=-1, keepdim=True).clamp(1, dynamic_threshold_max)
            x0 = x0.clamp(-bound, bound) / bound
        return Prediction(x0, epsilon / epsilon_scaling)

    return predict_limited
