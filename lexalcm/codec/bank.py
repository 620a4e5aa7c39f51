"""Decoding without a decoder: of a bank of known sentences, the one whose embedding is nearest."""

from collections.abc import Collection, Sequence

import numpy as np

from lexalcm.codec.base import not_finite
from lexalcm.errors import CodecError

DECODE_BATCH = 1024


class SentenceBank:
    """Sentences with their embeddings."""

    def __init__(self, sentences: Sequence[tuple[str, str]], embeddings: np.ndarray) -> None:
        """Keep a bank.

        Args:
            sentences: (language, sentence) pairs.
            embeddings: float [sentences, dim] of unit length; float16 is exact enough to find the nearest.
        """
        self.sentences = [(lang, sentence) for lang, sentence in sentences]
        self.embeddings = embeddings
        self._languages = np.array([lang for lang, _ in self.sentences])
        self._kept: tuple[str | None, np.ndarray, np.ndarray] | None = None

    def nearest(
        self, embeddings: np.ndarray, lang: str | None = None, avoid: Collection[str] = frozenset()
    ) -> list[str]:
        """The sentence of the largest cosine for each embedding [n, dim], in `lang` if given, not in `avoid`.

        Where `avoid` has all of them, none is passed over.

        Raises:
            CodecError: no sentence in `lang`, or embeddings of another dimension or not finite.
        """
        embeddings = np.atleast_2d(np.asarray(embeddings, dtype=np.float32))
        if embeddings.shape[1] != self.embeddings.shape[1]:
            raise CodecError(
                f"the codec's bank decodes {self.embeddings.shape[1]} dimensions, not {embeddings.shape[1]}"
            )
        broken = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
        if len(broken):
            raise CodecError(not_finite(int(broken[0]), len(embeddings)))
        rows, candidates = self._candidates(lang)
        found: list[str] = []
        for start in range(0, len(embeddings), DECODE_BATCH):
            similarities = embeddings[start : start + DECODE_BATCH] @ candidates.T
            found += [self._best(row, rows, avoid) for row in similarities]
        return found

    def _best(self, similarities: np.ndarray, rows: np.ndarray, avoid: Collection[str]) -> str:
        """The sentence of the largest similarity that is not in `avoid`."""
        best = self.sentences[rows[similarities.argmax()]][1]
        if best not in avoid:
            return best
        in_order = (self.sentences[rows[place]][1] for place in np.argsort(-similarities, kind="stable"))
        return next((sentence for sentence in in_order if sentence not in avoid), best)

    def _candidates(self, lang: str | None) -> tuple[np.ndarray, np.ndarray]:
        """The rows of a language and their embeddings, float32; kept for the last language asked for."""
        if self._kept is None or self._kept[0] != lang:
            rows = np.arange(len(self.sentences)) if lang is None else np.flatnonzero(self._languages == lang)
            if not len(rows):
                known = ", ".join(np.unique(self._languages))
                raise CodecError(f"the codec's bank has no sentence in {lang}: it knows {known}")
            self._kept = (lang, rows, self.embeddings[rows].astype(np.float32))
        return self._kept[1:]
