"""Sentences side by side in rows of tokens, rows in batches: an encoder computes next to no padding.

A batch of whole sentences costs its longest one times their number: in the order of a text, batches of 32 are more than
half padding. Sorted by length within a window it is less, but the larger the batch the more. Here a row of some hundred
tokens holds several sentences, the longest first, each in the first row with room for it, and attention stays inside
a sentence. What it costs: attention computes a whole row for each token, at 256 tokens about 3% of SONAR's work.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ROW = 256
"""Tokens of a row; longer where a sentence is."""

NOTHING = -1
"""Of a place in a row that no sentence fills."""


@dataclass(frozen=True)
class RowBatch:
    """Rows of tokens; R rows, L places, S sentences in the fullest row."""

    tokens: np.ndarray
    """int64 [R, L]"""
    sentence: np.ndarray
    """Which of its row's sentences a token belongs to, or NOTHING: int32 [R, L]."""
    position: np.ndarray
    """A token's place in its sentence, from 0: int64 [R, L]."""
    members: list[list[int]]
    """For each row the sentences in it, as places in what was packed."""


def pack_rows(lengths: np.ndarray, capacity: int) -> list[list[int]]:
    """Divide sentences among rows: longest first, each into the first row with room (first-fit decreasing).

    Args:
        lengths: tokens of each sentence, int [n], at most `capacity`.
        capacity: tokens of a row.

    Returns:
        For each row its sentences, as places in `lengths`; the first rows hold the longest.
    """
    room = np.full(len(lengths), capacity, dtype=np.int64)
    rows: list[list[int]] = []
    first = 0  # rows before it are full for every sentence still to come
    shortest = int(lengths.min()) if len(lengths) else 0
    for place in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[place])
        while first < len(rows) and room[first] < shortest:
            first += 1
        row = first + int(np.argmax(room[first : len(rows) + 1] >= length))
        if row == len(rows):
            rows.append([])
        rows[row].append(place)
        room[row] -= length
    return rows


def row_batches(sentences: Sequence[np.ndarray], max_tokens: int, pad: int) -> list[RowBatch]:
    """Pack sentences into batches of about `max_tokens` tokens.

    Args:
        sentences: token ids, int [tokens] each.
        max_tokens: of a batch; a row is always whole.
        pad: fills the ends of rows.
    """
    lengths = np.array([len(tokens) for tokens in sentences], dtype=np.int64)
    capacity = max(min(ROW, max_tokens), int(lengths.max(initial=0)))
    rows = pack_rows(lengths, capacity)
    count = max(1, max_tokens // capacity)
    return [_batch(sentences, rows[start : start + count], pad) for start in range(0, len(rows), count)]


def _batch(sentences: Sequence[np.ndarray], rows: list[list[int]], pad: int) -> RowBatch:
    longest = max(sum(len(sentences[place]) for place in row) for row in rows)
    tokens = np.full((len(rows), longest), pad, dtype=np.int64)
    sentence = np.full((len(rows), longest), NOTHING, dtype=np.int32)
    position = np.zeros((len(rows), longest), dtype=np.int64)
    for row, members in enumerate(rows):
        start = 0
        for number, place in enumerate(members):
            part = slice(start, start + len(sentences[place]))
            tokens[row, part] = sentences[place]
            sentence[row, part] = number
            position[row, part] = np.arange(len(sentences[place]))
            start = part.stop
    return RowBatch(tokens, sentence, position, rows)
