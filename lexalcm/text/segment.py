"""Text to sentences: the units that a codec turns into concepts.

A line is a paragraph, and no sentence crosses it. A `Segmenter` splits the paragraph (`segmenters` has several);
sentences too short to mean much are joined with a neighbour if that is wished; a sentence above the cap is then cut
where it hurts least, because encoders of sentences lose the end of long ones (the LCM paper caps at 250 characters,
section 2.2.1). What it costs: whitespace is normalised (every run becomes one space) and control characters
become spaces. Nothing else is lost or changed, and no cut falls inside a grapheme that fits into the cap.

A text has a sentence if it has anything to say: words, but also `?!`, `$`, `∑ = ∞` or `……`, and any single character.
What has none is blank, or decoration: several of the characters that rules are drawn with and no other, as in `* * *`
(and `!!!`, of which a row says no more than that). Of other texts, lines of such characters are left out, and so are
invisible characters that stand alone; within a line, decoration and the mark of an item (`1.`, `II.`, `a)`) are part of
the sentence beside them, whoever segments.
"""

from collections.abc import Sequence
from typing import Protocol

import regex
import sentencex

from lexalcm.text.languages import iso_code
from lexalcm.text.sentence_ends import join_pieces, repair_cuts

MAX_CHARS = 250
"""Characters (code points) that a sentence may have before it is cut."""

_LINE_END = regex.compile(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+")
_BLANK = regex.compile(r"[\s\p{Cc}\ufeff]+")  # control characters and stray byte order marks count as blank
_SURROGATE = regex.compile(r"\p{Cs}")  # from broken escapes in JSON; UTF-8 cannot carry them
_GRAPHEME = regex.compile(r"\X")
_INVISIBLE = r"\p{Cf}\p{Default_Ignorable_Code_Point}\u2800"
_INVISIBLE_WORD = regex.compile(f"(?:^| )[ {_INVISIBLE}]*[{_INVISIBLE}](?= |$)")
_UNSEEN = rf"\s\p{{Cc}}\p{{Cs}}\p{{Mn}}\p{{Me}}{_INVISIBLE}"
_SEEN = regex.compile(f"[^{_UNSEEN}]")
_RULED = r"\-‐-―_=~*#.·•+|!:`\u2500-\u25ff★☆※⁂＊＿－＝～〜＃｜＋．・"  # what rules are drawn with
_SAYS = regex.compile(f"[^{_UNSEEN}{_RULED}]")

_ITEM_MARK = regex.compile(
    r"(?:[#§№]?\s?[(（\[]?(?:(?:\p{Nd}{1,3}[.．])*\p{Nd}{1,3}|\p{L}\p{M}*|[IVXLCDM]+|[ivxlcdm]+|[一二三四五六七八九十百]+)[.．)）\]]+\s*)+"
)
"""A piece that is only this, in full, says which item comes next."""

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
    """Splits paragraphs into sentences."""

    def split(self, paragraphs: Sequence[str], lang: str) -> list[list[str]]:
        """Split paragraphs of one language, whose only whitespace is single spaces.

        Many come at once, for those that compute in batches. The pieces of a paragraph, put together, are it.
        """
        ...


class SentencexSegmenter:
    """Rules of the `sentencex` library: offline, about 30 languages of its own and English rules for the rest."""

    def split(self, paragraphs: Sequence[str], lang: str) -> list[list[str]]:
        """Split at sentence ends that are not abbreviations, numbers or open quotations."""
        code = iso_code(lang)
        return [repair_cuts(sentencex.segment(code, paragraph), code) for paragraph in paragraphs]


def segment(
    text: str,
    lang: str,
    *,
    max_chars: int = MAX_CHARS,
    min_chars: int = 1,
    segmenter: Segmenter | None = None,
    join_lines: bool = False,
) -> list[str]:
    """Split a text into its sentences: `segment_texts` of one."""
    [sentences] = segment_texts(
        [(text, lang)], max_chars=max_chars, min_chars=min_chars, segmenter=segmenter, join_lines=join_lines
    )
    return sentences


def segment_texts(
    texts: Sequence[tuple[str, str]],
    *,
    max_chars: int = MAX_CHARS,
    min_chars: int = 1,
    segmenter: Segmenter | None = None,
    join_lines: bool = False,
) -> list[list[str]]:
    """Split texts into their sentences; the segmenter gets all paragraphs of a language at once.

    Args:
        texts: (any text, its SONAR code).
        max_chars: longer sentences are cut.
        min_chars: shorter sentences are joined with the next one of their paragraph, else with the one before, unless
            the two are above `max_chars`. One that is alone in its paragraph stays.
        segmenter: who finds the sentences; default `SentencexSegmenter`.
        join_lines: a single line end is a space, and only an empty line ends a paragraph (text wrapped by hand).

    Returns:
        For each text its non-empty sentences in order, without blanks around them; none if it is blank or decoration.
    """
    segmenter = segmenter or SentencexSegmenter()
    of_language: dict[str, list[tuple[int, str]]] = {}
    for number, (text, lang) in enumerate(texts):
        of_language.setdefault(lang, []).extend((number, paragraph) for paragraph in paragraphs_of(text, join_lines))
    sentences: list[list[str]] = [[] for _ in texts]
    for lang, paragraphs in of_language.items():
        split = segmenter.split([paragraph for _, paragraph in paragraphs], lang)
        for (number, paragraph), pieces in zip(paragraphs, split, strict=True):
            whole = join_pieces(_whole_graphemes(paragraph, pieces), _is_one_sentence)
            for piece in _join_short(whole, min_chars, max_chars):
                sentences[number] += cut_long(piece.strip(), max_chars)
    return sentences


def paragraphs_of(text: str, join_lines: bool = False) -> list[str]:
    """The lines of a text that say something, whitespace, control and invisible characters cleaned."""
    says = _SAYS if _SAYS.search(text) else _SEEN
    if says is _SEEN and len(_SEEN.findall(text)) != 1:
        return []
    if join_lines:
        text = regex.sub(r"[^\n]+", lambda line: line[0] if says.search(line[0]) else "", text.replace("\r\n", "\n"))
        text = regex.sub(r"(?<!\n)\n(?!\n)", " ", text)
    lines = (_BLANK.sub(" ", line) for line in _LINE_END.split(_SURROGATE.sub("\ufffd", text)))
    return [_INVISIBLE_WORD.sub("", line).strip() for line in lines if says.search(line)]


def _is_one_sentence(before: str, piece: str) -> bool:
    """Whether a cut between two pieces of a paragraph leaves one of them with nothing to say."""
    return not (_SAYS.search(before) and _SAYS.search(piece)) or _ITEM_MARK.fullmatch(before) is not None


def cut_long(sentence: str, max_chars: int = MAX_CHARS) -> list[str]:
    """Cut a sentence into pieces of similar length, none above `max_chars`.

    The sentence is halved (more exactly: divided so that the least number of pieces suffices) at the best kind of
    boundary near the middle, and the halves again: behind a clause, behind a comma, at a space, between graphemes. A
    single grapheme above the cap, a letter under hundreds of accents, is cut between its code points.
    """
    if len(sentence) <= max_chars:
        return [sentence] if sentence else []
    graphemes = {match.end() for match in _GRAPHEME.finditer(sentence)} - {len(sentence)}
    if not graphemes:
        parts = (sentence[start : start + max_chars].strip() for start in range(0, len(sentence), max_chars))
        return [part for part in parts if part]
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


def _join_short(pieces: list[str], min_chars: int, max_chars: int) -> list[str]:
    """Join pieces of a paragraph that are shorter than `min_chars` with a neighbour, where both fit into the cap."""
    if min_chars <= 1 or len(pieces) < 2:
        return pieces

    def fit(before: str, piece: str) -> bool:
        return len((before + piece).strip()) <= max_chars

    with_next = join_pieces(pieces, lambda before, piece: len(before.strip()) < min_chars and fit(before, piece))
    return join_pieces(with_next, lambda before, piece: len(piece.strip()) < min_chars and fit(before, piece))


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
