"""Decoding without a decoder: of a bank of known sentences, the one whose embedding is nearest."""

from collections.abc import Collection, Sequence

import numpy as np

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

    def nearest(
        self, embeddings: np.ndarray, lang: str | None = None, avoid: Collection[str] = frozenset()
    ) -> list[str]:
        """The sentence of the largest cosine for each embedding [n, dim], in `lang` if given, not in `avoid`.

        Where `avoid` has all of them, none is passed over.

        Raises:
            CodecError: no sentence in `lang`, or embeddings of another dimension.
        """
        embeddings = np.atleast_2d(np.asarray(embeddings, dtype=np.float32))
        if embeddings.shape[1] != self.embeddings.shape[1]:
            raise CodecError(
                f"the codec's bank decodes {self.embeddings.shape[1]} dimensions, not {embeddings.shape[1]}"
            )
        rows = self._rows(lang, avoid)
        candidates = self.embeddings[rows].astype(np.float32)
        found: list[str] = []
        for start in range(0, len(embeddings), DECODE_BATCH):
            nearest = (embeddings[start : start + DECODE_BATCH] @ candidates.T).argmax(axis=1)
            found += [self.sentences[rows[i]][1] for i in nearest]
        return found

    def _rows(self, lang: str | None, avoid: Collection[str]) -> np.ndarray:
        rows = np.arange(len(self.sentences)) if lang is None else np.flatnonzero(self._languages == lang)
        if not len(rows):
            known = ", ".join(np.unique(self._languages))
            raise CodecError(f"the codec's bank has no sentence in {lang}: it knows {known}")
        left = np.array([row for row in rows if self.sentences[row][1] not in avoid]) if avoid else rows
        return left if len(left) else rows
