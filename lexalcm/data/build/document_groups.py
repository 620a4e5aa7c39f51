"""Documents embedded in groups: those of a group that are of one language are one request to the codec.

Requests are read ahead by a codec that streams, so that the documents of the next groups are read, and their sentences
prepared, while those before them are embedded. What is in a group depends on nothing but the documents and the codec's
`sentences_at_once`, so that the numbers are the same however far it reads ahead.
"""

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lexalcm.codec.base import Codec, Request
from lexalcm.data.build.shared_codec import check_language_of
from lexalcm.data.build.units import Unit
from lexalcm.data.format.target_spans import without_roles
from lexalcm.errors import CodecError


@dataclass
class Group:
    """Some documents of a unit that are embedded together."""

    unit: Unit
    documents: list[dict[str, Any]]
    embeddings: dict[int, np.ndarray] = field(default_factory=dict)
    """By the documents' numbers, float32 [n, dim] each."""


def groups_of(codec: Codec, unit: Unit, documents: Iterable[dict[str, Any]]) -> Iterator[Group]:
    """Documents in groups of as many sentences as the codec embeds best at once, or just above."""
    group: list[dict[str, Any]] = []
    sentences = 0
    for document in documents:
        group.append(document)
        sentences += len(document["sentences"])
        if sentences >= codec.sentences_at_once:
            yield Group(unit, group)
            group, sentences = [], 0
    if group:
        yield Group(unit, group)


def embed_groups(codec: Codec, groups: Iterable[Group], roles: Mapping[str, np.ndarray]) -> Generator[Group]:
    """Embed groups of documents.

    Args:
        codec: with which.
        groups: read ahead as far as the codec asks; documents with their sentences, conversations with their turns.
        roles: the special concepts that stand where turns begin, whatever the language.

    Yields:
        The groups, in their order, with the embeddings of all their documents.

    Raises:
        CodecError: the codec gives vectors of a wrong shape, or too few, or does not know a language.
    """
    asked: deque[tuple[Group, list[int], list[list[str]]]] = deque()

    def requests() -> Iterator[Request]:
        for group in groups:
            for lang in sorted({document["lang"] for document in group.documents}):
                check_language_of(codec.languages, lang)
                members = [i for i, document in enumerate(group.documents) if document["lang"] == lang]
                texts = [without_roles(group.documents[i]) for i in members]
                asked.append((group, members, texts))
                yield [sentence for document in texts for sentence in document], lang

    requested = requests()
    for vectors in codec.encode_stream(requested):
        group, members, texts = asked.popleft()
        ends = np.cumsum([len(document) for document in texts])
        if vectors.shape != (ends[-1], codec.dim):
            raise CodecError(f"the codec gave an array {vectors.shape} for {ends[-1]} sentences of {codec.dim}")
        for i, part in zip(members, np.split(vectors, ends[:-1]), strict=True):
            group.embeddings[i] = _with_roles(part, group.documents[i].get("turns", []), roles)
        if len(group.embeddings) == len(group.documents):
            yield group
    if asked or next(requested, None) is not None:
        raise CodecError("the codec's encode_stream ended before it had answered all requests")


def _with_roles(embeddings: np.ndarray, turns: list[tuple[str, int]], roles: Mapping[str, np.ndarray]) -> np.ndarray:
    """The embeddings of sentences, [n, dim], with the concept of a role where each turn, (role, start), begins."""
    if not turns:
        return embeddings
    starts = np.array([start for _, start in turns], np.int64)
    heads = np.array([roles[role] for role, _ in turns], np.float32)
    return np.insert(embeddings, starts - np.arange(len(starts)), heads, axis=0)
