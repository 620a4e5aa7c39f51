"""Sentences to SONAR embeddings, fast: tokens made ahead in threads, batches without padding, a GPU that never waits.

    threads     sentences -> tokens -> batches (see `token_rows`), some windows ahead     `SonarEncoder._prepare`
    GPU         batches that are queued one behind another (see `sonar_packed`)
    main        queues the next batches before it fetches embeddings, which come back through pinned memory

The first window of a request is small, so that the first batch of a stream is soon there; later ones are made while it
is computed. It is small whatever stands before it: a request's batches, and with them the last bits of its embeddings,
are the same in any stream. Threads are enough for tokens: SentencePiece works outside the interpreter, and what is left
is numpy's.

A sentence over the position table's length is cut there, before encoding, as the published pipeline does.
"""

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock

import numpy as np
from transformers.models.m2m_100.modeling_m2m_100 import M2M100Encoder

from lexalcm.codec.base import Request
from lexalcm.codec.sonar.packed import DeviceBatch, PackedEncoder
from lexalcm.codec.sonar.sonar_base import CUT_WARNING
from lexalcm.codec.sonar.token_rows import token_batches
from lexalcm.codec.sonar.tokenizer import SonarTokenizer
from lexalcm.to_host import ToHost

logger = logging.getLogger(__name__)

WINDOW = 4096
"""Sentences that are sorted by length together: enough to fill batches, few enough to stay in memory as tokens."""

FIRST_WINDOW = 1024

TOKENIZER_THREADS = 2
WINDOWS_AHEAD = 3
BATCHES_QUEUED = {"cuda": 3}
"""Batches of which no embedding has been fetched yet: what a GPU does while the main thread is busy otherwise. Other
devices are waited for."""

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
        self.packed = PackedEncoder(module)
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.device = self.packed.device
        self.dim: int = module.config.d_model
        self.batch_tokens = batch_tokens or BATCH_TOKENS.get(self.device.type, OTHER_BATCH_TOKENS)
        self.cut = 0
        self._counting = Lock()

    def stream(self, requests: Iterable[Request], window: int = WINDOW) -> Iterator[np.ndarray]:
        """Embed one request after another; those that follow are tokenized, and queued, meanwhile.

        Args:
            requests: each with at least one sentence; read some windows ahead.
            window: sentences that are sorted by length together.

        Yields:
            Each request's embeddings, float32 [n, D], in the order of its sentences.
        """
        most = BATCHES_QUEUED.get(self.device.type, 0)
        queued: deque[tuple[_Answer, np.ndarray, ToHost]] = deque()
        for prepared in self._ahead(_windows(requests, window)):
            for batch, places in prepared.batches:
                queued.append((prepared.answer, places, ToHost(self.packed(batch))))
                if len(queued) > most:
                    yield from _fetch(*queued.popleft())
        while queued:
            yield from _fetch(*queued.popleft())

    def _ahead(self, windows: Iterator["_Window"]) -> Iterator["_Window"]:
        """Windows with their batches in turn; the next ones are made in threads meanwhile."""
        with ThreadPoolExecutor(TOKENIZER_THREADS, thread_name_prefix="tokenizer") as threads:
            made: deque[Future[_Window]] = deque()
            for window in windows:
                made.append(threads.submit(self._prepare, window))
                if len(made) > WINDOWS_AHEAD:
                    yield made.popleft().result()
            while made:
                yield made.popleft().result()

    def _prepare(self, window: "_Window") -> "_Window":
        """Tokenize a window and put its batches on their way to the device; done in a thread."""
        tokens, lengths = self._cut(*self.tokenizer.encode_flat(window.sentences, window.lang))
        window.batches = [
            (self.packed.prepare(batch), batch.places + window.start)
            for batch in token_batches(tokens, lengths, self.batch_tokens)
        ]
        return window

    def _cut(self, tokens: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        too_long = int((lengths > self.max_tokens).sum())
        if not too_long:
            return tokens, lengths
        with self._counting:
            if not self.cut:
                logger.warning(CUT_WARNING, self.max_tokens)
            self.cut += too_long
        position = np.arange(len(tokens)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return tokens[position < self.max_tokens], np.minimum(lengths, self.max_tokens)


@dataclass
class _Answer:
    """Embeddings of a request, as far as they are there."""

    sentences: int
    left: int
    embeddings: np.ndarray | None = None

    def put(self, places: np.ndarray, embeddings: np.ndarray) -> Iterator[np.ndarray]:
        """Embeddings of some sentences; gives all of them once they are."""
        if self.embeddings is None:
            self.embeddings = np.empty((self.sentences, embeddings.shape[1]), np.float32)
        self.embeddings[places] = embeddings
        self.left -= len(places)
        if not self.left:
            yield self.embeddings


@dataclass
class _Window:
    """Sentences of a request that are sorted together."""

    answer: _Answer
    start: int
    sentences: Sequence[str]
    lang: str
    batches: list[tuple[DeviceBatch, np.ndarray]] = field(default_factory=list)
    """With the places of a batch's sentences in the request."""


def _windows(requests: Iterable[Request], size: int) -> Iterator[_Window]:
    for sentences, lang in requests:
        answer = _Answer(len(sentences), len(sentences))
        start, end = 0, min(size, FIRST_WINDOW)
        while start < len(sentences):
            yield _Window(answer, start, sentences[start:end], lang)
            start, end = end, end + size


def _fetch(answer: _Answer, places: np.ndarray, embeddings_SD: ToHost) -> Iterator[np.ndarray]:
    """Wait for the embeddings of a batch; gives the request's if these were the last."""
    return answer.put(places, embeddings_SD.read().numpy())
