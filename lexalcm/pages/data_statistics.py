"""The statistics of the data report, measured on a sample of documents.

The sample is kept in memory as float32 (20,000 sentences of 1,024 numbers: 80 MB), so that a report of a large data set
costs what one of a small one does.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)


@dataclass(frozen=True)
class Sample:
    """Whole documents of a split, one after another in the split's order."""

    embeddings: np.ndarray  # float32 [n, dim]
    documents: np.ndarray  # int64 [n], 0, 1, 2, ... in the sample
    sentences: list[str]  # n, or none where the text is not stored
    languages: np.ndarray  # str [n]
    names: list[str]  # one per document: its title, or its id

    @property
    def has_text(self) -> bool:
        """Whether the sentences are known."""
        return len(self.sentences) == len(self.embeddings)


@dataclass(frozen=True)
class Similarities:
    """Cosine similarities of pairs of sentences."""

    consecutive: np.ndarray  # each sentence and the next one of its document
    random: np.ndarray  # as many pairs of one language from two documents


@dataclass(frozen=True)
class Neighbour:
    """A sentence and the nearest one of another document."""

    language: str
    sentence: str
    document: str
    nearest: str
    nearest_document: str
    cosine: float


def collect(documents: Iterator[tuple[dict[str, Any], np.ndarray]]) -> Sample:
    """Make a sample of documents, each its metadata and its embeddings, float32 [n, dim]."""
    records, arrays = zip(*documents, strict=True)
    lengths = [len(array) for array in arrays]
    return Sample(
        embeddings=np.concatenate(arrays),
        documents=np.repeat(np.arange(len(arrays)), lengths),
        sentences=[sentence for record in records for sentence in record.get("sentences", ())],
        languages=np.repeat([record["lang"] for record in records], lengths),
        names=[record["title"] or record["id"] for record in records],
    )


def languages_by_size(sample: Sample) -> list[str]:
    """The languages of a sample, most sentences first."""
    names, counts = np.unique(sample.languages, return_counts=True)
    return [str(name) for name in names[np.argsort(-counts, kind="stable")]]


def sentence_lengths(sample: Sample) -> np.ndarray:
    """Characters (code points) of each sentence: int64 [n]."""
    return np.array([len(sentence) for sentence in sample.sentences])


def coordinate_quantiles(normalizer: Mapping[str, np.ndarray], sample: Sample) -> np.ndarray:
    """Quantiles of each normalized coordinate, float64 [len(QUANTILES), dim]; clipping left out."""
    return np.quantile((sample.embeddings - normalizer["center"]) / normalizer["scale"], QUANTILES, axis=0)


def principal_components(embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Project on the first two principal components.

    Returns:
        Points, float64 [n, 2], and the share of the variance that each explains, [2].
    """
    centered = embeddings - embeddings.mean(axis=0, dtype=np.float64)
    variances, directions = np.linalg.eigh(centered.T @ centered)
    leading = directions[:, ::-1][:, :2]
    leading *= np.sign(leading[np.abs(leading).argmax(axis=0), [0, 1]])  # eigenvectors have no sign of their own
    return centered @ leading, variances[::-1][:2] / variances.sum()


def similarities(sample: Sample, seed: int) -> Similarities:
    """Cosine similarities of consecutive sentences, and of random pairs of one language from different documents."""
    unit = _unit(sample.embeddings)
    first = np.flatnonzero(sample.documents[1:] == sample.documents[:-1])
    consecutive = np.einsum("nd,nd->n", unit[first], unit[first + 1])
    generator = np.random.default_rng(seed)
    partners = np.full(len(unit), -1)
    for language in np.unique(sample.languages):
        members = np.flatnonzero(sample.languages == language)
        partners[members] = generator.permutation(members)
    pairs = np.flatnonzero(sample.documents != sample.documents[partners])
    return Similarities(consecutive, np.einsum("nd,nd->n", unit[pairs], unit[partners[pairs]]))


def nearest_neighbours(sample: Sample, per_language: int, seed: int, max_languages: int = 4) -> list[Neighbour]:
    """Some sentences of middle length, each with the sentence of another document that has the largest cosine."""
    unit = _unit(sample.embeddings)
    lengths = sentence_lengths(sample)
    generator = np.random.default_rng(seed)
    found = []
    for language in languages_by_size(sample)[:max_languages]:
        members = np.flatnonzero(sample.languages == language)
        low, high = np.quantile(lengths[members], [0.4, 0.8])
        middle = members[(lengths[members] >= low) & (lengths[members] <= high)]
        for query in np.sort(generator.permutation(middle)[:per_language]):
            others = np.flatnonzero(sample.documents != sample.documents[query])
            if not len(others):
                continue
            cosines = unit[others] @ unit[query]
            best = int(others[cosines.argmax()])
            found.append(
                Neighbour(
                    language=language,
                    sentence=sample.sentences[query],
                    document=sample.names[sample.documents[query]],
                    nearest=sample.sentences[best],
                    nearest_document=sample.names[sample.documents[best]],
                    cosine=float(cosines.max()),
                )
            )
    return found


def _unit(embeddings: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings / np.maximum(norms, np.finfo(np.float32).tiny)
