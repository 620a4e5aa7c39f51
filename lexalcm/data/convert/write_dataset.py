"""Write blocks as a data set of ours."""

from pathlib import Path

import numpy as np

from lexalcm.data.build.units import SPLITS, SplitName
from lexalcm.data.convert.blocks import Block
from lexalcm.data.format.manifest import Dtype, SplitRecord
from lexalcm.data.format.shards import ShardWriter


class DatasetSink:
    """Writes the shards of all splits."""

    def __init__(self, folder: Path, dtype: Dtype, shard_size: int, *, text: bool) -> None:
        self.folder = folder
        self.dtype = dtype
        self.shard_size = shard_size
        self.text = text
        self.writers: dict[SplitName, ShardWriter] = {}

    def write(self, block: Block) -> None:
        """Write a block whose numbers are as they are stored, and finite."""
        ends = np.cumsum(block.n).tolist()
        for document, split, n, end in zip(block.documents, block.splits, block.n.tolist(), ends, strict=True):
            if split not in self.writers:
                self.writers[split] = ShardWriter(self.folder, split, self.dtype, self.shard_size, text=self.text)
            self.writers[split].add_stored(document, block.vectors[end - n : end])

    def close(self) -> dict[SplitName, SplitRecord]:
        """Finish all shards and write the indices."""
        return {split: self.writers[split].close() for split in SPLITS if split in self.writers}
