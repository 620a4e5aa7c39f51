"""One-tower diffusion LCM: clean and noisy concepts side by side in a single Transformer (LCM paper, section
2.3.3).

A row of L concepts is computed as 2 L positions: the clean concepts, each of which sees itself and the clean ones
before it, and the noisy ones, each of which sees itself and the clean ones before it but not its own clean self. A
clean concept and its noisy self share a rotary position. Interleaved, as the paper draws them, or one after the other
is the same: positions and mask say who is who, not the place.

The timestep is joined to the input: a linear layer over the concept and the timestep's embedding side by side is a sum
of one over each, and the timestep's part takes only T + 1 values, the last of them for "clean". They are computed once
and looked up. Twice the positions make a training step about twice as expensive as base's of the same size; a clean
concept's keys and values are computed once in generation.

Shapes: B rows, L positions, S slots of a cache, T timesteps, D embedding dimension, W width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lexalcm.diffusion.samplers import Observer
from lexalcm.model.config import ModelConfig
from lexalcm.model.diffusion_lcm import DiffusionLCM
from lexalcm.model.layers.cache import KeysValues, LayerCache
from lexalcm.model.layers.linear import Linear
from lexalcm.model.layers.lookup import lookup
from lexalcm.model.layers.masks import Mask, causal_mask, clean_noisy_mask
from lexalcm.model.layers.timestep_embedding import TimestepEmbedding
from lexalcm.model.layers.transformer import Transformer
from lexalcm.model.one_tower.predictor import OneTowerPredictor
from lexalcm.model.one_tower.presets import PRESETS
from lexalcm.model.predictor import DenoisingProcess


class OneTowerLCM(DiffusionLCM):
    """Next-concept diffusion in one Transformer."""

    presets = PRESETS
    flow = (
        "Clean concepts and the noisy one go through one Transformer; the output, with less noise, goes in again "
        "(dotted) until it is clean."
    )
    attended = 0.25  # of twice the positions: clean and noisy ones each see the clean ones before them

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.clean = self.schedule.steps
        self.time_embedding = TimestepEmbedding(config.width)
        self.time_proj = Linear(config.width, config.width, bias=False)
        self.transformer = Transformer(config, config.num_layers)
        self.output_proj = Linear(config.width, config.dim)

    def predictor(self, denoising: DenoisingProcess | None, observe: Observer | None) -> OneTowerPredictor:
        """See `LCM.predictor`."""
        assert denoising is not None  # it denoises
        return OneTowerPredictor(self, denoising, observe)

    def blocks(self) -> list[nn.Module]:
        """The Transformer's layers."""
        return list(self.transformer.layers)

    def forward(
        self,
        concepts_BLD: Tensor,
        documents_BL: Tensor,
        positions_BL: Tensor,
        noisy_BLD: Tensor,
        timesteps_BL: Tensor,
        dropped_BL: Tensor,
    ) -> Tensor:
        """See `DiffusionLCM.forward`."""
        time_TW = self.times(torch.arange(self.clean + 1, device=concepts_BLD.device))
        both_BLD = torch.cat([concepts_BLD, noisy_BLD], dim=1)
        both_times_BL = torch.cat([torch.full_like(timesteps_BL, self.clean), timesteps_BL], dim=1)
        inputs_BLW = self.transformer.project(both_BLD) + lookup(time_TW, both_times_BL)
        mask = clean_noisy_mask(documents_BL, dropped_BL, self.config.attention)
        hidden_BLW = self.transformer(inputs_BLW, positions_BL.repeat(1, 2), mask)
        return self.output_proj(hidden_BLW[:, concepts_BLD.shape[1] :]).float()

    def times(self, timesteps_T: Tensor) -> Tensor:
        """What timesteps add to the inputs, [T, W]; timestep T is that of clean concepts."""
        return self.time_proj(self.time_embedding(timesteps_T))

    def new_cache(self, rows: int, slots: int) -> list[LayerCache]:
        """An empty cache for `rows` documents of up to `slots` concepts."""
        return self.transformer.new_cache(rows, slots)

    @torch.no_grad()
    def extend(
        self, concepts_BLD: Tensor, positions_BL: Tensor, clean_time_W: Tensor, cache: list[LayerCache], used: int
    ) -> None:
        """Take in new normalized concepts, given what the clean timestep adds; others as for `Transformer.extend`."""
        inputs_BLW = self.transformer.project(concepts_BLD) + clean_time_W
        self.transformer.extend(inputs_BLW, positions_BL, cache, used)

    def read_rows(
        self, concepts_BLD: Tensor, documents_BL: Tensor, positions_BL: Tensor, clean_time_W: Tensor
    ) -> list[KeysValues]:
        """Each layer's keys and values of the clean concepts of packed rows."""
        mask = causal_mask(documents_BL, self.config.attention)
        return self.transformer.keys_values(self.transformer.project(concepts_BLD) + clean_time_W, positions_BL, mask)

    def denoise(
        self, noisy_BLD: Tensor, time_W: Tensor, positions_BL: Tensor, mask: Mask, clean: Sequence[KeysValues]
    ) -> Tensor:
        """The network's prediction in generation, where all positions share a timestep, float32 [B, L, D].

        Args:
            noisy_BLD: normalized concepts with noise.
            time_W: what the timestep adds.
            positions_BL: of the concepts in their documents.
            mask: which clean concepts each sees, and behind those which noisy one: itself.
            clean: keys and values of the clean concepts in each layer.
        """
        inputs_BLW = self.transformer.project(noisy_BLD) + time_W
        return self.output_proj(self.transformer.attend_cached(inputs_BLW, positions_BL, mask, clean)).float()
