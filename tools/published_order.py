"""Two-tower generation in the published code's order of operations: slower, for comparing with its numbers.

A hundred guided denoising steps can turn a difference in the last place into one of 3e-5 of the result, more than the
tolerance of a comparison. So a comparison needs not the same function alone but the same order: self-attention's two
projections one after the other, all contexts' keys and values anew for every concept, queries for the unconditional
half too. `lexalcm.generate` computes the same function with less work; `tools.check_reference` checks both.

Shapes: B rows, K keys, D embedding dimension, W width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lexalcm.generate.denoising import DrawNoise, denoise, needs_pair
from lexalcm.generate.options import GenerationOptions
from lexalcm.model.attention import mix_values
from lexalcm.model.cache import KeysValues
from lexalcm.model.denoiser import DenoiserLayer
from lexalcm.model.two_tower import TwoTowerLCM


class PublishedOrderPredictor:
    """Reads documents concept by concept, as `lexalcm.generate.predictor.ConceptPredictor` does."""

    @torch.no_grad()
    def __init__(self, model: TwoTowerLCM, options: GenerationOptions, timesteps: Sequence[int]) -> None:
        self.model = model
        self.options = options
        self.timesteps = timesteps
        time_TW = model.denoiser.time_embedding(torch.tensor(timesteps))
        tables = [layer.modulation(time_TW) for layer in model.denoiser.layers]
        self.modulations = {timestep: [table[i] for table in tables] for i, timestep in enumerate(timesteps)}

    def new_reader(self, rows: int, slots: int, draw_noise: DrawNoise) -> "PublishedOrderReader":
        """See `ConceptPredictor.new_reader`."""
        return PublishedOrderReader(self, rows, slots, draw_noise)

    def predict_rows(
        self, concepts_BLD: Tensor, documents_BL: Tensor, positions_BL: Tensor, draw_noise: DrawNoise
    ) -> Tensor:
        """The published code has no such thing."""
        raise NotImplementedError


class PublishedOrderReader:
    """Keeps the contexts themselves: the zero vector in slot 0, the context of position j in slot j + 1."""

    def __init__(self, predictor: PublishedOrderPredictor, rows: int, slots: int, draw_noise: DrawNoise) -> None:
        model = predictor.model
        self.predictor = predictor
        self.draw_noise = draw_noise
        self.cache = model.contextualizer.new_cache(rows, slots)
        self.memory_BKW = torch.zeros(rows, slots + 1, model.config.width)

    def read(self, concepts_BLD: Tensor, positions_BL: Tensor, used: int) -> None:
        """See `Reader.read`."""
        contextualizer = self.predictor.model.contextualizer
        for layer in self.cache:
            layer.reserve(used)
        if used >= self.memory_BKW.shape[1]:
            self.memory_BKW = nn.functional.pad(self.memory_BKW, (0, 0, 0, used))
        context_BLW = contextualizer.extend(contextualizer.project(concepts_BLD), positions_BL, self.cache, used)
        self.memory_BKW.scatter_(1, (positions_BL + 1).unsqueeze(-1).expand_as(context_BLW), context_BLW)

    def next(self, concept_BD: Tensor, positions_B: Tensor, used: int) -> Tensor:
        """See `Reader.next`."""
        self.read(concept_BD[:, None], positions_B[:, None], used)
        model, options = self.predictor.model, self.predictor.options
        keys_values = model.keys_values(self.memory_BKW[:, : used + 1].contiguous())
        mask_B11K = torch.arange(used + 1) <= positions_B[:, None, None, None] + 1

        def network(x_B1D: Tensor, timestep: int) -> tuple[Tensor, ...]:
            halves = 2 if needs_pair(options) else 1
            modulations = self.predictor.modulations[timestep]
            return _predict(model, x_B1D.repeat(1, halves, 1), modulations, keys_values, mask_B11K).chunk(halves, dim=1)

        return denoise(network, model.schedule, options, self.predictor.timesteps, self.draw_noise)[:, 0]

    def keep(self, rows_K: Tensor) -> None:
        """See `Reader.keep`."""
        self.memory_BKW = self.memory_BKW[rows_K]
        for layer in self.cache:
            layer.keep(rows_K)


def _predict(
    model: TwoTowerLCM,
    noisy_BQD: Tensor,
    modulations: Sequence[Tensor],
    keys_values: Sequence[KeysValues],
    mask_B11K: Tensor,
) -> Tensor:
    """The denoiser; the first position of a row sees its contexts, a second one the zero vector alone."""
    denoiser = model.denoiser
    x_BQW = denoiser.input_proj(noisy_BQD)
    for layer, modulation_9W, layer_keys_values in zip(denoiser.layers, modulations, keys_values, strict=True):
        x_BQW = _predict_layer(layer, x_BQW, modulation_9W, layer_keys_values, mask_B11K)
    return denoiser.output_proj(denoiser.norm(x_BQW))


def _predict_layer(
    layer: DenoiserLayer, x_BQW: Tensor, modulation_9W: Tensor, keys_values: KeysValues, mask_B11K: Tensor
) -> Tensor:
    shift, scale, gate, cross_shift, cross_scale, cross_gate, ffn_shift, ffn_scale, ffn_gate = modulation_9W
    projection, attention = layer.self_projection, layer.cross_attention
    hidden_BQW = layer.self_norm.normalize(x_BQW) * scale + shift
    hidden_BQW = nn.functional.linear(hidden_BQW, projection.value_weight, projection.value_bias)
    hidden_BQW = nn.functional.linear(hidden_BQW, projection.output_weight, projection.output_bias)
    x_BQW = x_BQW + gate * hidden_BQW

    queries_BHQE = attention.queries(layer.cross_attention_norm.normalize(x_BQW) * cross_scale + cross_shift)
    k_BHKE, v_BHKE = keys_values
    mixed_BHQE = mix_values(queries_BHQE[:, :, :1], k_BHKE, v_BHKE, mask_B11K)
    if x_BQW.shape[1] > 1:
        mixed_BHQE = torch.cat([mixed_BHQE, v_BHKE[:, :, :1]], dim=2)
    x_BQW = x_BQW + cross_gate * attention.output(mixed_BHQE)

    return x_BQW + ffn_gate * layer.ffn(layer.ffn_norm.normalize(x_BQW) * ffn_scale + ffn_shift)
