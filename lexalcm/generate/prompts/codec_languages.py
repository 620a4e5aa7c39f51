"""Which languages a codec reads and writes."""

import numpy as np

from lexalcm.codec.base import Codec
from lexalcm.errors import CodecError
from lexalcm.text.languages import language_name, nearest_languages


def check_codec_language(codec: Codec, lang: str) -> None:
    """Make sure that a codec knows a language.

    Raises:
        CodecError: it does not; with the languages that it has.
    """
    if codec.languages is None:
        codec.decode(np.empty((0, codec.dim), dtype=np.float32), lang)  # a bank says which it has
    elif lang not in codec.languages:
        near = " or ".join(f"{code} ({language_name(code)})" for code in nearest_languages(lang, codec.languages))
        raise CodecError(
            f"the codec {codec.record().name} does not know the language {lang} ({language_name(lang)}): "
            f"the nearest are {near}"
        )


def supports_language(codec: Codec, lang: str) -> bool:
    """Whether a codec knows a language."""
    try:
        check_codec_language(codec, lang)
    except CodecError:
        return False
    return True
