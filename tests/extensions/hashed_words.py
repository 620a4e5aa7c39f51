"""A codec of another package: random projections of hashed words, decoded to the nearest sentence of the corpus."""

import json
from hashlib import sha256
from itertools import islice

import numpy as np
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.preprocessing import normalize

from lexalcm.codec.bank import SentenceBank
from lexalcm.codec.base import Codec, CodecRecord
from lexalcm.errors import CodecError

DIM, BANK_SIZE, WORDS = 64, 100_000, HashingVectorizer(n_features=2**14)
DIRECTIONS = np.random.default_rng(0).standard_normal((WORDS.n_features, DIM))


class HashedWordsCodec(Codec):
    files = ("bank.json",)
    from_bank = True
    languages = None  # any
    dim = DIM
    fingerprint = sha256(f"hashed words, {DIM}".encode()).hexdigest()

    def __init__(self, sentences):
        self.bank = SentenceBank(sentences, self.encode([text for _, text in sentences]).astype(np.float16))

    @classmethod
    def create(cls, documents, seed=None):
        pairs = ((lang, text) for lang, sentences in documents for text in sentences)
        return cls(list(dict.fromkeys(islice(pairs, BANK_SIZE))))

    def encode(self, sentences, lang="eng_Latn"):
        return normalize(WORDS.transform(sentences) @ DIRECTIONS).astype(np.float32)

    def decode(self, embeddings, lang=None, avoid=frozenset()):
        return self.bank.nearest(embeddings, lang, avoid)

    def record(self):
        return CodecRecord(name="hashed-words", dim=DIM, fingerprint=self.fingerprint)

    def save(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "bank.json").write_text(json.dumps(self.bank.sentences), encoding="utf-8")

    @classmethod
    def load(cls, record, folder):
        try:
            return cls(json.loads((folder / "bank.json").read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise CodecError(f"the codec in {folder} cannot be opened: {error}") from error
