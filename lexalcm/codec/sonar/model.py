"""SONAR's encoder and decoder as Transformers' M2M-100 modules, made without drawing weights that are then replaced.

Two things differ from M2M-100: a position is counted from the start of the sequence and not among the tokens that are
no padding (with SONAR's pad index, which is its unknown token's too, an unknown token would have no position and shift
all behind it); and the decoder attends to a single vector, the sentence's.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import M2M100Config, M2M100ForConditionalGeneration
from transformers.models.m2m_100.modeling_m2m_100 import M2M100Encoder, M2M100SinusoidalPositionalEmbedding

from lexalcm.codec.sonar.checkpoint import SonarSizes
from lexalcm.codec.sonar.tokenizer import PAD
from lexalcm.errors import CodecError

POSITION_OFFSET = 2
"""The first token has the sinusoid of 2: fairseq counts from behind its pad index, which is 1 in SONAR."""


class SequentialPositions(M2M100SinusoidalPositionalEmbedding):
    """Sinusoidal positions 2, 3, ... of every sequence, whatever its tokens are."""

    @staticmethod
    def create_position_ids_from_input_ids(
        input_ids: Tensor, padding_idx: int, past_key_values_length: int = 0
    ) -> Tensor:
        """Positions [B, L], counted on from those that are cached."""
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        return (positions + padding_idx + 1 + past_key_values_length).expand(input_ids.shape).contiguous()


def build_encoder(sizes: SonarSizes, heads: int, positions: int, tensors: Mapping[str, Tensor]) -> M2M100Encoder:
    """An encoder around the given tensors, which are not copied.

    Args:
        sizes: of the checkpoint.
        heads: attention heads.
        positions: longest sequence.
        tensors: under M2M100Encoder's names.
    """
    config = _config(sizes, heads, positions, encoder_layers=sizes.layers)
    with torch.device("meta"):
        encoder = M2M100Encoder(config)
    encoder.embed_positions = _positions(positions, sizes.dim)
    encoder.load_state_dict(dict(tensors), assign=True)
    return encoder.requires_grad_(False).eval()


def build_decoder(
    sizes: SonarSizes, heads: int, positions: int, tensors: Mapping[str, Tensor], eos: int
) -> M2M100ForConditionalGeneration:
    """A decoder with `generate`, around the given tensors; its encoder has no layers.

    Args:
        sizes: of the checkpoint.
        heads: attention heads.
        positions: longest sequence.
        tensors: under M2M100Decoder's names.
        eos: the token that starts and ends a sentence.
    """
    config = _config(sizes, heads, positions, decoder_layers=sizes.layers)
    config.eos_token_id = config.decoder_start_token_id = eos
    with torch.device("meta"):
        model = M2M100ForConditionalGeneration(config)
    model.model.decoder.embed_positions = _positions(positions, sizes.dim)
    model.model.decoder.load_state_dict(dict(tensors), assign=True)
    model.model.encoder = nn.Module()  # never called; `generate` is given its output
    model.model.shared = model.model.decoder.embed_tokens
    model.lm_head.weight = model.model.decoder.embed_tokens.weight
    return model.requires_grad_(False).eval()


def _config(sizes: SonarSizes, heads: int, positions: int, **layers: int) -> M2M100Config:
    if sizes.dim % heads or sizes.dim % 2:
        raise CodecError(f"{sizes.dim} dimensions cannot be divided among {heads} heads: set the codec option heads")
    settings: dict[str, Any] = {
        "vocab_size": sizes.vocab_size,
        "d_model": sizes.dim,
        "max_position_embeddings": positions,
        "encoder_attention_heads": heads,
        "decoder_attention_heads": heads,
        "encoder_ffn_dim": sizes.ffn_dim,
        "decoder_ffn_dim": sizes.ffn_dim,
        "activation_function": "relu",
        "scale_embedding": True,
        "pad_token_id": PAD,
        "bos_token_id": None,
        "attn_implementation": "sdpa",
        "encoder_layers": 0,
        "decoder_layers": 0,
    }
    return M2M100Config(**(settings | layers))


def _positions(positions: int, dim: int) -> SequentialPositions:
    return SequentialPositions(positions, dim, POSITION_OFFSET - 1)
