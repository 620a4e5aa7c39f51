"""The embedded codec: latent semantic analysis of character n-grams, fitted on the corpus, nothing to download.

Encoding: TF-IDF of character 2-4-grams inside words (which serves scripts with and without spaces), projected on the
128 leading singular directions of *passages* of 16 sentences rather than of single sentences, so that a direction is a
topic that neighbouring sentences share. Further choices make the vectors good targets for a model:

- a language weighs as the square root of its share of the text, as data for multilingual models is often sampled:
  without it the Japanese tenth of the packaged text has so few directions that its sentences lie on top of each other;
- directions are divided by singular value ** 0.4: a few common topics no longer outweigh all others;
- the mean is taken away before the vector is scaled to unit length, and
- a fixed random rotation mixes all directions, so that every coordinate is nearly Gaussian. Unrotated, a direction
  that only one language uses is almost always zero, its interquartile range nearly nothing, and the normalized
  coordinate reaches thousands; rotated, the largest of all coordinates on the packaged text is below 7.

Decoding: the sentence of the bank (the sentences it was fitted on) with the largest cosine.

Cost on 20,000 sentences: about 12 s to fit, 4,000 sentences/s to encode, 12 MB on disk. A corpus of more than
`fit_sentences` is fitted on a seeded sample of its documents. Fitting and encoding are in float64 and rounded once, so
that processors and libraries that round differently make the same codec and the same vectors, but for rare last bits.
"""

import hashlib
import heapq
import json
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import scipy.sparse as sp
from pydantic import Field
from safetensors.numpy import load_file, save_file
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer, TfidfVectorizer
from sklearn.preprocessing import normalize
from typing_extensions import Self

from lexalcm.codec.bank import SentenceBank
from lexalcm.codec.base import Codec, CodecRecord
from lexalcm.config import PositiveFloat, PositiveInt, Settings, validate
from lexalcm.errors import CodecError
from lexalcm.io.reading import reading
from lexalcm.json_text import parse_json

ENCODE_BATCH = 4096
NGRAMS: dict[str, Any] = {"analyzer": "char_wb", "ngram_range": (2, 4)}


class LsaOptions(Settings):
    """How the codec is fitted."""

    dim: PositiveInt = 128
    max_features: PositiveInt = 40_000  # n-grams kept, the most frequent
    passage: PositiveInt = 16  # sentences in a passage
    whitening: PositiveFloat = 0.4  # exponent of the singular values that directions are divided by
    balance: Annotated[float, Field(ge=0, le=1)] = 0.5  # a language weighs as its share to this power
    fit_sentences: PositiveInt = 200_000  # at most; more are sampled by document
    seed: int = 0


class LsaCodec(Codec):
    """Unit-length sentence vectors from n-grams; decodes to the nearest sentence of its bank."""

    languages = None
    files = ("lsa.safetensors", "lsa.json")
    from_bank = True

    def __init__(
        self,
        options: LsaOptions,
        vocabulary: Sequence[str],
        idf: np.ndarray,
        projection: np.ndarray,
        center: np.ndarray,
        bank: Sequence[tuple[str, str]],
        bank_embeddings: np.ndarray,
    ) -> None:
        """Assemble a fitted codec.

        Args:
            options: how it was fitted.
            vocabulary: the n-grams, in the order of the columns.
            idf: float32 [features].
            projection: float16 [features, dim], n-gram weights to rotated directions.
            center: float32 [dim], the mean unit vector.
            bank: (language, sentence) pairs that decoding chooses from.
            bank_embeddings: float16 [sentences, dim].
        """
        self.options = options
        self.dim = projection.shape[1]
        self.vocabulary = list(vocabulary)
        self.bank = SentenceBank(bank, bank_embeddings)
        self.idf = idf
        self.projection = projection
        self.center = center
        self.fingerprint = self._fingerprint()
        self._exact_projection = projection.astype(np.float64)
        self._vectorizer = TfidfVectorizer(
            preprocessor=_fold, **NGRAMS, sublinear_tf=True, vocabulary=self.vocabulary, dtype=np.float64
        )
        self._vectorizer.idf_ = idf

    @classmethod
    def create(cls, documents: Iterable[tuple[str, Sequence[str]]], **options: Any) -> Self:
        """Fit on (language, sentences) documents.

        Raises:
            ConfigError: an unknown option or a value of the wrong type.
            CodecError: no letters or digits at all in the text.
        """
        settings = validate(LsaOptions, options, prefix="codec")
        sample = _sample(documents, settings.fit_sentences, settings.seed)
        sentences = [sentence for _, document in sample for sentence in document]
        vocabulary, counts = _count(sentences, settings.max_features)
        weights = TfidfTransformer(sublinear_tf=True)
        counts = weights.fit_transform(counts)
        projection = _topic_directions(counts, sample, settings).astype(np.float16)
        exact_projection = projection.astype(np.float64)  # rounded as it will be saved
        center = normalize(counts @ exact_projection).mean(axis=0).astype(np.float32)
        first_place: dict[tuple[str, str], int] = {}
        for place, pair in enumerate((lang, sentence) for lang, document in sample for sentence in document):
            first_place.setdefault(pair, place)
        bank_counts = counts[list(first_place.values())]
        bank_embeddings = _embed(bank_counts, [sentence for _, sentence in first_place], exact_projection, center)
        return cls(
            settings,
            vocabulary=vocabulary,
            idf=weights.idf_.astype(np.float32),
            projection=projection,
            center=center,
            bank=list(first_place),
            bank_embeddings=bank_embeddings.astype(np.float16),
        )

    def encode(self, sentences: Sequence[str], lang: str) -> np.ndarray:
        """Embed sentences: float32 [n, dim], unit length. The language makes no difference here.

        A sentence without a single known n-gram gets a fixed pseudo-random direction of its own, drawn from its hash.
        """
        embeddings = np.empty((len(sentences), self.dim), dtype=np.float32)
        for start in range(0, len(sentences), ENCODE_BATCH):
            batch = sentences[start : start + ENCODE_BATCH]
            counts = self._vectorizer.transform(batch)
            embeddings[start : start + len(batch)] = _embed(counts, batch, self._exact_projection, self.center)
        return embeddings

    def decode(
        self, embeddings: np.ndarray, lang: str | None = None, avoid: Collection[str] = frozenset()
    ) -> list[str]:
        """The bank's sentence of the largest cosine for each embedding [n, dim], in `lang` if given, not in `avoid`.

        Raises:
            CodecError: the bank has no sentence in `lang`, or the embeddings have another dimension.
        """
        return self.bank.nearest(embeddings, lang, avoid)

    def record(self) -> CodecRecord:
        """Name, dimension, fingerprint and how it was fitted."""
        return CodecRecord(
            name="lsa", dim=self.dim, fingerprint=self.fingerprint, options=self.options.model_dump(mode="json")
        )

    def save(self, folder: Path) -> None:
        """Write `lsa.safetensors` (numbers) and `lsa.json` (options, n-grams, bank)."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {
                "idf": self.idf,
                "projection": self.projection,
                "center": self.center,
                "bank_embeddings": self.bank.embeddings,
            },
            folder / "lsa.safetensors",
        )
        text = {
            "options": self.options.model_dump(mode="json"),
            "vocabulary": self.vocabulary,
            "bank": self.bank.sentences,
        }
        (folder / "lsa.json").write_text(json.dumps(text, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, record: CodecRecord, folder: Path) -> Self:
        """Open what `save` wrote.

        Raises:
            CodecError: a file is missing or damaged, or it is another codec than the record's.
        """
        if record.name != "lsa":
            raise CodecError(f"this was made with the codec {record.name}, which lsa does not implement")
        advice = "build the data set again"
        missing = f"the codec's files are missing in {folder}: {advice}"
        damaged = f"the codec's files in {folder} are damaged: {advice}"
        numbers, words = folder / "lsa.safetensors", folder / "lsa.json"
        with (
            reading(numbers, advice, CodecError, missing=missing),
            reading(words, advice, CodecError, missing=missing, damaged=damaged),
        ):
            arrays, text = load_file(numbers), parse_json(words.read_bytes())
            if arrays["bank_embeddings"].shape != (len(text["bank"]), record.dim):
                raise ValueError("another bank")
            codec = cls(
                validate(LsaOptions, text["options"], prefix="options", source=str(words)),
                text["vocabulary"],
                arrays["idf"],
                arrays["projection"],
                arrays["center"],
                text["bank"],
                arrays["bank_embeddings"],
            )
        if codec.fingerprint != record.fingerprint:
            raise CodecError(
                f"the codec in {folder} has fingerprint {codec.fingerprint[:12]}, expected {record.fingerprint[:12]}: "
                "it was fitted on other text"
            )
        return codec

    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        digest.update(json.dumps([self.vocabulary, self.bank.sentences], ensure_ascii=False).encode())
        for array in (self.idf, self.projection, self.center):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def _embed(counts: sp.csr_matrix, sentences: Sequence[str], projection: np.ndarray, center: np.ndarray) -> np.ndarray:
    """Unit vectors [n, dim] of the sentences whose TF-IDF rows are `counts`."""
    topics = normalize(counts @ projection) - center
    for unknown in np.flatnonzero(np.diff(counts.indptr) == 0).tolist():
        topics[unknown] = _hashed_direction(sentences[unknown], projection.shape[1])
    return normalize(topics)


def _count(sentences: Sequence[str], limit: int) -> tuple[list[str], sp.csr_matrix]:
    """The most frequent n-grams, at most `limit` of them in alphabetical order, and each sentence's counts of them.

    Of equally frequent ones the first in that order: with `max_features` the processor's way of sorting would choose.

    Raises:
        CodecError: no letters or digits at all in the text.
    """
    counter = CountVectorizer(preprocessor=_fold, **NGRAMS, dtype=np.float64)
    try:
        counts = counter.fit_transform(sentences)
    except ValueError as error:  # scikit-learn's "empty vocabulary"
        raise CodecError("the codec lsa cannot be fitted: the text has no words") from error
    frequency = np.asarray(counts.sum(axis=0)).ravel()
    kept = np.sort(np.argsort(-frequency, kind="stable")[:limit])
    return counter.get_feature_names_out()[kept].tolist(), counts[:, kept]


def _fold(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _sample(documents: Iterable[tuple[str, Sequence[str]]], limit: int, seed: int) -> list[tuple[str, Sequence[str]]]:
    """All documents, or a seeded choice of whole documents with at most `limit` sentences, in their order.

    Each document draws a random key, and those with the smallest keys are chosen, as many as fit, or one. They are
    found in one pass: memory holds the chosen ones, however many documents there are.
    """
    rng = np.random.default_rng(seed)
    chosen: list[tuple[float, int, tuple[str, Sequence[str]]]] = []  # a heap, the largest key first
    held = 0
    for place, document in enumerate(documents):
        heapq.heappush(chosen, (-rng.random(), place, document))
        held += len(document[1])
        while held > limit and len(chosen) > 1:
            held -= len(heapq.heappop(chosen)[2][1])
    return [document for _, _, document in sorted(chosen, key=lambda one: one[1])]


def _topic_directions(
    counts: sp.csr_matrix, documents: Sequence[tuple[str, Sequence[str]]], options: LsaOptions
) -> np.ndarray:
    """Whitened singular directions of the corpus's passages, rotated: float32 [features, dim].

    The passages are made shorter where a small corpus has too few of them for `dim` directions.
    """
    lengths = np.array([len(sentences) for _, sentences in documents])
    passage = options.passage
    while passage > 1 and (-(-lengths // passage)).sum() < 2 * options.dim:
        passage //= 2
    passages_of_document = -(-lengths // passage)
    weights = np.repeat(_language_weights([lang for lang, _ in documents], lengths, options), passages_of_document)
    passages = sp.diags_array(weights) @ normalize(_passage_sums(lengths, passage) @ counts)
    rank = min(options.dim, passages.shape[0], passages.shape[1])
    if rank < min(passages.shape):
        with np.errstate(
            divide="ignore", invalid="ignore"
        ):  # of passages that are all the same, shares of zero variance
            svd = TruncatedSVD(rank, n_iter=4, random_state=options.seed).fit(passages)
        values, directions = svd.singular_values_, svd.components_
    else:
        _, values, directions = np.linalg.svd(passages.toarray(), full_matrices=False)
    kept = values > 1e-4 * values[0]
    whitened = directions[kept] / values[kept, None] ** options.whitening
    rotation = np.linalg.qr(np.random.default_rng(options.seed).standard_normal((options.dim, options.dim)))[0]
    return (whitened.T @ rotation[: kept.sum()]).astype(np.float32)


def _language_weights(languages: Sequence[str], lengths: np.ndarray, options: LsaOptions) -> np.ndarray:
    """What each document's passages are multiplied by, so that a language has the weight share ** balance: [documents].

    A language of 10% would otherwise get 3% of the directions, and its sentences would lie on top of each other.
    """
    _, language = np.unique(languages, return_inverse=True)
    shares = np.bincount(language, weights=lengths) / lengths.sum()
    return shares[language] ** ((options.balance - 1) / 2)


def _passage_sums(lengths: np.ndarray, passage: int) -> sp.csr_matrix:
    """A 0/1 matrix [passages, sentences] that sums the sentences of each passage; documents are not mixed."""
    passage_of_sentence = []
    count = 0
    for length in lengths:
        passage_of_sentence.append(count + np.arange(length) // passage)
        count += -(-length // passage)
    rows = np.concatenate(passage_of_sentence)
    ones = np.ones(len(rows), dtype=np.float32)
    return sp.csr_matrix((ones, (rows, np.arange(len(rows)))), shape=(count, len(rows)))


def _hashed_direction(text: str, dim: int) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    vector = np.random.default_rng(seed).standard_normal(dim)
    return vector / np.linalg.norm(vector)
