"""What one-tower and two-tower LCMs share: the diffusion objective over packed rows (LCM paper, section 2.3.1).

In training all concepts of a row are denoised at once, each from its own timestep: concept i out of its noise, knowing
the clean concepts before it in its document. With some probability it knows none of them, which gives the unconditional
model that guidance needs.

Shapes: B rows, L positions, D embedding dimension.
"""

from abc import abstractmethod

import torch
from torch import Tensor

from lexalcm.diffusion.schedule import NoiseSchedule
from lexalcm.errors import UserError
from lexalcm.model.config import ModelConfig
from lexalcm.model.lcm import LCM, Loss, check_rows, reduce_loss, squared_l2

TINY_GENERATION = {"sampler": "ddim", "steps": 4, "guidance_rescale": 0.9, "initial_noise_scale": 0.3}
"""Of models trained for minutes, for which the context decides little of the next concept, and whose unguided samples
hardly show it: strong guidance, few steps. Chosen on training documents held out for it, among 1 to 40 steps and scales
1 to 20: 1, 4 and 10 steps came out alike; of them 4 is the cheapest that still denoises."""


class DiffusionLCM(LCM):
    """Next-concept diffusion."""

    denoises = True
    samples = True
    schedule: NoiseSchedule

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        assert config.diffusion is not None  # filled by the config
        self.schedule = NoiseSchedule(config.diffusion)
        self.condition_dropout = config.diffusion.condition_dropout
        self.weighted = config.diffusion.loss_weighting != "none"

    @abstractmethod
    def predict(
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
            documents_BL: see `LCM.forward`.
            positions_BL: see `LCM.forward`.
            noisy_BLD: the same concepts with noise.
            timesteps_BL: of the noise, 0 to T - 1.
            dropped_BL: which positions know nothing of the concepts before them.
        """

    def forward(self, embeddings: Tensor, documents: Tensor, positions: Tensor, targets: Tensor) -> Loss:
        """The training loss of packed rows; see `LCM.forward`.

        Draws a timestep, noise and, in training mode, dropped conditioning for every position.
        """
        check_rows(self.config, embeddings, documents=documents, positions=positions, targets=targets)
        timesteps_BL = torch.randint(self.schedule.steps, documents.shape, device=embeddings.device)
        noise_BLD = torch.randn(embeddings.shape, device=embeddings.device)
        draw_BL = torch.rand(documents.shape, device=embeddings.device)
        dropped_BL = draw_BL < (self.condition_dropout if self.training else 0.0)
        return self._loss(embeddings, documents, positions, targets, timesteps_BL, noise_BLD, dropped_BL)

    def loss(
        self,
        embeddings: Tensor,
        documents: Tensor,
        positions: Tensor,
        targets: Tensor,
        *,
        timesteps: Tensor,
        noise: Tensor,
        dropped: Tensor,
    ) -> Loss:
        """The training loss for given randomness: what `forward` draws.

        Args:
            embeddings, documents, positions, targets: see `LCM.forward`.
            timesteps: from 0 to T - 1, int64 [B, L].
            noise: standard normal, [B, L, D].
            dropped: whose conditioning is dropped, bool [B, L].

        Raises:
            UserError: shapes or types that do not fit, timesteps that do not exist.
        """
        rows = {"documents": documents, "positions": positions, "targets": targets}
        check_rows(self.config, embeddings, **rows, timesteps=timesteps, dropped=dropped)
        if noise.shape != embeddings.shape:
            raise UserError(f"noise: shape {list(noise.shape)}, expected {list(embeddings.shape)}")
        if timesteps.numel() and not 0 <= int(timesteps.min()) <= int(timesteps.max()) < self.schedule.steps:
            found = f"{int(timesteps.min())} to {int(timesteps.max())}"
            raise UserError(f"timesteps: {found}, this model has 0 to {self.schedule.steps - 1}")
        return self._loss(embeddings, documents, positions, targets, timesteps, noise, dropped)

    def _loss(
        self,
        embeddings_BLD: Tensor,
        documents_BL: Tensor,
        positions_BL: Tensor,
        targets_BL: Tensor,
        timesteps_BL: Tensor,
        noise_BLD: Tensor,
        dropped_BL: Tensor,
    ) -> Loss:
        concepts_BLD = self.normalizer.normalize(embeddings_BLD)
        noisy_BLD = self.schedule.add_noise(concepts_BLD, noise_BLD, timesteps_BL)
        output_BLD = self.predict(concepts_BLD, documents_BL, positions_BL, noisy_BLD, timesteps_BL, dropped_BL)
        loss_BL = squared_l2(output_BLD, self.schedule.target(concepts_BLD, noise_BLD, timesteps_BL))
        if self.weighted:
            loss_BL = loss_BL * self.schedule.loss_weights(timesteps_BL)
        return reduce_loss(loss_BL, targets_BL, timesteps_BL)
