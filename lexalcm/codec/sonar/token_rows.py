"""Sentences one behind another in batches of tokens: linear layers and norms compute no padding at all.

A batch of sentences padded to its longest is more than half padding in the order of a text. Here the tokens of a batch
are one sequence without gaps; only attention has to know where sentences begin. The longest come first, so that those
beside each other are about as long, and whoever has to pad them for attention (see `length_groups`) pads little.

N tokens, S sentences.
"""

from dataclasses import dataclass

import numpy as np

GROUP_RATIO = 0.8
"""How much shorter than the longest of its group a sentence may be ..."""

GROUP_SLACK = 4
"""... and how many tokens more, so that short sentences, which cost attention nothing, are not scattered."""


@dataclass(frozen=True)
class TokenBatch:
    """Some sentences' tokens, the longest sentence first."""

    tokens: np.ndarray
    """int32 [N]"""
    position: np.ndarray
    """A token's place in its sentence, from 0: int32 [N]."""
    offsets: np.ndarray
    """Where sentences begin, and the end: int32 [S + 1]."""
    places: np.ndarray
    """Of the sentences, in what was packed: int64 [S]."""

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sentence, int32 [S]."""
        return np.diff(self.offsets)


def token_batches(tokens: np.ndarray, lengths: np.ndarray, max_tokens: int) -> list[TokenBatch]:
    """Divide sentences among batches of about equal size, at most `max_tokens` unless one sentence is longer.

    Args:
        tokens: of all sentences, one behind another, int32 [N].
        lengths: tokens of each sentence, int64 [n].
        max_tokens: of a batch.
    """
    order = np.argsort(-lengths, kind="stable")
    starts = (np.cumsum(lengths) - lengths)[order]
    ordered = lengths[order]
    batches = []
    for part in _even_parts(ordered, max_tokens):
        offsets = np.concatenate([[0], np.cumsum(ordered[part])])
        position = np.arange(offsets[-1]) - np.repeat(offsets[:-1], ordered[part])
        source = np.repeat(starts[part], ordered[part]) + position
        batches.append(
            TokenBatch(
                tokens[source], position.astype(np.int32), offsets.astype(np.int32), order[part].astype(np.int64)
            )
        )
    return batches


def length_groups(lengths: np.ndarray) -> list[slice]:
    """Sentences of about the same length, to be padded to the longest of them.

    Args:
        lengths: tokens of each sentence, the longest first, int [S].

    Returns:
        Slices of sentences that together are all of them, in order.
    """
    groups = []
    start = 0
    while start < len(lengths):
        shortest = GROUP_RATIO * lengths[start] - GROUP_SLACK
        end = start + int(np.searchsorted(-lengths[start:], -shortest, side="right"))
        groups.append(slice(start, end))
        start = end
    return groups


def _even_parts(lengths: np.ndarray, max_tokens: int) -> list[slice]:
    """Slices of sentences with at most that many tokens; as few as will do, and as equal as whole sentences allow."""
    parts = []
    ends = np.cumsum(lengths)
    start = done = 0
    while start < len(lengths):
        left = int(ends[-1]) - done
        share = -(-left // max(1, -(-left // max_tokens)))
        end = max(start + 1, int(np.searchsorted(ends, done + share, side="right")))
        parts.append(slice(start, end))
        start, done = end, int(ends[end - 1])
    return parts
