"""Sentences to SONAR embeddings, fast: tokens made ahead in threads, batches without padding, a GPU that never waits.

A window of sentences is tokenized while the one before it is computed; within the window, sentences are sorted by
length and batched by tokens. On a GPU batches are only queued, and the results of a window are fetched together.

A sentence over the position table's length is cut there, before encoding, as the published pipeline does.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor
from transformers.models.m2m_100.modeling_m2m_100 import M2M100Encoder

from lexalcm.codec.sonar_base import CUT_WARNING
from lexalcm.codec.sonar_model import attention_mask, mean_of_tokens
from lexalcm.codec.sonar_tokenizer import PAD, SonarTokenizer
from lexalcm.codec.token_batches import WINDOW, token_batches

logger = logging.getLogger(__name__)

TOKENIZER_THREADS = 2
BATCH_TOKENS = {"cpu": 1024, "cuda": 32768}
OTHER_BATCH_TOKENS = 4096


class SonarEncoder:
    """SONAR's text encoder with its tokenizer.

    Attributes:
        cut: sentences that were too long so far and lost their end.
    """

    def __init__(
        self, module: M2M100Encoder, tokenizer: SonarTokenizer, *, max_tokens: int, batch_tokens: int | None = None
    ) -> None:
        """Make it of a module on its device.

        Args:
            module: the encoder.
            tokenizer: of the same vocabulary.
            max_tokens: of a sentence; more are cut.
            batch_tokens: tokens of a batch, padding counted; none: by device.
        """
        self.module = module
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.device = module.layer_norm.weight.device
        self.batch_tokens = batch_tokens or BATCH_TOKENS.get(self.device.type, OTHER_BATCH_TOKENS)
        self.cut = 0

    def embed(self, sentences: Sequence[str], lang: str, window: int = WINDOW) -> np.ndarray:
        """Embed sentences of one language: float32 [n, D], in their order."""
        embeddings = np.empty((len(sentences), self.module.config.d_model), dtype=np.float32)
        windows = [sentences[start : start + window] for start in range(0, len(sentences), window)]
        start = 0
        for tokens in _ahead(windows, lambda part: self.tokenizer.encode(part, lang)):
            embeddings[start : start + len(tokens)] = self._embed_window(tokens)
            start += len(tokens)
        return embeddings

    def _embed_window(self, tokens: list[np.ndarray]) -> np.ndarray:
        tokens = self._cut(tokens)
        lengths = np.array([len(sequence) for sequence in tokens])
        batches = list(token_batches(lengths, self.batch_tokens))
        with torch.inference_mode():
            results = torch.cat([self._embed_batch([tokens[place] for place in batch]) for batch in batches])
        embeddings = np.empty((len(tokens), results.shape[1]), dtype=np.float32)
        embeddings[np.concatenate(batches)] = results.cpu().numpy()
        return embeddings

    def _embed_batch(self, tokens: list[np.ndarray]) -> Tensor:
        lengths = [len(sequence) for sequence in tokens]
        padded = np.full((len(tokens), max(lengths)), PAD, dtype=np.int64)
        for row, sequence in zip(padded, tokens, strict=True):
            row[: len(sequence)] = sequence
        ids = torch.from_numpy(padded)
        if self.device.type == "cuda":
            ids = ids.pin_memory()
        mask = attention_mask(lengths, self.device)
        states = self.module(ids.to(self.device, non_blocking=True), attention_mask=mask).last_hidden_state
        return mean_of_tokens(states, mask)

    def _cut(self, tokens: list[np.ndarray]) -> list[np.ndarray]:
        too_long = sum(len(sequence) > self.max_tokens for sequence in tokens)
        if not too_long:
            return tokens
        if not self.cut:
            logger.warning(CUT_WARNING, self.max_tokens)
        self.cut += too_long
        return [sequence[: self.max_tokens] for sequence in tokens]


def _ahead(
    windows: Sequence[Sequence[str]], tokenize: Callable[[Sequence[str]], list[np.ndarray]]
) -> Iterator[list[np.ndarray]]:
    """Tokens of each window in turn; the next ones are made in threads meanwhile."""
    if len(windows) <= 1:
        yield from map(tokenize, windows)
        return
    with ThreadPoolExecutor(TOKENIZER_THREADS, thread_name_prefix="tokenizer") as threads:
        waiting = iter(windows)
        made: deque[Future[list[np.ndarray]]] = deque()
        for part in waiting:
            made.append(threads.submit(tokenize, part))
            if len(made) > TOKENIZER_THREADS:
                yield made.popleft().result()
        while made:
            yield made.popleft().result()
