"""What one-tower and two-tower LCMs share: they take noise away, as a schedule puts it on (LCM paper, section 2.3.1).

Shapes: B rows, L positions, D embedding dimension.
"""

from abc import abstractmethod

from torch import Tensor

from lexalcm.diffusion.schedule import NoiseSchedule
from lexalcm.model.config import ModelConfig
from lexalcm.model.lcm import LCM

TINY_GENERATION = {"sampler": "ddim", "steps": 4, "guidance_rescale": 0.9, "initial_noise_scale": 0.3}
"""Of models trained for minutes, for which the context decides little of the next concept, and whose unguided samples
hardly show it: strong guidance, few steps. Chosen on training documents held out for it, among 1 to 40 steps and scales
1 to 20: 1, 4 and 10 steps came out alike; of them 4 is the cheapest that still denoises."""


class DiffusionLCM(LCM):
    """Next-concept diffusion."""

    denoises = True
    samples = True
    objective = "diffusion"
    schedule: NoiseSchedule

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        assert config.diffusion is not None  # filled by the config
        self.schedule = NoiseSchedule(config.diffusion)

    @abstractmethod
    def forward(
        self,
        concepts_BLD: Tensor,
        documents_BL: Tensor,
        positions_BL: Tensor,
        noisy_BLD: Tensor,
        timesteps_BL: Tensor,
        dropped_BL: Tensor,
    ) -> Tensor:
        """The network's prediction for every position of packed rows, float32 [B, L, D].

        Args:
            concepts_BLD: clean and normalized.
            documents_BL: see `LCM`.
            positions_BL: see `LCM`.
            noisy_BLD: the same concepts with noise.
            timesteps_BL: of the noise, 0 to T - 1, int64.
            dropped_BL: which positions know nothing of the concepts before them, bool.
        """
