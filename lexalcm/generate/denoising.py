"""From noise to concepts with the options of a generation: sampler, guidance and limits around a model's network."""

from collections.abc import Sequence
from itertools import pairwise
from numbers import Integral

from torch import Tensor

from lexalcm.diffusion.guidance import guided, limited, unguided
from lexalcm.diffusion.samplers import DrawNoise, Observer, dry_run, ignore
from lexalcm.diffusion.schedule import NoiseSchedule
from lexalcm.errors import UserError
from lexalcm.generate.options import GenerationOptions
from lexalcm.model.predictor import NetworkAnswers
from lexalcm.registries import SAMPLERS


class Denoising:
    """How concepts come out of noise; what it asks of a network and of noise is known before.

    Args:
        schedule: the model's.
        options: sampler, guidance, limits.
        timesteps: where the sampler's steps begin, strictly descending, from T - 1 to 0 at most; default: as suits the
            sampler.

    Attributes:
        guided: whether the network is to answer without conditioning too.
        timesteps: where steps begin.
        evaluations: how many times the network is called for a concept.
        evaluated: the timesteps that it is asked for, each once.
        draws: how many times noise is drawn for a concept.

    Raises:
        UserError: more steps than the model was trained with, or timesteps that it does not have.
    """

    def __init__(
        self, schedule: NoiseSchedule, options: GenerationOptions, timesteps: Sequence[int] | None = None
    ) -> None:
        self.schedule = schedule
        self.options = options
        self.sampler = SAMPLERS.load(options.sampler)
        self.guided = options.guidance_scale != 1
        if timesteps is None:
            self.timesteps = self.sampler.timesteps(options.steps, schedule)
        else:
            self.timesteps = _check_timesteps(timesteps, schedule.steps)
        calls = dry_run(self.sampler, schedule, self.timesteps, options.eta)
        self.evaluations = len(calls.evaluated)
        self.evaluated = list(dict.fromkeys(calls.evaluated))
        self.draws = 1 + calls.draws

    def __call__(self, network: NetworkAnswers, draw_noise: DrawNoise, observe: Observer | None = None) -> Tensor:
        """Sample normalized concepts, of the shape that `draw_noise` gives.

        Args:
            network: the model; answers with a pair if `guided`.
            draw_noise: called `draws` times.
            observe: is called at each step; changes nothing.
        """

        def pair(x: Tensor, timestep: int) -> tuple[Tensor, Tensor]:
            conditional, unconditional = network(x, timestep)
            return conditional, unconditional

        schedule, options = self.schedule, self.options
        predict = limited(
            guided(pair, schedule, options.guidance_scale, options.guidance_rescale)
            if self.guided
            else unguided(lambda x, t: network(x, t)[0], schedule),
            clip_noisy=options.clip_noisy,
            epsilon_scaling=options.epsilon_scaling,
            clip_x0=options.clip_x0,
            dynamic_threshold=options.dynamic_threshold,
            dynamic_threshold_max=options.dynamic_threshold_max,
        )
        x = options.initial_noise_scale * draw_noise()
        return self.sampler(
            predict, x, schedule, self.timesteps, observe=observe or ignore, eta=options.eta, draw_noise=draw_noise
        )


def _check_timesteps(timesteps: Sequence[int], train_steps: int) -> list[int]:
    listed = list(timesteps)
    if not listed:
        raise UserError("no timesteps: give at least one, or omit them to use the options")
    for timestep in listed:
        if not isinstance(timestep, Integral) or isinstance(timestep, bool) or not 0 <= timestep < train_steps:
            raise UserError(f"timestep {timestep!r}: this model has whole numbers from 0 to {train_steps - 1}")
    if any(later >= earlier for earlier, later in pairwise(listed)):
        raise UserError(f"timesteps {listed}: give each one once, the highest first")
    return [int(timestep) for timestep in listed]
