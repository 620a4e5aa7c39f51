"""Embedded units become shards, one unit after another: written, put in place, recorded."""

from contextlib import ExitStack
from pathlib import Path

from lexalcm.data.build.document_groups import Group
from lexalcm.data.build.units import Unit
from lexalcm.data.format.manifest import Dtype
from lexalcm.data.format.shards import ShardFile, document_json, read_shard, stored_numbers
from lexalcm.io.atomic import place_first, scratch_file, write_text


def record_file(records: Path, unit: Unit) -> Path:
    """Where the record of a unit's shard is, in the folder of all of them."""
    return records / f"{unit.shard}.json"


class UnitWriter:
    """Writes units whose groups come one behind another. One thread at a time may use it."""

    def __init__(self, out: Path, records: Path, dtype: Dtype, *, text: bool) -> None:
        """Begin with no unit.

        Args:
            out: the data set's folder.
            records: where shards are written first, and where what is known of them goes.
            dtype: type of the numbers as stored.
            text: whether the sentences are stored.
        """
        self.out = out
        self.records = records
        self.dtype: Dtype = dtype
        self.text = text
        self._unit: Unit | None = None
        self._scratch = ExitStack()

    def add(self, group: Group) -> list[int]:
        """Write a group of a unit's documents; the unit before it is put in its place. Gives each one's sentences.

        Raises:
            DataError: a number that is not finite, or too large for the stored type.
        """
        if group.unit != self._unit:
            self.finish()
            self._path = self._scratch.enter_context(scratch_file(self.records / group.unit.shard))
            self._shard = ShardFile(self._path, group.unit.number, self.dtype)
            self._unit = group.unit
        vectors = [group.embeddings[i] for i in range(len(group.documents))]
        for document, embeddings in zip(group.documents, vectors, strict=True):
            numbers = stored_numbers(embeddings, self.dtype, document["id"])
            self._shard.add(document, document_json(document, text=self.text), numbers)
        return [len(embeddings) for embeddings in vectors]

    def finish(self) -> None:
        """Put the last unit's shard and its record in their places, unless another worker has put its own there."""
        if self._unit is None:
            return
        unit, self._unit = self._unit, None
        with self._scratch:
            finished = self._shard.close(unit.shard)
            if not place_first(self._path, self.out / unit.shard):
                finished = read_shard(self.out / unit.shard)
        write_text(record_file(self.records, unit), finished.to_json())

    def close(self) -> None:
        """Remove what is written of a unit that will not be finished."""
        self._scratch.close()
