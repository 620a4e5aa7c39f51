import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lexalcm import registry
from lexalcm.codec.base import Codec, CodecRecord
from lexalcm.errors import CodecError
from lexalcm.registries import SAMPLERS


class HashCodec(Codec):
    """A codec to test with: a sentence's vector is drawn from its hash, so that anyone can say what it must be."""

    dim = 8
    languages = frozenset({"eng_Latn", "jpn_Jpan"})
    fingerprint = "hash-codec"
    fitted_on: list[tuple[str, list[str]]]

    @classmethod
    def create(cls, documents: Iterable[tuple[str, Sequence[str]]], **options: Any) -> "HashCodec":
        codec = cls()
        codec.fitted_on = cls.last_fit = [(lang, list(sentences)) for lang, sentences in documents]
        codec.options = options
        return codec

    @classmethod
    def load(cls, record: CodecRecord, folder: Path) -> "HashCodec":
        if not (folder / "hash.txt").is_file():
            raise CodecError(f"no hash.txt in {folder}")
        return cls()

    def encode(self, sentences: Sequence[str], lang: str) -> np.ndarray:
        return np.stack([self.vector(sentence) for sentence in sentences])

    def decode(self, embeddings: np.ndarray, lang: str | None = None) -> list[str]:
        return ["?"] * len(embeddings)

    def record(self) -> CodecRecord:
        return CodecRecord(name="hash", dim=self.dim, fingerprint=self.fingerprint)

    def save(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "hash.txt").write_text("hash")

    @staticmethod
    def vector(sentence: str) -> np.ndarray:
        seed = int.from_bytes(hashlib.sha256(sentence.encode()).digest()[:8], "big")
        return np.random.default_rng(seed).standard_normal(HashCodec.dim).astype(np.float32)


@pytest.fixture
def hash_codec(monkeypatch: pytest.MonkeyPatch) -> type[HashCodec]:
    """Installs `HashCodec` under the name `hash`, beside what is installed."""
    installed = registry.entry_points
    entry = SimpleNamespace(name="hash", load=lambda: HashCodec)
    monkeypatch.setattr(registry, "entry_points", lambda group: [*installed(group=group), entry])
    return HashCodec


@pytest.fixture
def midpoint(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a sampler that asks the network between its steps too: see `midpoint_sampler.py`."""
    monkeypatch.setitem(SAMPLERS._builtin, "midpoint", "midpoint_sampler:MIDPOINT")
    return "midpoint"
