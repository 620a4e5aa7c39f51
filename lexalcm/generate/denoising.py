"""From noise to concepts with the options of a generation: sampler, guidance and limits around a model's network."""

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor

from lexalcm.diffusion.guidance import Observer, guided, limited, observed, unguided
from lexalcm.diffusion.samplers import (
    CLEAN,
    fresh_noise,
    log_snr_timesteps,
    sample_ddim,
    sample_dpm_solver,
    trailing_timesteps,
)
from lexalcm.diffusion.schedule import NoiseSchedule
from lexalcm.generate.options import GenerationOptions

DrawNoise = Callable[[], Tensor]
"""Makes standard normal noise of the shape of the concepts, new at each call."""

NetworkAnswers = Callable[[Tensor, int], tuple[Tensor, ...]]
"""From x_t and t to what the network predicts with conditioning and, with guidance, without."""


def denoise(
    network: NetworkAnswers,
    schedule: NoiseSchedule,
    options: GenerationOptions,
    timesteps: Sequence[int],
    draw_noise: DrawNoise,
    observe: Observer | None = None,
) -> Tensor:
    """Sample normalized concepts, of the shape that `draw_noise` gives.

    Args:
        network: the model; answers with a pair if the options ask for guidance, see `needs_pair`.
        schedule: the model's.
        options: sampler, guidance, limits.
        timesteps: descending.
        draw_noise: called once, and with `eta` once more for each step.
        observe: is shown the normalized concept that each step predicts; changes nothing.
    """

    def pair(x: Tensor, timestep: int) -> tuple[Tensor, Tensor]:
        conditional, unconditional = network(x, timestep)
        return conditional, unconditional

    predict = limited(
        guided(pair, schedule, options.guidance_scale, options.guidance_rescale)
        if needs_pair(options)
        else unguided(lambda x, t: network(x, t)[0], schedule),
        clip_noisy=options.clip_noisy,
        epsilon_scaling=options.epsilon_scaling,
        clip_x0=options.clip_x0,
        dynamic_threshold=options.dynamic_threshold,
        dynamic_threshold_max=options.dynamic_threshold_max,
    )
    if observe is not None:
        predict = observed(predict, observe)
    x = options.initial_noise_scale * draw_noise()
    if options.sampler == "dpm-solver++":
        return sample_dpm_solver(predict, x, schedule, timesteps)
    return sample_ddim(predict, x, schedule, timesteps, eta=options.eta, draw_noise=draw_noise)


def count_draws(schedule: NoiseSchedule, options: GenerationOptions, timesteps: Sequence[int]) -> int:
    """How often `denoise` draws noise."""
    steps = pairwise([*timesteps, CLEAN])
    return 1 + sum(fresh_noise(schedule, *step, options.eta) != 0 for step in steps)


def choose_timesteps(options: GenerationOptions, schedule: NoiseSchedule) -> list[int]:
    """The timesteps that suit the sampler, descending.

    Raises:
        UserError: more steps than the model was trained with.
    """
    if options.sampler == "dpm-solver++":
        return log_snr_timesteps(options.steps, schedule)
    return trailing_timesteps(options.steps, schedule.steps)


def needs_pair(options: GenerationOptions) -> bool:
    """Whether the options ask for the unconditional prediction too."""
    return options.guidance_scale != 1
