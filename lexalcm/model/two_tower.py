"""Two-tower diffusion LCM: a contextualizer reads the clean concepts, a denoiser predicts the next one (LCM paper,
section 2.3.4).

In training all concepts of a row are denoised at once, each at its own timestep: position i of the denoiser attends a
zero vector and the contexts of the earlier positions of its document. A position whose conditioning is dropped attends
the zero vector alone, which gives the unconditional model that guidance needs. So does a document's first position.

Shapes: B rows, L positions, K keys (L contexts, the zero vector first), S slots of a cache, D embedding dimension,
W width, M = 9 W modulation.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lexalcm.diffusion.schedule import NoiseSchedule
from lexalcm.errors import UserError
from lexalcm.model.attention import shifted_causal_mask
from lexalcm.model.config import ModelConfig
from lexalcm.model.denoiser import Denoiser
from lexalcm.model.lcm import LCM, Loss, check_rows, reduce_loss, squared_l2
from lexalcm.model.transformer import Transformer, TransformerCache


@dataclass
class TwoTowerCache:
    """What generation keeps of the concepts so far: the contextualizer's keys and values, and the contexts.

    `memory`, [B, S, W], holds the zero vector in slot 0 and the context of position j in slot j + 1. From it, the keys
    and values of all contexts are computed anew for each concept (not for each denoising step): with n contexts and s
    guided steps that adds about n / (15 s) to a concept's work, 4% for 32 contexts and 50 steps, and keeps W numbers of
    a context instead of 2 W in every layer.
    """

    contextualizer: TransformerCache
    memory: Tensor


class TwoTowerLCM(LCM):
    """Next-concept diffusion."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        assert config.diffusion is not None  # filled by the config
        self.schedule = NoiseSchedule(config.diffusion)
        self.condition_dropout = config.diffusion.condition_dropout
        self.weighted = config.diffusion.loss_weighting != "none"
        self.contextualizer = Transformer(config, config.context_layers)
        self.denoiser = Denoiser(config, config.diffusion.steps)

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

    def blocks(self) -> list[nn.Module]:
        """The contextualizer's layers, then the denoiser's."""
        return [*self.contextualizer.layers, *self.denoiser.layers]

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
            UserError: shapes that do not agree, timesteps that do not exist.
        """
        rows = {"documents": documents, "positions": positions, "targets": targets}
        check_rows(self.config, embeddings, **rows, timesteps=timesteps, dropped=dropped)
        if noise.shape != embeddings.shape:
            raise UserError(f"noise: shape {list(noise.shape)}, expected {list(embeddings.shape)}")
        if timesteps.is_floating_point() or timesteps.dtype == torch.bool:
            raise UserError(f"timesteps: type {timesteps.dtype}, expected integers")
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
        return reduce_loss(loss_BL, targets_BL)

    def predict(
        self,
        concepts_BLD: Tensor,
        documents_BL: Tensor,
        positions_BL: Tensor,
        noisy_BLD: Tensor,
        timesteps_BL: Tensor,
        dropped_BL: Tensor,
    ) -> Tensor:
        """Both towers over packed rows of normalized concepts: the denoiser's output at each position, [B, L, D]."""
        context_BLW = self.contextualizer(concepts_BLD, documents_BL, positions_BL)
        mask_B1LK = shifted_causal_mask(documents_BL, dropped_BL)
        return self.denoiser(noisy_BLD, timesteps_BL, shift_contexts(context_BLW), mask_B1LK).float()

    def new_cache(self, rows: int, slots: int) -> TwoTowerCache:
        """An empty cache for `rows` documents of up to `slots` concepts."""
        memory_BSW = self.denoiser.norm.weight.new_zeros(rows, slots + 1, self.config.width)
        return TwoTowerCache(self.contextualizer.new_cache(rows, slots), memory_BSW)

    @torch.no_grad()
    def extend(self, concepts_BLD: Tensor, positions_BL: Tensor, cache: TwoTowerCache, used: int) -> None:
        """Take in new normalized concepts; arguments as for `Transformer.extend`."""
        context_BLW = self.contextualizer.extend(concepts_BLD, positions_BL, cache.contextualizer, used)
        index_BLW = (positions_BL + 1).unsqueeze(-1).expand_as(context_BLW)
        cache.memory.scatter_(1, index_BLW, context_BLW.to(cache.memory.dtype))


def shift_contexts(context_BLW: Tensor) -> Tensor:
    """The zero vector, then the contexts of all positions but the last: key i is what is known before position i."""
    return nn.functional.pad(context_BLW[:, :-1], (0, 0, 1, 0))
