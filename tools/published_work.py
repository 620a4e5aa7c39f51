"""The work that the published code does for a generated concept, on this project's layers: a baseline for speed.

At every denoising step it embeds the timestep and runs every modulator anew, projects queries and keys of a
self-attention over one position, projects keys and values of all contexts, and does all of it for two batches, with and
without conditioning. Only what its framework costs on top is missing. Queries and keys of self-attention, which this
project's models do not have, are random. What comes out is not looked at.

Shapes: B rows, L positions, K keys, D embedding dimension, W width.
"""

import torch
from torch import Tensor, nn

from lexalcm.generate.denoising import Denoising
from lexalcm.generate.options import GenerationOptions
from lexalcm.model.layers.attention import mix_values
from lexalcm.model.layers.masks import causal_mask
from lexalcm.model.two_tower.denoiser import DenoiserLayer
from lexalcm.model.two_tower.network import TwoTowerLCM


class PublishedWork:
    """Generates the next concept of prompts of one length, guided."""

    def __init__(self, model: TwoTowerLCM, options: GenerationOptions) -> None:
        self.model = model
        self.denoising = Denoising(model.schedule, options)
        width = model.config.width
        self.queries_keys = [torch.randn(2, width, width) * width**-0.5 for _ in model.denoiser.layers]

    @torch.inference_mode()
    def next_concept(self, prompts_BLD: Tensor) -> Tensor:
        """The concepts after the prompts, [B, 1, D]."""
        model, denoiser = self.model, self.model.denoiser
        rows, length, dim = prompts_BLD.shape
        documents_BL = torch.zeros(rows, length, dtype=torch.int64)
        positions_BL = torch.arange(length).expand(rows, -1)
        context_BLW = model.contexts(prompts_BLD, positions_BL, causal_mask(documents_BL, "sdpa"))
        memory_BKW = nn.functional.pad(context_BLW, (0, 0, 1, 0)).repeat(2, 1, 1)
        mask_B11K = torch.ones(2 * rows, 1, 1, length + 1, dtype=torch.bool)
        mask_B11K[rows:, :, :, 1:] = False

        def network(x_B1D: Tensor, timestep: int) -> tuple[Tensor, ...]:
            x_B1W = denoiser.input_proj(x_B1D.repeat(2, 1, 1))
            time_BW = denoiser.time_embedding(torch.full((2 * rows,), timestep))
            for layer, queries_keys in zip(denoiser.layers, self.queries_keys, strict=True):
                x_B1W = _layer(layer, x_B1W, time_BW, queries_keys, memory_BKW, mask_B11K)
            return denoiser.output_proj(denoiser.norm(x_B1W)).chunk(2)

        return self.denoising(network, lambda: torch.randn(rows, 1, dim))


def _layer(
    layer: DenoiserLayer, x_B1W: Tensor, time_BW: Tensor, queries_keys: Tensor, memory_BKW: Tensor, mask_B11K: Tensor
) -> Tensor:
    shift, scale, gate, cross_shift, cross_scale, cross_gate, ffn_shift, ffn_scale, ffn_gate = (
        layer.modulation(time_BW).unsqueeze(2).unbind(dim=1)
    )
    projection, attention = layer.self_projection, layer.cross_attention

    def split(y_B1W: Tensor) -> Tensor:
        return y_B1W.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)

    hidden_B1W = layer.self_norm.normalize(x_B1W) * scale + shift
    queries, keys = (split(nn.functional.linear(hidden_B1W, weight)) for weight in queries_keys)
    values = split(nn.functional.linear(hidden_B1W, projection.value_weight, projection.value_bias))
    mixed_B1W = nn.functional.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2)
    x_B1W = x_B1W + gate * nn.functional.linear(mixed_B1W, projection.output_weight, projection.output_bias)

    hidden_B1W = layer.cross_attention_norm.normalize(x_B1W) * cross_scale + cross_shift
    mixed = mix_values(attention.queries(hidden_B1W), *attention.keys_values(memory_BKW), mask_B11K)
    x_B1W = x_B1W + cross_gate * attention.output(mixed)

    return x_B1W + ffn_gate * layer.ffn(layer.ffn_norm.normalize(x_B1W) * ffn_scale + ffn_shift)
