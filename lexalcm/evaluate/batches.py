"""Which concepts are compared with which: the evaluation batches of contrastive accuracy.

Documents are taken in the order of the split, one after another, until a batch holds at least `size` concepts; what
is left over at the end joins the batch before. So every batch holds at least `size` concepts (unless the whole split
holds fewer), no document is divided, and the same documents and size always give the same batches. The order matters
to the number: a corpus keeps related documents together, and telling apart what is related is harder.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lexalcm.data.dataset import Split


@dataclass(frozen=True)
class EvaluationBatch:
    """Some whole documents, without padding."""

    embeddings: np.ndarray  # float32 [n, dim], documents one after another
    documents: np.ndarray  # int64 [n], 0, 1, 2, ... within the batch
    positions: np.ndarray  # int64 [n], from 0 in each document

    @property
    def targets(self) -> np.ndarray:
        """Which concepts are predicted: all but the first of each document, bool [n]."""
        return self.positions > 0


def group_documents(lengths: np.ndarray, size: int) -> list[np.ndarray]:
    """Group documents, in order, into batches of at least `size` concepts: int64 document numbers per batch."""
    ends: list[int] = []
    held = 0
    for document, length in enumerate(lengths):
        held += int(length)
        if held >= size:
            ends.append(document + 1)
            held = 0
    if held or not ends:
        ends[-1:] = [len(lengths)]
    return np.split(np.arange(len(lengths)), ends[:-1])


def read_batches(split: Split, documents: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, EvaluationBatch]]:
    """Read the given documents of a split batch by batch: (places within `documents`, batch)."""
    for group in group_documents(split.lengths[documents], size):
        arrays = [np.asarray(split.embeddings(int(document)), dtype=np.float32) for document in documents[group]]
        lengths = [len(array) for array in arrays]
        yield (
            group,
            EvaluationBatch(
                embeddings=np.concatenate(arrays),
                documents=np.repeat(np.arange(len(arrays)), lengths),
                positions=np.concatenate([np.arange(length) for length in lengths]),
            ),
        )
