"""The language of a text for which none was given, as far as its script shows it: a guess where that is safe.

Between languages of one script only a statistical model could choose. Latin letters are taken for English, as
everywhere here, and kana for Japanese; Chinese characters alone for Japanese too where the codec knows no Chinese. A
text in any other script would be read as English, of which it is not a word: that is not guessed.
"""

import unicodedata
from collections import Counter

import regex

from lexalcm.codec.base import Codec
from lexalcm.errors import UserError
from lexalcm.generate.prompts.codec_languages import supports_language
from lexalcm.text.languages import language_of

_LETTER = regex.compile(r"\p{L}")
_HAN = regex.compile(r"\p{Script=Han}")
_OTHER = regex.compile(
    r"[\p{L}--[\p{Script=Latin}\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Common}]]", regex.V1
)
JAPANESE = "jpn_Jpan"
CHINESE = ("zho_Hans", "zho_Hant", "yue_Hant")


def detect_language(text: str, codec: Codec | None = None) -> str:
    """The SONAR code of a text's language.

    Args:
        text: of any length.
        codec: what reads it; none: it might know any language.

    Raises:
        UserError: most letters are of a script that leaves it open.
    """
    seen = language_of(text)
    if seen == JAPANESE:
        return seen
    most = len(_LETTER.findall(text)) / 2
    others = _OTHER.findall(text)
    if len(others) > most:
        script = Counter(unicodedata.name(letter, "an unknown").split()[0] for letter in others).most_common(1)[0][0]
        raise UserError(f"the text is in {script.capitalize()} script: give its language with --lang")
    if len(_HAN.findall(text)) > most:
        if (
            codec is None
            or not supports_language(codec, JAPANESE)
            or any(supports_language(codec, lang) for lang in CHINESE)
        ):
            raise UserError(
                "the text is in Chinese characters: give its language with --lang, e.g. zho_Hans, zho_Hant or jpn_Jpan"
            )
        return JAPANESE
    return seen
