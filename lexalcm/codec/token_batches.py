"""Sequences of similar length in one batch, batches of similar cost.

A batch costs what its padded size is. Sorted by length, a window of some thousand sentences pads to within a few
percent of its tokens; in the order of the text, batches of 32 sentences are more than half padding.
"""

from collections.abc import Iterator

import numpy as np

WINDOW = 4096
"""Sentences that are sorted together: enough for batches without padding, few enough to stay in memory as tokens."""


def token_batches(lengths: np.ndarray, max_tokens: int) -> Iterator[np.ndarray]:
    """Divide sequences into batches, longest first: what fits into memory at all fits at the start.

    Args:
        lengths: tokens of each sequence, int [n].
        max_tokens: longest times number of sequences in a batch; a sequence longer than it makes a batch alone.

    Yields:
        The sequences of a batch as places in `lengths`, int [members], sorted by falling length.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        members = max(1, max_tokens // max(1, int(lengths[order[start]])))
        yield order[start : start + members]
        start += members
