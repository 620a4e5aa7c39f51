"""Text to sentences: the units that a codec turns into concepts.

A line is a paragraph, and no sentence crosses it. A `Segmenter` splits the paragraph; a sentence above the cap is then
cut where it hurts least, because encoders of sentences lose the end of long ones (the LCM paper caps at 250
characters, section 2.2.1). What it costs: whitespace is normalised (every run becomes one space) and control characters
become spaces. Nothing else is lost or changed, and no cut falls inside a grapheme.
"""

from typing import Protocol

import regex
import sentencex

from lexalcm.data.languages import iso_code

MAX_CHARS = 250
"""Characters (code points) that a sentence may have before it is cut."""

_LINE_END = regex.compile(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+")
_BLANK = regex.compile(r"[\s\p{Cc}\ufeff]+")  # control characters and stray byte order marks count as blank
_SURROGATE = regex.compile(r"\p{Cs}")  # from broken escapes in JSON; UTF-8 cannot carry them
_GRAPHEME = regex.compile(r"\X")
_SPOKEN = regex.compile(r"[\p{L}\p{N}\p{So}]")

_CLOSING = r"[\"'”’»)\]}」』）】〉》]*"
_BOUNDARIES = tuple(
    regex.compile(pattern)
    for pattern in (
        rf"(?:[!?;:–—]|(?<=\p{{Ll}}{{3}})\.){_CLOSING}(?=\s)|[。！？；：…]+{_CLOSING}|—|--",  # clauses, no Mr.
        rf"[,،]{_CLOSING}(?=\s)|[、，]{_CLOSING}",  # within a clause
        r"\s",
        r"",  # anywhere
    )
)
"""Places to cut a long sentence, best first; the cut falls behind the match."""


class Segmenter(Protocol):
    """Splits a paragraph into sentences."""

    name: str

    def split(self, paragraph: str, lang: str) -> list[str]:
        """Split one paragraph, whose only whitespace is single spaces, into pieces whose concatenation it is."""
        ...


class SentencexSegmenter:
    """Rules of the `sentencex` library: offline, about 30 languages of its own and English rules for the rest."""

    name = "sentencex"

    def split(self, paragraph: str, lang: str) -> list[str]:
        """Split at sentence ends that are no abbreviations, numbers or open quotations."""
        return sentencex.segment(iso_code(lang), paragraph)


def segment(
    text: str, lang: str, *, max_chars: int = MAX_CHARS, segmenter: Segmenter | None = None, join_lines: bool = False
) -> list[str]:
    """Split a text into its sentences.

    Args:
        text: any text.
        lang: its SONAR code.
        max_chars: longer sentences are cut; only a single grapheme may be longer.
        segmenter: who finds the sentences; default `SentencexSegmenter`.
        join_lines: a single line end is a space, and only an empty line ends a paragraph (text wrapped by hand).

    Returns:
        Non-empty sentences in order, without blanks around them; none if the text has no letter, digit or symbol.
    """
    if not _SPOKEN.search(text):
        return []
    segmenter = segmenter or SentencexSegmenter()
    if join_lines:
        text = regex.sub(r"(?<!\n)\n(?!\n)", " ", text.replace("\r\n", "\n"))
    sentences: list[str] = []
    for line in _LINE_END.split(_SURROGATE.sub("\ufffd", text)):
        paragraph = _BLANK.sub(" ", line).strip()
        if paragraph:
            for sentence in _whole_graphemes(paragraph, segmenter.split(paragraph, lang)):
                sentences += cut_long(sentence.strip(), max_chars)
    return [sentence for sentence in sentences if sentence]


def cut_long(sentence: str, max_chars: int = MAX_CHARS) -> list[str]:
    """Cut a sentence into pieces of similar length, none above `max_chars` unless it is a single grapheme.

    The sentence is halved (more exactly: divided so that the least number of pieces suffices) at the best kind of
    boundary near the middle, and the halves again: behind a clause, behind a comma, at a space, between graphemes.
    """
    if len(sentence) <= max_chars:
        return [sentence] if sentence else []
    graphemes = {match.end() for match in _GRAPHEME.finditer(sentence)} - {len(sentence)}
    if not graphemes:
        return [sentence]
    pieces = -(-len(sentence) // max_chars)
    middle = len(sentence) * (pieces // 2) / pieces
    reach = len(sentence) / (2 * pieces)
    for boundary in _BOUNDARIES:
        places = {match.end() for match in boundary.finditer(sentence)} & graphemes
        near = [place for place in places if abs(place - middle) <= reach]
        if near:
            break
    else:
        near = list(graphemes)
    cut = min(near, key=lambda place: (abs(place - middle), place))
    return cut_long(sentence[:cut].strip(), max_chars) + cut_long(sentence[cut:].strip(), max_chars)


def _whole_graphemes(paragraph: str, sentences: list[str]) -> list[str]:
    """Move no character; take back the splits that fall inside a grapheme."""
    if paragraph.isascii():
        return sentences
    whole: list[str] = []
    end = 0
    for sentence in sentences:
        if end and _GRAPHEME.match(paragraph, end - 1).end() != end:
            whole[-1] += sentence
        else:
            whole.append(sentence)
        end += len(sentence)
    return whole
