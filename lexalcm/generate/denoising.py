"""A denoising process over concepts whose contexts are known: the part that both ways of generating share.

With guidance, the positions are doubled along the row: the first half sees its contexts, the second the zero vector
alone. One pass then reads the weights once, and the keys and values need no copy.

Shapes: B rows, L positions, K keys, D embedding dimension, W width, M modulation.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lexalcm.diffusion.guidance import guided, limited, unguided
from lexalcm.diffusion.samplers import sample_ddim, sample_dpm_solver, trailing_timesteps
from lexalcm.generate.options import GenerationOptions
from lexalcm.model.two_tower import TwoTowerLCM

DrawNoise = Callable[[], Tensor]
"""Makes standard normal noise of the shape of the concepts, new at each call."""


class ConceptDenoiser:
    """A model's denoiser with the options of a generation; the modulation of all steps is computed once, here.

    Args:
        model: in evaluation mode.
        options: sampler, steps, guidance.
        timesteps: descending; none: `options.steps` of them, spread evenly.

    Raises:
        UserError: more steps than the model was trained with.
    """

    def __init__(self, model: TwoTowerLCM, options: GenerationOptions, timesteps: Sequence[int] | None = None) -> None:
        self.model = model
        self.options = options
        self.timesteps = list(timesteps or trailing_timesteps(options.steps, model.schedule.steps))
        tables = model.denoiser.modulations(torch.tensor(self.timesteps, device=model.device))
        self._modulations = {t: [table_TM[i] for table_TM in tables] for i, t in enumerate(self.timesteps)}

    def denoise(self, memory_BKW: Tensor, mask_B1LK: Tensor, draw_noise: DrawNoise) -> Tensor:
        """Sample normalized concepts, [B, L, D].

        Args:
            memory_BKW: the zero vector, then contexts.
            mask_B1LK: which contexts each position sees, True for the zero vector.
            draw_noise: gives noise [B, L, D]: once, and with `eta` once more for each step.
        """
        options, schedule = self.options, self.model.schedule
        keys_values = self.model.denoiser.keys_values(memory_BKW)

        def network(x_BLD: Tensor, timestep: int) -> Tensor:
            return self.model.denoiser.denoise(x_BLD, self._modulations[timestep], keys_values, mask_B1LK).float()

        def pair(x_BLD: Tensor, timestep: int) -> tuple[Tensor, Tensor]:
            conditional, unconditional = network(x_BLD.repeat(1, 2, 1), timestep).chunk(2, dim=1)
            return conditional, unconditional

        predict = limited(
            unguided(network, schedule)
            if options.guidance_scale == 1
            else guided(pair, schedule, options.guidance_scale, options.guidance_rescale),
            clip_noisy=options.clip_noisy,
            epsilon_scaling=options.epsilon_scaling,
            clip_x0=options.clip_x0,
            dynamic_threshold=options.dynamic_threshold,
            dynamic_threshold_max=options.dynamic_threshold_max,
        )
        x_BLD = options.initial_noise_scale * draw_noise()
        if options.sampler == "dpm-solver++":
            return sample_dpm_solver(predict, x_BLD, schedule, self.timesteps)
        return sample_ddim(predict, x_BLD, schedule, self.timesteps, eta=options.eta, draw_noise=draw_noise)
