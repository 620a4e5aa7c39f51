"""Sentences to SONAR embeddings, fast: tokens made ahead in threads, batches without padding, a GPU that never waits.

A window of sentences is tokenized, sorted by length and packed into rows (see `token_rows`) while the one before it is
computed. On a GPU batches are only queued, and the results of a window are fetched together.

A sentence over the position table's length is cut there, before encoding, as the published pipeline does.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

import numpy as np
import torch
from torch import Tensor
from transformers.models.m2m_100.modeling_m2m_100 import M2M100Encoder

from lexalcm.codec.sonar_base import CUT_WARNING
from lexalcm.codec.sonar_model import embed_rows
from lexalcm.codec.sonar_tokenizer import PAD, SonarTokenizer
from lexalcm.codec.token_rows import RowBatch, row_batches

logger = logging.getLogger(__name__)

WINDOW = 4096
"""Sentences that are packed together: enough to fill rows, few enough to stay in memory as tokens."""

TOKENIZER_THREADS = 2
BATCH_TOKENS = {"cpu": 2048, "cuda": 32768}
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
            batch_tokens: tokens of a batch; none: by device.
        """
        self.module = module
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.device = module.layer_norm.weight.device
        self.batch_tokens = batch_tokens or BATCH_TOKENS.get(self.device.type, OTHER_BATCH_TOKENS)
        self.cut = 0
        self._counting = Lock()

    def embed(self, sentences: Sequence[str], lang: str, window: int = WINDOW) -> np.ndarray:
        """Embed sentences of one language: float32 [n, D], in their order."""
        windows = [sentences[start : start + window] for start in range(0, len(sentences), window)]
        prepared = _ahead(windows, lambda part: self._prepare(part, lang))
        parts = [self._embed_window(batches, len(part)) for part, batches in zip(windows, prepared, strict=True)]
        return np.concatenate(parts)

    def _embed_window(self, batches: list[RowBatch], count: int) -> np.ndarray:
        results, places = [], []
        for batch in batches:
            most = max(len(row) for row in batch.members)
            embeddings_RSD = embed_rows(self.module, *self._on_device(batch), most)
            filled = np.concatenate([np.arange(len(row)) + number * most for number, row in enumerate(batch.members)])
            results.append(embeddings_RSD.flatten(0, 1)[self._move(filled)])
            places += [place for row in batch.members for place in row]
        embeddings = np.empty((count, results[0].shape[1]), dtype=np.float32)
        embeddings[places] = torch.cat(results).cpu().numpy()
        return embeddings

    def _on_device(self, batch: RowBatch) -> tuple[Tensor, Tensor, Tensor]:
        return self._move(batch.tokens), self._move(batch.sentence), self._move(batch.position)

    def _move(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)

    def _prepare(self, sentences: Sequence[str], lang: str) -> list[RowBatch]:
        """Batches of a window of sentences; made in a thread."""
        return row_batches(self._cut(self.tokenizer.encode(sentences, lang)), self.batch_tokens, PAD)

    def _cut(self, tokens: list[np.ndarray]) -> list[np.ndarray]:
        too_long = sum(len(sequence) > self.max_tokens for sequence in tokens)
        if not too_long:
            return tokens
        with self._counting:
            if not self.cut:
                logger.warning(CUT_WARNING, self.max_tokens)
            self.cut += too_long
        return [sequence[: self.max_tokens] for sequence in tokens]


def _ahead(
    windows: Sequence[Sequence[str]], prepare: Callable[[Sequence[str]], list[RowBatch]]
) -> Iterator[list[RowBatch]]:
    """Batches of each window in turn; the next ones are made in threads meanwhile."""
    if len(windows) == 1:
        yield prepare(windows[0])
        return
    with ThreadPoolExecutor(TOKENIZER_THREADS, thread_name_prefix="tokenizer") as threads:
        made: deque[Future[list[RowBatch]]] = deque()
        for window in windows:
            made.append(threads.submit(prepare, window))
            if len(made) > TOKENIZER_THREADS:
                yield made.popleft().result()
        while made:
            yield made.popleft().result()
