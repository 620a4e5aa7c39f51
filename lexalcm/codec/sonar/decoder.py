"""SONAR embeddings to sentences, with Transformers' `generate`.

The search is the published one: log-probabilities are summed from the language token on and divided by the number of
tokens, pad is never written, a search ends when as many sentences are finished as hypotheses are kept, and at the
length limit a sentence must end. The language and the end keep their own probability where they are forced, because
it counts in the mean: `generate`'s own ways to force a token would set it to one, and other sentences would win.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, M2M100ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from lexalcm.codec.options import DecodingOptions
from lexalcm.codec.sonar.tokenizer import PAD, SonarTokenizer

BATCH_SENTENCES = {"cpu": 32, "cuda": 128}
OTHER_BATCH_SENTENCES = 32
TOKENS_OF_A_SENTENCE = 64
"""Reckoned of each hypothesis when a batch is asked for in tokens: how long a sentence gets shows in the end."""


class SonarDecoder:
    """SONAR's text decoder with its tokenizer."""

    def __init__(
        self,
        module: M2M100ForConditionalGeneration,
        tokenizer: SonarTokenizer,
        max_tokens: int,
        batch_tokens: int | None = None,
    ) -> None:
        """Make it of a module on its device.

        Args:
            module: the decoder.
            tokenizer: of the same vocabulary.
            max_tokens: positions that the decoder has.
            batch_tokens: tokens of the hypotheses that are searched at once, as they are reckoned; none: by device.
        """
        self.module: Any = module  # the type of `generate` is for no one model
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.batch_tokens = batch_tokens
        self.device = module.lm_head.weight.device

    @property
    def dim(self) -> int:
        """Numbers of the embeddings that it decodes."""
        return self.module.lm_head.weight.shape[1]

    def write(self, embeddings: np.ndarray, lang: str, options: DecodingOptions) -> list[str]:
        """The sentence in `lang` of each embedding [n, D]."""
        return [self.tokenizer.decode(tokens) for tokens in self.search(embeddings, lang, options)]

    def search(self, embeddings: np.ndarray, lang: str, options: DecodingOptions) -> list[list[int]]:
        """The best sentence found for each embedding [n, D], as tokens in target form."""
        batch = self.batch_sentences(options.beam)
        found: list[list[int]] = []
        for start in range(0, len(embeddings), batch):
            found += self._search_batch(embeddings[start : start + batch], lang, options)
        return found

    def batch_sentences(self, beam: int) -> int:
        """Sentences that are searched at once, with a beam of that size each."""
        if self.batch_tokens is None:
            return BATCH_SENTENCES.get(self.device.type, OTHER_BATCH_SENTENCES)
        return max(1, self.batch_tokens // (TOKENS_OF_A_SENTENCE * beam))

    def log_probability(self, embedding: np.ndarray, tokens: Sequence[int]) -> float:
        """Mean over the tokens of a sentence in target form, as the search ranks them; the first one is given."""
        scores = self.logits(embedding, tokens[:-1]).log_softmax(dim=-1)
        return float(scores[range(len(tokens) - 1), list(tokens[1:])].mean())

    @torch.inference_mode()
    def logits(self, embedding: np.ndarray, tokens: Sequence[int]) -> Tensor:
        """What the decoder expects after each of the given tokens: float32 [L, V], for one embedding [D]."""
        return self.token_logits(torch.from_numpy(embedding[None]), torch.tensor([list(tokens)]))[0].cpu()

    def token_logits(self, concepts: Tensor, tokens: Tensor) -> Tensor:
        """See `lexalcm.codec.base.DifferentiableCodec`; tokens are in target form."""
        output = self.module(
            encoder_outputs=self._as_encoded(concepts), decoder_input_ids=tokens.to(self.device), use_cache=False
        )
        return output.logits.float()

    @torch.inference_mode()
    def _search_batch(self, embeddings: np.ndarray, lang: str, options: DecodingOptions) -> list[list[int]]:
        limit = min(options.max_tokens, self.max_tokens)
        eos, language = self.tokenizer.prompt(lang)
        settings = GenerationConfig(
            max_length=limit,
            num_beams=options.beam,
            do_sample=False,
            early_stopping=options.beam > 1,
            length_penalty=1.0,
            repetition_penalty=options.repetition_penalty,
            decoder_start_token_id=eos,
            eos_token_id=eos,
            pad_token_id=PAD,
        )
        found = self.module.generate(
            encoder_outputs=self._as_encoded(torch.from_numpy(np.ascontiguousarray(embeddings, dtype=np.float32))),
            generation_config=settings,
            logits_processor=LogitsProcessorList([_Frame(language, eos, limit)]),
        )
        return [_until(eos, sequence) for sequence in found.tolist()]

    def _as_encoded(self, concepts_ND: Tensor) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=concepts_ND[:, None].to(self.device, self.module.dtype))


class _Frame(LogitsProcessor):
    """A sentence starts with its language, holds no pad, and ends at the limit; scores of what may come stay."""

    def __init__(self, language: int, eos: int, limit: int) -> None:
        self.language, self.eos, self.limit = language, eos, limit

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        length = input_ids.shape[1]
        if length == 1:
            return _only(scores, self.language)
        if length == self.limit - 1:
            return _only(scores, self.eos)
        scores[:, PAD] = -torch.inf
        return scores


def _only(scores: Tensor, token: int) -> Tensor:
    kept = torch.full_like(scores, -torch.inf)
    kept[:, token] = scores[:, token]
    return kept


def _until(eos: int, tokens: list[int]) -> list[int]:
    """A sentence without the fill behind its end; it starts with the same token."""
    return tokens[: tokens.index(eos, 1) + 1] if eos in tokens[1:] else tokens
