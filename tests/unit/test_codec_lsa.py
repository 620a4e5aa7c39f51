"""The embedded codec on real text: what training and generation rely on."""

import json
import os
import shutil
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lexalcm.codec.bank import SentenceBank
from lexalcm.codec.lsa import codec as lsa
from lexalcm.codec.lsa.codec import LsaCodec
from lexalcm.codec.registry import fit_codec, load_codec
from lexalcm.codec.special import encode_special
from lexalcm.data.sources.corpus import Source, read_documents
from lexalcm.data.sources.sample import packaged_text
from lexalcm.errors import CodecError, ConfigError, UserError
from lexalcm.text.segment import segment

Documents = list[tuple[str, list[str]]]


def packaged_documents(every: int) -> Documents:
    with packaged_text() as path:
        chosen = list(read_documents([Source(path, path.name)]))[::every]
    return [(document.lang, segment(document.text, document.lang)) for document in chosen]


@pytest.fixture(scope="module")
def documents() -> Documents:
    """About 4,500 sentences in both languages."""
    return packaged_documents(every=5)


@pytest.fixture(scope="module")
def codec(documents: Documents) -> LsaCodec:
    return LsaCodec.create(documents)


@pytest.fixture(scope="module")
def saved(codec: LsaCodec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("codec")
    codec.save(folder)
    return folder


def of_language(documents: Documents, lang: str) -> list[list[str]]:
    return [sentences for code, sentences in documents if code == lang]


def test_vectors_have_unit_length(codec: LsaCodec, documents: Documents) -> None:
    sentences = [sentence for _, document in documents[:40] for sentence in document] + ["✈", "", "zzzz"]
    embeddings = codec.encode(sentences, "eng_Latn")
    assert embeddings.shape == (len(sentences), 128)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)


def test_normalized_coordinates_are_well_behaved(codec: LsaCodec, documents: Documents) -> None:
    """Near Gaussian, seen or unseen in fitting: a plain SVD has coordinates up to 190 on this text."""
    embeddings = np.concatenate([codec.encode(sentences, lang) for lang, sentences in documents])
    lower, center, upper = np.percentile(embeddings, [25, 50, 75], axis=0)
    scale = 0.7413 * (upper - lower)
    assert scale.min() > 0.5 * scale.max()
    assert np.abs((embeddings - center) / scale).max() < 8


@pytest.mark.parametrize("lang", ["eng_Latn", "jpn_Jpan"])
def test_neighbouring_sentences_are_alike(codec: LsaCodec, documents: Documents, lang: str) -> None:
    """The next sentence is nearer than one from elsewhere in the same language, for most of the text."""
    texts = of_language(documents, lang)
    parts = [codec.encode(sentences, lang) for sentences in texts]
    here = np.concatenate([part[:-1] for part in parts])
    following = np.concatenate([part[1:] for part in parts])
    elsewhere = np.random.default_rng(0).permutation(following)
    closer = (here * following).sum(1) > (here * elsewhere).sum(1)
    assert closer.mean() > 0.55


def test_balance_spreads_out_the_smaller_language() -> None:
    """Weighed as it is, a tenth of the text has so few directions that its sentences lie on top of each other."""
    documents = packaged_documents(every=2)
    japanese = list(dict.fromkeys(sentence for text in of_language(documents, "jpn_Jpan") for sentence in text))

    def room(balance: float) -> float:
        """Median distance (1 - cosine) of a sentence to the one nearest to it."""
        embeddings = LsaCodec.create(documents, balance=balance).encode(japanese, "jpn_Jpan")
        return float(np.median(1 - (embeddings @ embeddings.T - 2 * np.eye(len(embeddings))).max(axis=1)))

    assert room(0.5) > 1.5 * room(1)


@pytest.mark.parametrize("lang", ["eng_Latn", "jpn_Jpan"])
def test_a_sentence_of_the_bank_decodes_to_itself(codec: LsaCodec, documents: Documents, lang: str) -> None:
    sentences = list(dict.fromkeys(s for document in of_language(documents, lang) for s in document if len(s) > 20))
    decoded = codec.decode(codec.encode(sentences, lang), lang)
    assert np.mean([a == b for a, b in zip(sentences, decoded, strict=True)]) > 0.995


def test_decoding_keeps_to_the_language_asked_for(codec: LsaCodec, documents: Documents) -> None:
    japanese = {sentence for document in of_language(documents, "jpn_Jpan") for sentence in document}
    english = codec.encode(of_language(documents, "eng_Latn")[0], "eng_Latn")
    assert set(codec.decode(english, "jpn_Jpan")) <= japanese
    with pytest.raises(CodecError, match="no sentence in deu_Latn: it knows eng_Latn, jpn_Jpan"):
        codec.decode(english, "deu_Latn")


def test_decoding_passes_over_what_is_to_be_avoided(codec: LsaCodec, documents: Documents) -> None:
    sentence = max(documents[0][1], key=len)
    embedding = codec.encode([sentence], "eng_Latn")
    (second,) = codec.decode(embedding, avoid={sentence})
    others = [text for _, text in codec.bank.sentences if text != sentence]
    nearest = others[int((codec.encode(others, "") @ embedding[0]).argmax())]
    assert second == nearest


def test_fitting_again_gives_the_same_codec(codec: LsaCodec, documents: Documents) -> None:
    again = LsaCodec.create(iter(documents))
    assert again.fingerprint == codec.fingerprint
    np.testing.assert_array_equal(again.encode(documents[0][1], ""), codec.encode(documents[0][1], ""))


def test_a_loaded_codec_is_the_saved_one(codec: LsaCodec, saved: Path, documents: Documents) -> None:
    loaded = load_codec(codec.record(), saved)
    sentences = documents[0][1] + ["✈"]
    np.testing.assert_array_equal(loaded.encode(sentences, ""), codec.encode(sentences, ""))
    embeddings = codec.encode(sentences, "")
    assert loaded.decode(embeddings) == codec.decode(embeddings)


def test_nothing_saved_is_a_pickle(saved: Path) -> None:
    assert sorted(file.name for file in saved.iterdir()) == ["lsa.json", "lsa.safetensors"]
    json.loads((saved / "lsa.json").read_text(encoding="utf-8"))


def test_another_codecs_files_are_refused(codec: LsaCodec, saved: Path) -> None:
    record = codec.record().model_copy(update={"fingerprint": "f" * 64})
    with pytest.raises(CodecError, match="fitted on other text"):
        load_codec(record, saved)


@pytest.mark.parametrize(
    ("name", "harm", "message"),
    [
        ("lsa.json", lambda file: file.unlink(), "missing"),
        ("lsa.json", lambda file: file.write_text("{"), "damaged"),
        ("lsa.safetensors", lambda file: file.write_bytes(file.read_bytes()[:1000]), "damaged"),
    ],
)
def test_missing_or_damaged_files_are_named(
    codec: LsaCodec, tmp_path: Path, name: str, harm: object, message: str
) -> None:
    codec.save(tmp_path)
    harm(tmp_path / name)
    with pytest.raises(CodecError, match=message):
        load_codec(codec.record(), tmp_path)


def test_a_tiny_corpus_has_a_codec_too() -> None:
    codec = fit_codec("lsa", [("eng_Latn", ["Hello there.", "How are you?", "I am well."])])
    embeddings = codec.encode(["Hello there.", "How are you?"], "eng_Latn")
    assert embeddings.shape == (2, 128)
    assert codec.decode(embeddings) == ["Hello there.", "How are you?"]


def test_text_unlike_the_corpus_has_vectors_of_its_own(codec: LsaCodec) -> None:
    strange = codec.encode(["✈✈", "☂", "✈✈"], "eng_Latn")
    np.testing.assert_array_equal(strange[0], strange[2])
    assert abs(float(strange[0] @ strange[1])) < 0.5


def test_special_concepts_differ(codec: LsaCodec) -> None:
    vectors = np.stack(list(encode_special(codec).values()))
    similarities = vectors @ vectors.T - np.eye(len(vectors))
    assert similarities.max() < 0.95


def test_a_sample_of_a_large_corpus_is_whole_documents() -> None:
    corpus = [("eng_Latn", [f"Sentence {i} of document {d} tells a story." for i in range(10)]) for d in range(20)]
    codec = LsaCodec.create(corpus, fit_sentences=50)
    banked = {sentence for _, sentence in codec.bank.sentences}
    assert 0 < len(banked) <= 50
    assert banked == {s for _, sentences in corpus if sentences[0] in banked for s in sentences}


def test_a_sample_is_drawn_in_one_pass_and_holds_no_more_than_it_needs() -> None:
    alive: weakref.WeakSet[list[str]] = weakref.WeakSet()
    most = 0

    class Text(list[str]):
        __hash__ = object.__hash__

    def documents() -> Iterator[tuple[str, Text]]:
        nonlocal most
        for d in range(500):
            text = Text(f"Sentence {i} of document {d} tells a story." for i in range(10))
            alive.add(text)
            most = max(most, len(alive))
            yield "eng_Latn", text

    banked = {sentence for _, sentence in LsaCodec.create(documents(), fit_sentences=50).bank.sentences}
    assert len(banked) == 50
    assert most <= 50 / 10 + 3


def test_every_document_is_sampled_as_often() -> None:
    """Of 20 alike documents 5 fit: each is there in a quarter of the seeds, first and last alike."""
    corpus = [("eng_Latn", [f"Tale {d}, line {i}." for i in range(2)]) for d in range(20)]
    often = np.zeros(20)
    for seed in range(400):
        sample = lsa._sample(iter(corpus), 11, seed)
        assert sample == [document for document in corpus if document in sample]  # in their order
        assert sum(len(sentences) for _, sentences in sample) == 10
        often += [document in sample for document in corpus]
    assert np.abs(often - 100).max() < 4.5 * np.sqrt(400 * 0.25 * 0.75)
    assert lsa._sample(iter(corpus), 40, 0) == corpus
    assert lsa._sample(iter(corpus), 1, 0)  # one at least


def test_wrong_options_and_wordless_text_are_explained() -> None:
    with pytest.raises(ConfigError, match=r"codec\.dims: did you mean dim"):
        fit_codec("lsa", [("eng_Latn", ["Hello."])], dims=3)
    with pytest.raises(CodecError, match="no words"):
        fit_codec("lsa", [("eng_Latn", [])])
    with pytest.raises(CodecError, match="did you mean lsa"):
        fit_codec("lsaa", [])


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_bank_has_no_sentence_for_numbers_that_are_none(number: float) -> None:
    bank = SentenceBank([("eng_Latn", "One."), ("eng_Latn", "Two.")], np.eye(2, dtype=np.float16))
    assert bank.nearest([[0.1, 0.9]]) == ["Two."]
    with pytest.raises(CodecError, match=r"embedding 1 of 2 is not finite \(NaN or infinite\): the model that made it"):
        bank.nearest([[0, 1], [number, 1]])


PROCESSORS = {
    "this": {},
    "old": {
        "OPENBLAS_CORETYPE": "Nehalem",
        "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F AVX512_SKX X86_V3 X86_V4 AVX512_ICL AVX512_SPR",
    },
    "avx2": {
        "OPENBLAS_CORETYPE": "Haswell",
        "OPENBLAS_NUM_THREADS": "2",
        "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512_SKX X86_V4 AVX512_ICL AVX512_SPR",
    },
}
FIT = """
import hashlib
from lexalcm.codec.lsa.codec import LsaCodec
from tests.unit.test_codec_lsa import packaged_documents
documents = packaged_documents(every=20)
codec = LsaCodec.create(documents, max_features=5000, dim=64)
embeddings = codec.encode([sentence for _, sentences in documents for sentence in sentences], "eng_Latn")
print(codec.fingerprint, hashlib.sha256(embeddings.tobytes()).hexdigest())
"""


def test_every_processor_fits_the_same_codec_and_makes_the_same_vectors() -> None:
    """As far as libraries can be told to be on another one: other sorting, other sums, another logarithm."""
    made = {
        name: subprocess.run(
            [sys.executable, "-W", "ignore", "-c", FIT],
            env={**os.environ, **variables},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for name, variables in PROCESSORS.items()
    }
    assert len(made["this"].split()) == 2
    assert made == dict.fromkeys(PROCESSORS, made["this"])


OTHER_TEXTS = {
    "a list": lambda tree: [tree],
    "vocabulary": lambda tree: tree | {"vocabulary": 5},
    "vocabulary of numbers": lambda tree: tree | {"vocabulary": list(range(len(tree["vocabulary"])))},
    "bank": lambda tree: tree | {"bank": 5},
    "bank of less": lambda tree: tree | {"bank": tree["bank"][1:]},
    "bank of texts": lambda tree: tree | {"bank": ["x"] * len(tree["bank"])},
    "options": lambda tree: tree | {"options": None},
    "nothing": lambda _tree: None,
}


@pytest.mark.parametrize("kind", OTHER_TEXTS)
def test_files_of_other_types_are_damaged(codec: LsaCodec, saved: Path, tmp_path: Path, kind: str) -> None:
    shutil.copytree(saved, tmp_path / "codec")
    file = tmp_path / "codec/lsa.json"
    file.write_text(json.dumps(OTHER_TEXTS[kind](json.loads(file.read_text()))))
    known = rf"the codec's files in {tmp_path}/codec are damaged|codec/lsa\.json|fingerprint"
    with pytest.raises(UserError, match=known):
        load_codec(codec.record(), tmp_path / "codec")
