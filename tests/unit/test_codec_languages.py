"""Languages by code, by ISO code or by name."""

import pytest

from lexalcm.errors import DataError
from lexalcm.text.languages import SONAR_LANGUAGES, find_language, language_name, nearest_languages


def test_the_order_is_that_of_the_tokens() -> None:
    """Of the released tokenizer, which Transformers' NLLB shares."""
    nllb = pytest.importorskip("transformers.models.nllb.tokenization_nllb", reason="the extra hf is not installed")
    assert list(SONAR_LANGUAGES) == list(nllb.FAIRSEQ_LANGUAGE_CODES)
    assert len(set(SONAR_LANGUAGES)) == 202


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("jpn_Jpan", "jpn_Jpan"),
        ("Japanese", "jpn_Jpan"),
        ("japanese ", "jpn_Jpan"),
        ("ja", "jpn_Jpan"),
        ("JPN", "jpn_Jpan"),
        ("ja-JP", "jpn_Jpan"),
        ("eng_latn", "eng_Latn"),
        ("zh", "zho_Hans"),
        ("zh-Hant-TW", "zho_Hant"),
        ("zh-TW", "zho_Hant"),
        ("Traditional Chinese", "zho_Hant"),
        ("pt-BR", "por_Latn"),
        ("no", "nob_Latn"),
        ("nob", "nob_Latn"),
        ("Norwegian Bokmål", "nob_Latn"),
        ("fas", "pes_Arab"),
        ("Farsi", "pes_Arab"),
        ("kas", "kas_Arab"),
        ("ace", "ace_Latn"),
        ("Scottish Gaelic", "gla_Latn"),
        ("tlh_Latn", "tlh_Latn"),  # of SONAR's form, though not SONAR's: another codec may know it
    ],
)
def test_ways_to_name_a_language(text: str, code: str) -> None:
    assert find_language(text) == code


@pytest.mark.parametrize("code", SONAR_LANGUAGES)
def test_every_language_is_found_by_its_code_and_its_name(code: str) -> None:
    assert find_language(code.lower()) == code
    assert find_language(language_name(code)) == code


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("Swahilli", r"did you mean swh_Latn \(Swahili\)"),
        ("Japonese", r"jpn_Jpan \(Japanese\)"),
        ("qq", "write it like eng_Latn, en or English"),
        ("", "write it like eng_Latn, en or English"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(text: str, advice: str) -> None:
    with pytest.raises(DataError, match=advice):
        find_language(text)


def test_nearest_languages_of_a_codec() -> None:
    some = ("deu_Latn", "swh_Latn", "zho_Hant", "jpn_Jpan")
    assert nearest_languages("swa_Latn", some)[0] == "swh_Latn"
    assert nearest_languages("japanese", some)[0] == "jpn_Jpan"
    assert nearest_languages("0", some) == list(some[:3])
