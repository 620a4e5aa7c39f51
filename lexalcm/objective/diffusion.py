"""Next-concept diffusion over packed rows (LCM paper, section 2.3.1).

All concepts of a row are denoised at once, each from its own timestep: concept i out of its noise, knowing the clean
concepts before it in its document. With some probability it knows none of them, which gives the unconditional model
that guidance needs. Its settings are the model's (`lexalcm.diffusion.schedule.DiffusionSettings`).

Shapes: B rows, L positions, D embedding dimension.
"""

from typing import ClassVar

import torch
from torch import Tensor

from lexalcm.data.batches.batch import Field
from lexalcm.errors import UserError
from lexalcm.model.lcm import LCM
from lexalcm.objective.base import Loss, Objective
from lexalcm.objective.squared_l2 import squared_l2

DRAWN = {"timesteps": Field(torch.int64), "noise": Field(torch.float32, vectors=True), "dropped": Field(torch.bool)}
"""What is random."""


class Diffusion(Objective):
    """Squared L2 distance to what the schedule asks the model to predict, in normalized space, added up over D."""

    denoises: ClassVar[bool] = True

    def __init__(self, model: LCM) -> None:
        super().__init__(model)
        assert model.schedule is not None  # it denoises
        self.schedule = model.schedule
        self.timesteps = self.schedule.steps
        self.condition_dropout = self.schedule.settings.condition_dropout
        self.weighted = self.schedule.settings.loss_weighting != "none"

    def loss(
        self,
        embeddings: Tensor,
        documents: Tensor,
        positions: Tensor,
        targets: Tensor,
        *,
        timesteps: Tensor | None = None,
        noise: Tensor | None = None,
        dropped: Tensor | None = None,
    ) -> Loss:
        """See `Objective.loss`. What is random is drawn for every position where it is not given.

        Args:
            embeddings, documents, positions, targets: see `lexalcm.data.batches.batch.Batch`.
            timesteps: from 0 to T - 1, int64 [B, L].
            noise: standard normal, [B, L, D].
            dropped: whose conditioning is dropped, bool [B, L]; none are drawn where the model is not in training.

        Raises:
            UserError: shapes or types that do not fit, timesteps that do not exist.
        """
        self._check_given({"timesteps": timesteps, "noise": noise, "dropped": dropped}, embeddings.shape)
        if timesteps is None:
            timesteps = torch.randint(self.schedule.steps, documents.shape, device=embeddings.device)
        if noise is None:
            noise = torch.randn(embeddings.shape, device=embeddings.device)
        if dropped is None:
            chance = self.condition_dropout if self.model.training else 0.0
            dropped = torch.rand(documents.shape, device=embeddings.device) < chance
        concepts_BLD = self.model.normalizer.normalize(embeddings)
        noisy_BLD = self.schedule.add_noise(concepts_BLD, noise, timesteps)
        output_BLD = self.model(concepts_BLD, documents, positions, noisy_BLD, timesteps, dropped)
        loss_BL = squared_l2(output_BLD, self.schedule.target(concepts_BLD, noise, timesteps))
        if self.weighted:
            loss_BL = loss_BL * self.schedule.loss_weights(timesteps)
        return Loss.of(loss_BL, targets, timesteps)

    def _check_given(self, given: dict[str, Tensor | None], shape: torch.Size) -> None:
        for name, tensor in given.items():
            if tensor is not None:
                DRAWN[name].check(name, tensor, shape)
        timesteps = given["timesteps"]
        if timesteps is not None and timesteps.numel():
            least, most = int(timesteps.min()), int(timesteps.max())
            if not 0 <= least <= most < self.schedule.steps:
                raise UserError(f"timesteps: {least} to {most}, this model has 0 to {self.schedule.steps - 1}")
