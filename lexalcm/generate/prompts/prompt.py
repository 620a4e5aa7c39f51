"""A text to continue: its sentences, its language, the language to write, and the seed of the noise."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor
from typing_extensions import Self

from lexalcm.codec.base import Codec
from lexalcm.errors import UserError
from lexalcm.generate.prompts.codec_languages import check_codec_language
from lexalcm.generate.prompts.detect_language import detect_language
from lexalcm.text.segment import MAX_CHARS, paragraphs_of, segment

MAX_SEED = 2**63 - 1
"""The largest that is taken: generators know larger ones only up to a point, and samples count on from it."""


@dataclass(frozen=True)
class Prompt:
    """A text to continue."""

    sentences: tuple[str, ...]
    lang: str
    to: str  # the language to write
    seed: int = 0
    concepts: Tensor | None = None  # of the sentences, float32 [n, D]; none: what the codec makes of them
    heads: tuple[tuple[int, str], ...] = ()  # of a conversation: (place of a sentence that stands for a role, role)
    answers: bool = False  # what is written is an answer: it ends where the next turn would begin

    def with_seed(self, seed: int) -> Self:
        """The same text with other noise."""
        return replace(self, seed=seed)


def read_prompt(
    text: str | Sequence[str],
    *,
    lang: str | None = None,
    to: str | None = None,
    seed: int = 0,
    max_sentences: int | None = None,
    codec: Codec | None = None,
) -> Prompt:
    """Make a prompt of a text, which is segmented into sentences, or of sentences, which are taken as they are.

    Args:
        text: one of the two.
        lang: SONAR code of its language; none: seen from the script, see `detect_language`.
        to: of the language to write; none: that of the text.
        seed: of the noise.
        max_sentences: a longer prompt is a mistake.
        codec: must read and write these languages; none: any language will do.

    Raises:
        UserError: no sentence with words in it, too many sentences, a script that leaves the language open, or a seed
            that no generator takes.
        CodecError: a language that the codec does not have.
    """
    check_seed(seed)
    whole = text if isinstance(text, str) else "\n".join(text)
    lang = lang or detect_language(whole, codec)
    if isinstance(text, str):
        check_prompt_length(
            -(-sum(map(len, paragraphs_of(text))) // MAX_CHARS), max_sentences, len(text)
        )  # spares segmenting
        sentences = segment(text, lang)
    else:
        sentences = [cleaned for sentence in text if (cleaned := " ".join(paragraphs_of(sentence)))]
    if not sentences:
        raise UserError("the prompt has no sentence: give a text with words")
    check_prompt_length(len(sentences), max_sentences, len(whole))
    prompt = Prompt(tuple(sentences), lang, to or lang, seed)
    if codec is not None:
        check_languages(codec, prompt)
    return prompt


def check_seed(seed: object) -> int:
    """Return a seed that generators of noise take.

    Raises:
        UserError: it is none.
    """
    if type(seed) is not int or not 0 <= seed <= MAX_SEED:
        raise UserError(f"seed {seed!r} is not a whole number from 0 to {MAX_SEED}")
    return seed


def check_prompt_length(sentences: int, most: int | None, characters: int) -> None:
    """Make sure that a prompt is no longer than is wished; None: any length.

    Raises:
        UserError: it is.
    """
    if most is not None and sentences > most:
        raise UserError(
            f"the prompt has {characters:,} characters, {sentences:,} sentences or more, and max_prompt is {most}: "
            "give the last part of it, or allow more with --max-prompt"
        )


def check_languages(codec: Codec, prompt: Prompt) -> None:
    """Make sure that a codec reads a prompt's language and writes the one that is asked for.

    Raises:
        CodecError: it does not; with the languages that it has.
    """
    if codec.languages is not None:
        check_codec_language(codec, prompt.lang)
    check_codec_language(codec, prompt.to)
