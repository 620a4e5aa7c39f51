"""Every segmenter keeps the text; those that are optional are driven through stand-ins with the real signatures."""

import re
import sys
import types
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lexalcm.data.build.one_process import build_from_paths
from lexalcm.data.build.settings import BuildSettings
from lexalcm.data.format.dataset import Dataset
from lexalcm.errors import ConfigError, UserError
from lexalcm.text import segmenters
from lexalcm.text.segment import segment, segment_texts
from lexalcm.text.segmenters import make_segmenter

SCRIPTS = [
    "Latin",
    "かなカナ漢字。、",
    "Русский.",
    "العربية؟",
    "हिन्दी।",
    "ไทยไทย",
    "한국어.",
    "አማርኛ።",
    "🙂👩‍👩‍👧e\u0301",
]
texts = st.lists(
    st.one_of(
        st.sampled_from([*SCRIPTS, *" .!?。\n\t\x00\u3000\u00a0\u200b", "word " * 60, "とても長い文" * 60]),
        st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=8),
    ),
    max_size=30,
).map("".join)


class SaT:
    """wtpsplit's class: splits behind a full stop and its blanks, as `indices_to_sentences` does."""

    made: list[dict[str, Any]] = []  # noqa: RUF012
    calls: list[dict[str, Any]] = []  # noqa: RUF012

    def __init__(
        self, model_name_or_model, tokenizer_name_or_path="facebookAI/xlm-roberta-base", *, ort_providers=None
    ):
        if "missing" in model_name_or_model:
            raise OSError("We couldn't connect to the hub\nsecond line")
        self.made.append({"model": model_name_or_model, "tokenizer": tokenizer_name_or_path, "ort": ort_providers})

    def to(self, device: object) -> None:
        self.made[-1]["device"] = str(device)

    def split(self, text_or_texts, threshold=None, stride=64, block_size=512, batch_size=32) -> Iterator[list[str]]:
        self.calls.append({"texts": text_or_texts, "threshold": threshold, "batch": batch_size})
        return (re.findall(r"[^.。]*[.。]+\s*|[^.。]+$", text) for text in text_or_texts)


class Pipeline:
    """A spaCy `Language` with its `sentencizer`; a sentence is a span with `text_with_ws`."""

    def __init__(self, lang: str, pipes: tuple[str, ...] = ()) -> None:
        self.lang, self.pipe_names, self.max_length = lang, list(pipes), 1_000_000

    def add_pipe(self, name: str) -> None:
        self.pipe_names.append(name)

    def pipe(self, texts: list[str]) -> Iterator[types.SimpleNamespace]:
        assert self.pipe_names
        for text in texts:
            assert len(text) <= self.max_length
            parts = re.findall(r"[^.!]*[.!]+\s*|[^.!]+$", text)
            yield types.SimpleNamespace(sents=[types.SimpleNamespace(text_with_ws=part) for part in parts])


def blank(name: str) -> Pipeline:
    if name == "ja":
        raise ImportError("Japanese support requires SudachiPy and SudachiDict-core.\nMore")
    if name not in ("en", "xx"):
        raise ImportError(f"[E048] Can't import language {name} or any matching language from spacy.lang")
    return Pipeline(name)


def load(name: str, *, exclude: list[str]) -> Pipeline:
    if name != "en_core_web_sm":
        raise OSError("[E050] Can't find model")
    return Pipeline("en", ("tok2vec", "parser"))


@pytest.fixture(autouse=True)
def _stand_ins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "wtpsplit", types.SimpleNamespace(SaT=SaT))
    monkeypatch.setitem(sys.modules, "onnxruntime", types.SimpleNamespace())
    monkeypatch.setitem(sys.modules, "spacy", types.SimpleNamespace(blank=blank, load=load))
    segmenters._load.cache_clear()
    SaT.made.clear()
    SaT.calls.clear()
    yield
    segmenters._load.cache_clear()


def words(text: str) -> str:
    """Letters and digits; the four letters without a shape are none."""
    return "".join(c for c in text if unicodedata.category(c)[0] in "LN" and c not in "\u115f\u1160\u3164\uffa0")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(texts, st.sampled_from(["sentencex", "sat", "spacy", "newline"]), st.sampled_from([(250, 1), (40, 10), (9, 9)]))
def test_whoever_segments_nothing_is_lost(text: str, name: Any, limits: tuple[int, int]) -> None:
    most, least = limits
    sentences = segment(text, "eng_Latn", max_chars=most, min_chars=least, segmenter=make_segmenter(name, {}))
    if not sentences:
        assert not words(text)
        return
    assert words("".join(sentences)) == words(text)
    assert all(sentence == sentence.strip() != "" for sentence in sentences)
    assert all(len(sentence) <= most for sentence in sentences)
    assert not any(unicodedata.category(c) == "Cc" for sentence in sentences for c in sentence)


@pytest.mark.parametrize("name", ["sentencex", "sat", "spacy", "newline"])
def test_empty_short_and_very_long_documents(name: Any) -> None:
    segmenter = make_segmenter(name, {})
    long = "word " * 20_000
    assert segment("", "eng_Latn", segmenter=segmenter) == []
    assert segment("a", "eng_Latn", segmenter=segmenter) == ["a"]
    assert " ".join(segment(long, "eng_Latn", segmenter=segmenter)) == long.strip()


def test_newline_takes_every_line_for_a_sentence() -> None:
    text = "Dr. Who came. He left.\n\nAn end"
    newline = make_segmenter("newline", {})
    assert segment(text, "eng_Latn", segmenter=newline) == ["Dr. Who came. He left.", "An end"]


@pytest.mark.parametrize(
    ("text", "least", "most", "expected"),
    [
        ("No. I will not go there.", 10, 250, ["No. I will not go there."]),
        ("I will not go there. No.", 10, 250, ["I will not go there. No."]),
        ("はい。そうです、私がそれを言いました。", 5, 250, ["はい。そうです、私がそれを言いました。"]),
        ("No. I will not go there.", 10, 21, ["No.", "I will not go there."]),
        ("I go there now. No. I will not go there.", 10, 21, ["I go there now. No.", "I will not go there."]),
        ("Yes.\nI will not go there.", 10, 250, ["Yes.", "I will not go there."]),
    ],
)
def test_short_sentences_join_a_neighbour(text: str, least: int, most: int, expected: list[str]) -> None:
    lang = "jpn_Jpan" if "。" in text else "eng_Latn"
    sat = make_segmenter("sat", {})
    assert segment(text, lang, min_chars=least, max_chars=most, segmenter=sat) == expected


def test_sat_gets_all_paragraphs_of_a_language_at_once() -> None:
    sat = make_segmenter("sat", {"threshold": 0.1, "batch": 8})
    found = segment_texts([("One. Two.\nThree.", "eng_Latn"), ("", "eng_Latn"), ("Four.", "eng_Latn")], segmenter=sat)
    assert found == [["One.", "Two.", "Three."], [], ["Four."]]
    assert SaT.calls == [{"texts": ["One. Two.", "Three.", "Four."], "threshold": 0.1, "batch": 8}]


@pytest.mark.parametrize(
    ("model", "threshold"), [("sat-3l", 0.02), ("sat-12l-sm", 0.25), ("/home/smith-sm/sat-3l", 0.02)]
)
def test_sat_has_the_threshold_of_its_model(model: str, threshold: float) -> None:
    make_segmenter("sat", {"model": model}).split(["One."], "eng_Latn")
    assert SaT.calls[0]["threshold"] == threshold


def test_sat_by_torch_and_by_onnx() -> None:
    first = make_segmenter("sat", {"device": "cpu"})
    assert make_segmenter("sat", {"device": "cpu"}) is first
    make_segmenter("sat", {"device": "cpu", "onnx": True, "model": "m", "tokenizer": "t"})
    assert SaT.made == [
        {"model": "sat-3l", "tokenizer": "facebookAI/xlm-roberta-base", "ort": None, "device": "cpu"},
        {"model": "m", "tokenizer": "t", "ort": ["CPUExecutionProvider"]},
    ]


def test_spacy_by_rules_and_by_a_pipeline() -> None:
    rules = make_segmenter("spacy", {})
    assert rules.split(["One. Two!"], "eng_Latn") == [["One. ", "Two!"]]
    assert rules.split(["Uan. Tu."], "tpi_Latn") == [["Uan. ", "Tu."]]
    with pytest.raises(UserError, match="cannot read Japanese yet: Japanese support requires SudachiPy"):
        rules.split(["はい。"], "jpn_Jpan")
    named = make_segmenter("spacy", {"model": "en_core_web_sm"})
    assert named.split(["One. Two!"], "jpn_Jpan") == [["One. ", "Two!"]]
    with pytest.raises(UserError, match="python -m spacy download de_core_news_sm"):
        make_segmenter("spacy", {"model": "de_core_news_sm"})


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"download config.json and model.safetensors of https://\S+/missing-3l and"):
        make_segmenter("sat", {"model": "missing-3l"})
    with pytest.raises(ConfigError, match="threshold"):
        make_segmenter("sat", {"threshold": 2})
    with pytest.raises(ConfigError, match="treshold"):
        make_segmenter("sat", {"treshold": 0.1})
    for module, name in (("wtpsplit", "sat"), ("spacy", "spacy")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(UserError, match=rf"pip install 'lexalcm\[{name}\]'"):
            make_segmenter(name, {})  # type: ignore[arg-type]


def test_a_data_set_notes_who_segmented_it(tmp_path: Path, hash_codec: type) -> None:
    (tmp_path / "a.txt").write_text("Dr. Who came. He left.\n\nAn end. Yes.\n")
    chosen = BuildSettings(codec="hash", segmenter="newline", validation=0)
    build_from_paths([tmp_path / "a.txt"], tmp_path / "d", chosen)
    dataset = Dataset.open(tmp_path / "d")
    sentences = [dataset.split().document(i)["sentences"] for i in range(2)]
    assert sorted(sentences) == [["An end. Yes."], ["Dr. Who came. He left."]]
    assert dataset.manifest.build["segmenter"] == "newline"
    with pytest.raises(ValueError, match="min_chars 300 is above max_chars 250"):
        BuildSettings(min_chars=300)
