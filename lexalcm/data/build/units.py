"""Units of work: a unit is a shard, and which documents are in it follows from what was segmented, before any of it is
embedded.

Which documents validate is decided by their ids alone: a document's position is its SHA-256 as a number in [0, 1), and
those below `validation` are held out. It stays on its side when the corpus grows, is reordered, or the seed changes.
Of the documents that have something to predict (two sentences) the lowest is always held out and the highest never, so
that both sides have one; where there are not two such, none is held out.

The size of a shard is known from its documents' numbers of sentences and their text, so that units can be cut, named
and handed out in advance; each is the same bytes whoever embeds it. The parts are read one at a time: the units of a
billion documents holds what the largest part has and a line a shard.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np

from lexalcm.config import NonNegativeInt, Settings
from lexalcm.data.batches.plan import MIN_SENTENCES
from lexalcm.data.build.segmented_store import Part, SegmentedStore
from lexalcm.data.format.manifest import Dtype
from lexalcm.data.format.shards import shard_name, size_at_most
from lexalcm.data.format.tar import TAR_BLOCK, npy_header, padded

SplitName = Literal["train", "validation"]
SPLITS: tuple[SplitName, ...] = ("train", "validation")


class Unit(Settings):
    """A shard to be made."""

    split: SplitName
    number: NonNegativeInt
    first: NonNegativeInt
    """Its first document, counted over all parts and both splits."""
    last: NonNegativeInt
    """Its last one; those of the other split between the two are not in it."""
    documents: NonNegativeInt = 0
    sentences: NonNegativeInt = 0

    @property
    def shard(self) -> str:
        """The file name of its shard, which is also its own name."""
        return shard_name(self.split, self.number)


class Division(Settings):
    """Which documents validate."""

    share: float
    lowest: int | None = None
    """The document that is held out in any case, counted over all parts."""
    highest: int | None = None
    """The document that never is."""

    def held_out(self, first: int, position: np.ndarray) -> np.ndarray:
        """Which of the documents `first`, `first` + 1, ... at these positions are held out: bool [documents]."""
        if self.lowest is None or self.highest is None:
            return np.zeros(len(position), dtype=bool)
        number = np.arange(first, first + len(position))
        return ((position < self.share) | (number == self.lowest)) & (number != self.highest)


class WorkUnits(Settings):
    """All units of a data set."""

    parts: list[NonNegativeInt]
    """Documents of each part."""
    dropped: NonNegativeInt
    """Documents without a sentence."""
    division: Division
    units: tuple[Unit, ...] = ()

    @property
    def sentences(self) -> int:
        """Sentences in all units."""
        return sum(unit.sentences for unit in self.units)


def divide(parts: Iterable[Part], share: float) -> WorkUnits:
    """Decide which documents validate; units are cut by `cut_units` once the codec is known.

    Args:
        parts: all parts, in order; read once.
        share: documents at positions below it are held out.
    """
    counts: list[int] = []
    dropped = first = usable = 0
    lowest, highest = (2.0, 0), (-1.0, 0)
    for part in parts:
        members = np.flatnonzero(part.n >= MIN_SENTENCES)
        usable += len(members)
        if len(members):
            position = part.position[members]
            low, high = int(position.argmin()), int(position.argmax())
            lowest = min(lowest, (float(position[low]), first + int(members[low])))
            highest = max(highest, (float(position[high]), first + int(members[high])))
        counts.append(len(part))
        dropped += part.dropped
        first += len(part)
    both = share > 0 and usable > 1
    division = Division(share=share, lowest=lowest[1] if both else None, highest=highest[1] if both else None)
    return WorkUnits(parts=counts, dropped=dropped, division=division)


def cut_units(work: WorkUnits, parts: Iterable[Part], dim: int, dtype: Dtype, shard_size: int) -> WorkUnits:
    """Fill shards with documents in their order, each until the next document would not fit.

    Args:
        work: what `divide` gave for the same parts.
        parts: all parts, in order; read once.
        dim: numbers of an embedding.
        dtype: their stored type.
        shard_size: bytes; only a single document may make a shard larger.
    """
    queues = {split: _Queue(split, shard_size) for split in SPLITS}
    first = 0
    for part in parts:
        held_out = work.division.held_out(first, part.position)
        size, advance = _sizes(part, dim, dtype)
        for split, queue in queues.items():
            members = np.flatnonzero(held_out == (split == "validation"))
            queue.add(first + members, size[members], advance[members], part.n[members])
        first += len(part)
    return work.model_copy(update={"units": tuple(unit for queue in queues.values() for unit in queue.finish())})


def read_unit(work: WorkUnits, unit: Unit, store: SegmentedStore) -> Iterator[dict[str, Any]]:
    """The documents of a unit, in order."""
    yield from _read(work, unit.split, unit.first, unit.last, store)


def training_documents(work: WorkUnits, store: SegmentedStore) -> Iterator[dict[str, Any]]:
    """All documents that are not held out, in order: what a codec is fitted on."""
    yield from _read(work, "train", 0, sum(work.parts) - 1, store)


def _read(work: WorkUnits, split: SplitName, first: int, last: int, store: SegmentedStore) -> Iterator[dict[str, Any]]:
    start = 0
    for number, count in enumerate(work.parts):
        if count and start <= last and first < start + count:
            part = store.part(number)
            wanted = work.division.held_out(start, part.position) == (split == "validation")
            wanted[: max(0, first - start)] = False
            wanted[max(0, last + 1 - start) :] = False
            yield from store.read(number, part, np.flatnonzero(wanted).tolist())
        start += count


def _sizes(part: Part, dim: int, dtype: Dtype) -> tuple[np.ndarray, np.ndarray]:
    """Bytes that each document may take of a shard, and that it takes: int64 [documents] each."""
    lengths, inverse = np.unique(part.n, return_inverse=True)
    at_most = np.array([size_at_most(0, n, dim, dtype) for n in lengths.tolist()], np.int64)
    itemsize = np.dtype(dtype).itemsize
    numbers = [padded(len(npy_header(n, dim, dtype)) + n * dim * itemsize) for n in lengths.tolist()]
    text = -(-part.text_bytes // TAR_BLOCK) * TAR_BLOCK
    return at_most[inverse] + part.text_bytes, np.array(numbers, np.int64)[inverse] + text + 2 * TAR_BLOCK


class _Queue:
    """Fills the shards of one split, part after part."""

    def __init__(self, split: SplitName, shard_size: int) -> None:
        self.split = split
        self.shard_size = shard_size
        self.done: list[Unit] = []
        self.open: Unit | None = None
        self.filled = 0

    def add(self, document: np.ndarray, size: np.ndarray, advance: np.ndarray, n: np.ndarray) -> None:
        """Add documents: their numbers, what they may take of a shard, what they take, their sentences."""
        before = np.cumsum(advance) - advance
        sentences = np.concatenate([[0], np.cumsum(n, dtype=np.int64)])
        # Ascending: a document's size is above what it takes by less than two blocks, and each takes four at least.
        reach = before + size
        i = 0
        while i < len(document):
            fits = int(np.searchsorted(reach, self.shard_size - self.filled + before[i], side="right"))
            if self.open is None:
                fits = max(fits, i + 1)
                self.open = Unit(split=self.split, number=len(self.done), first=int(document[i]), last=0)
                self.filled = 0
            if fits > i:
                self.open = self.open.model_copy(
                    update={
                        "last": int(document[fits - 1]),
                        "documents": self.open.documents + fits - i,
                        "sentences": self.open.sentences + int(sentences[fits] - sentences[i]),
                    }
                )
                self.filled += int(before[fits - 1] + advance[fits - 1] - before[i])
            if fits < len(document):
                self.done.append(self.open)
                self.open, self.filled = None, 0
            i = max(i, fits)

    def finish(self) -> list[Unit]:
        """All units of the split."""
        return [*self.done, self.open] if self.open is not None else self.done
