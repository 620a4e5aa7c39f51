"""Sentences as running text, in scripts with and without spaces between words."""

from collections.abc import Sequence

import regex

NO_SPACES = r"[\p{Han}\p{Hiragana}\p{Katakana}ー\p{Bopomofo}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}]"
"""A letter of a script that puts no spaces between words."""
_UNSPACED = regex.compile(rf"{NO_SPACES}|[\u3000-\u303f\uff00-\uff65]")


def join_sentences(sentences: Sequence[str]) -> str:
    """Sentences as running text: with spaces between them, but in scripts that have none."""
    text = ""
    for sentence in sentences:
        touching = not text or _UNSPACED.search(text[-2:] + sentence[:1])
        text += sentence if touching else f" {sentence}"
    return text
