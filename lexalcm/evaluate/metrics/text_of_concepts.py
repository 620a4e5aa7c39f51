"""Concepts as text and back, for evaluations: grouped by language, nothing decoded or embedded twice in a call."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from lexalcm.codec.base import Codec

T = TypeVar("T")


def decode_texts(codec: Codec, embeddings: np.ndarray, languages: Sequence[str]) -> list[str]:
    """The sentence of each concept [n, dim] in its language."""
    embeddings = np.ascontiguousarray(embeddings, dtype=np.float32)
    keys = [row.tobytes() for row in embeddings]

    def decode(places: list[int], lang: str) -> list[str]:
        return codec.decode(embeddings[places], lang)

    return _by_language(keys, languages, decode)


def encode_texts(codec: Codec, texts: Sequence[str], languages: Sequence[str]) -> np.ndarray:
    """The concept of each sentence of its language: float32 [n, dim]."""

    def encode(places: list[int], lang: str) -> list[np.ndarray]:
        return list(np.asarray(codec.encode([texts[place] for place in places], lang), dtype=np.float32))

    rows = _by_language(list(texts), languages, encode)
    return np.stack(rows) if rows else np.empty((0, codec.dim), dtype=np.float32)


def _by_language(
    keys: Sequence[object], languages: Sequence[str], work: Callable[[list[int], str], list[T]]
) -> list[T]:
    """Do work on the first place of every (language, key), language by language, and give each place its result."""
    first: dict[str, dict[object, int]] = {}
    for place, (key, lang) in enumerate(zip(keys, languages, strict=True)):
        first.setdefault(lang, {}).setdefault(key, place)
    found: dict[tuple[str, object], T] = {}
    for lang, places in first.items():
        found.update(zip(((lang, key) for key in places), work(list(places.values()), lang), strict=True))
    return [found[lang, key] for key, lang in zip(keys, languages, strict=True)]
