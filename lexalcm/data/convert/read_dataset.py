"""Read one of our own data sets as blocks, for another shape of it: shard size, type, fewer languages, no text."""

from collections.abc import Iterator

import numpy as np

from lexalcm.data.build.units import SPLITS
from lexalcm.data.convert.blocks import BLOCK_BYTES, Block
from lexalcm.data.format.dataset import Dataset


class DatasetReader:
    """Reads a data set; its documents stay in their split."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def count(self) -> int:
        """Documents in all splits."""
        return sum(split.documents for split in self.dataset.manifest.splits.values())

    def __iter__(self) -> Iterator[Block]:
        for name in SPLITS:
            if name not in self.dataset.manifest.splits:
                continue
            split = self.dataset.split(name)
            sizes = split.lengths.astype(np.int64) * self.dataset.dim * split.dtype.itemsize
            block_of = np.cumsum(sizes) // BLOCK_BYTES
            starts = np.flatnonzero(np.diff(block_of, prepend=-1)).tolist()
            for start, end in zip(starts, [*starts[1:], len(split)], strict=True):
                rows = list(range(start, end))
                yield Block(
                    name,
                    rows,
                    [split.document(i) for i in rows],
                    [name] * len(rows),
                    split.lengths[start:end].astype(np.int64),
                    np.concatenate([split.embeddings(i) for i in rows]),
                )
