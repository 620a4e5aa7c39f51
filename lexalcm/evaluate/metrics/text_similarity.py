"""How alike two texts are, and how often a text repeats itself: ROUGE-L, chrF, repeated n-grams.

Tokens are runs of letters and digits, in small letters; in scripts that put no spaces between words (Chinese, Japanese,
Thai, Lao, Khmer, Burmese, Tibetan) each character, with its marks, is a token, also where the two are mixed. For plain
English these are the tokens of the package `rouge-score`; it knows no other letters than a to z.
"""

import unicodedata
from collections import Counter
from collections.abc import Sequence

import regex

from lexalcm.text.running_text import NO_SPACES

_LETTER = r"[\p{L}\p{M}\p{N}]"
_TOKEN = regex.compile(rf"(?=[\p{{L}}\p{{N}}]){NO_SPACES}\p{{M}}*|(?:(?!{NO_SPACES}){_LETTER})+")

CHRF_ORDER = 6
CHRF_BETA = 2
NGRAM = 4


def tokenize(text: str) -> list[str]:
    """The tokens of a text, see the module's beginning; full-width forms count as their usual ones (NFKC)."""
    return _TOKEN.findall(unicodedata.normalize("NFKC", text).lower())


def rouge_l(written: str, reference: str) -> float:
    """ROUGE-L (Lin 2004): F1 of the longest common subsequence of tokens, from 0 to 1; 0 where a text has none."""
    ours, theirs = tokenize(written), tokenize(reference)
    if not ours or not theirs:
        return 0.0
    common = _common_subsequence(ours, theirs)
    return 2 * common / (len(ours) + len(theirs))


def _common_subsequence(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence, by bits: a row of the table is one integer (Hyyrö 2004)."""
    places: dict[str, int] = {}
    for place, token in enumerate(one):
        places[token] = places.get(token, 0) | 1 << place
    everything = (1 << len(one)) - 1
    row = everything
    for token in other:
        matches = row & places.get(token, 0)
        row = ((row + matches) | (row - matches)) & everything
    return len(one) - row.bit_count()


def chrf(written: str, reference: str) -> float:
    """chrF (Popović 2015), from 0 to 100: F2 of precision and recall averaged over character n-grams of 1 to 6.

    Whitespace is left out, letters are kept as they are, orders longer than one of the texts do not count: as
    `sacrebleu` does by default.
    """
    ours, theirs = "".join(written.split()), "".join(reference.split())
    precisions, recalls = [], []
    for order in range(1, CHRF_ORDER + 1):
        mine, true = _ngrams(ours, order), _ngrams(theirs, order)
        if not mine or not true:
            break
        matches = sum(min(count, true[ngram]) for ngram, count in mine.items() if ngram in true)
        precisions.append(matches / mine.total())
        recalls.append(matches / true.total())
    if not any(precisions):
        return 0.0
    precision, recall = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    return 100 * (1 + CHRF_BETA**2) * precision * recall / (CHRF_BETA**2 * precision + recall)


def _ngrams(text: str, order: int) -> Counter[str]:
    return Counter(text[start : start + order] for start in range(len(text) - order + 1))


class RepeatedNgrams:
    """Counts how many n-grams of a growing text stand already in it; n-grams do not cross sentences.

    Over a whole text (from nothing) repeated / all is the rate 1 - distinct / all, "rep-4" of Welleck et al.,
    arXiv 1908.04319, by sentences.
    """

    def __init__(self, sentences: Sequence[str] = ()) -> None:
        """Begin with sentences that stand before."""
        self._seen: set[tuple[str, ...]] = set()
        for sentence in sentences:
            self.add(sentence)

    def add(self, sentence: str) -> tuple[int, int]:
        """Put a sentence at the end: (its n-grams that were there before, in it or in the text; all its n-grams)."""
        repeated, count = self.count(sentence)
        self._seen.update(_token_ngrams(sentence))
        return repeated, count

    def count(self, sentence: str) -> tuple[int, int]:
        """As `add`, of a sentence that is not put there."""
        ngrams = _token_ngrams(sentence)
        new = set(ngrams) - self._seen
        return len(ngrams) - len(new), len(ngrams)


def _token_ngrams(sentence: str) -> list[tuple[str, ...]]:
    tokens = tokenize(sentence)
    return [tuple(tokens[start : start + NGRAM]) for start in range(len(tokens) - NGRAM + 1)]
