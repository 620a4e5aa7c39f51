"""Special concepts: sentences with a meaning for the model, embedded like any other sentence.

The tables here are the only place that spells them; a data set may add its own. It keeps their embeddings, and the
sentences as metadata, in `special_concepts.safetensors`, written once when it is built, and so does a model, so that
neither training nor generation needs the codec for them. The folder that the LexaLCM project keeps such vectors in, one
file each, is read too.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from lexalcm.codec.base import Codec
from lexalcm.errors import ConfigError, UserError
from lexalcm.io.folders import entries
from lexalcm.io.reading import reading
from lexalcm.json_text import parse_json

SPECIAL_CONCEPTS = {
    "start_of_text": "Start of text.",
    "end_of_text": "End of text.",
    "pad": "Padding.",
    "system": "System:",
    "user": "User:",
    "assistant": "Assistant:",
    "tool": "Tool:",
}
"""The sentences of every codec that has none of its own for a name."""

CODEC_SENTENCES = {
    "sonar": {"start_of_text": "[[Start of Text.]]", "end_of_text": "[[End of Text.]]"},
}
"""Sentences of one codec: SONAR's are those whose vectors the LexaLCM project publishes."""

SPECIAL_LANGUAGE = "eng_Latn"
SPECIAL_FILE = "special_concepts.safetensors"

FOREIGN_NAMES = {"StartOfText": "start_of_text", "EndOfText": "end_of_text", "PaddingSentence": "pad"}
"""File names of the LexaLCM project; other ones become names of ours as `HelloWorld` does `hello_world`."""

_SENTENCES = "sentences"
_NAME = re.compile(r"[a-z][a-z0-9_]*")


def special_sentences(codec: str, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The table of a codec: name -> sentence.

    Args:
        codec: the name in its record.
        more: concepts of a user's own, or other sentences for names that there are.

    Raises:
        ConfigError: not a valid name, or an empty sentence.
    """
    for name, sentence in (more or {}).items():
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{name!r} cannot name a special concept: use small letters, digits and underscores")
        if not sentence.strip():
            raise ConfigError(f"the special concept {name} has an empty sentence: write {name}=SENTENCE")
    return SPECIAL_CONCEPTS | CODEC_SENTENCES.get(codec, {}) | dict(more or {})


def parse_special(texts: Sequence[str]) -> dict[str, str]:
    """Concepts written as `name=sentence`.

    Raises:
        ConfigError: one is not.
    """
    pairs = [text.partition("=") for text in texts]
    for text, (_, separator, _) in zip(texts, pairs, strict=True):
        if not separator:
            raise ConfigError(f"--special {text}: write it as NAME=SENTENCE")
    return {name.strip(): sentence.strip() for name, _, sentence in pairs}


def encode_special(codec: Codec, more: Mapping[str, str] | None = None) -> dict[str, np.ndarray]:
    """Embed every special concept of a codec: name -> float32 [dim].

    Raises:
        ConfigError: as `special_sentences`.
    """
    sentences = special_sentences(codec.record().name, more)
    knows = codec.languages is None or SPECIAL_LANGUAGE in codec.languages
    lang = SPECIAL_LANGUAGE if knows else min(codec.languages or ())
    return dict(zip(sentences, codec.encode(list(sentences.values()), lang), strict=True))


def write_special(file: Path, codec: Codec, more: Mapping[str, str] | None = None) -> None:
    """Embed every special concept of a codec and keep it, with its sentence, in `file`.

    Raises:
        ConfigError: as `special_sentences`.
    """
    save_special(file, encode_special(codec, more), special_sentences(codec.record().name, more))


def save_special(file: Path, concepts: Mapping[str, np.ndarray], sentences: Mapping[str, str]) -> None:
    """Keep special concepts, float32 [dim] each, and the sentences of those that have one noted, in `file`."""
    noted = json.dumps(dict(sentences), ensure_ascii=False)
    save_file(dict(concepts), file, metadata={_SENTENCES: noted})  # several keys would have no fixed order


def read_special(folder: Path) -> dict[str, np.ndarray]:
    """Special concepts by name, float32 [dim] each, of a data set, a model, or a folder of the LexaLCM project.

    Raises:
        UserError: none there, damaged ones, or ones that cannot be read.
    """
    damaged = f"the special concepts in {folder} are damaged"
    if (own := folder / SPECIAL_FILE).exists():
        with reading(own, "", UserError, damaged=damaged):
            return load_file(own)
    concepts = {}
    for file in entries(folder):
        if file.suffix == ".safetensors":
            with reading(file, "", UserError, damaged=damaged):
                tensors = load_file(file)
                if file.stem in FOREIGN_NAMES or list(tensors) == ["embedding"]:
                    (vector,) = tensors.values()
                    concepts[_own_name(file.stem)] = vector.reshape(-1).astype(np.float32)
    if not concepts:
        known = ", ".join((SPECIAL_FILE, *(f"{name}.safetensors" for name in FOREIGN_NAMES)))
        raise UserError(f"{folder} holds no special concepts: known are {known}")
    return concepts


def kept_sentences(folder: Path) -> dict[str, str]:
    """Name -> sentence of the special concepts that a data set or a model has; empty where that is not noted.

    Raises:
        UserError: the file is damaged, or cannot be read.
    """
    own = folder / SPECIAL_FILE
    if not own.exists():
        return {}
    with reading(own, "build the data set again", UserError), safe_open(own, framework="np") as file:
        noted = parse_json((file.metadata() or {}).get(_SENTENCES, "{}"))
        return {name: noted.get(name, "") for name in file.keys()}  # noqa: SIM118  safe_open has no iterator


def describe_special(sentences: Mapping[str, str]) -> str:
    """In one line, e.g. `end_of_text "End of text.", pad "Padding."`."""
    return ", ".join(f'{name} "{sentence}"' if sentence else name for name, sentence in sentences.items())


def _own_name(stem: str) -> str:
    return FOREIGN_NAMES.get(stem) or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", stem).lower()
