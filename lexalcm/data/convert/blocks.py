"""Blocks of documents on their way from one layout to another, and the rows that are left out on it.

A block has some megabytes: its vectors lie in one array, so that a check or a cast is one call for thousands of them,
and what is done to it finds it in the processor's cache.
"""

import json
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Queue
from threading import Event, Thread
from typing import Any, TypeVar

import numpy as np
import torch

from lexalcm.data.build.units import SplitName
from lexalcm.data.format.manifest import Dtype

BLOCK_BYTES = 4 * 1024**2
"""Bytes of numbers that a block should have."""

_SMALLEST, _LARGEST = 1e-6, 1e9
"""Squared lengths between which a vector of up to 65504 in a place is finite and not zero, also in float16."""

_PIECE = 32768
"""Numbers that torch casts in the thread that asks for it: its own threads would take the cores from those that read
and write, and wait busily on them for more."""

T = TypeVar("T")


@dataclass
class Block:
    """Documents of one file, with all of their vectors."""

    file: str
    rows: list[int]
    """Each document's row in the file, from 0."""
    documents: list[dict[str, Any]]
    """`id`, `lang`, `title`, `sentences` (if they are read), the annotations that it has, `metadata`."""
    splits: list[SplitName]
    n: np.ndarray
    """int64 [documents], vectors of each."""
    vectors: np.ndarray
    """float [sum of n, dim]"""
    problems: list[tuple[int, str, str]] = field(default_factory=list)
    """Rows that were left out on the way here: row, kind of reason, detail."""
    filtered: int = 0
    """Rows that were not wanted."""

    def __len__(self) -> int:
        return len(self.documents)

    def choose(self, wanted: np.ndarray) -> "Block":
        """The documents where `wanted` [documents] is true."""
        if wanted.all():
            return self
        numbers = np.flatnonzero(wanted).tolist()
        return replace(
            self,
            rows=[self.rows[i] for i in numbers],
            documents=[self.documents[i] for i in numbers],
            splits=[self.splits[i] for i in numbers],
            n=self.n[wanted],
            vectors=self.vectors[np.repeat(wanted, self.n)],
        )


class LeftOut:
    """The report of rows that cannot be used: a JSON line each with file, row and reason."""

    def __init__(self, path: Path) -> None:
        """Note them at `path`, which is only made if there is one."""
        self.path = path
        self.reasons: Counter[str] = Counter()

    def add(self, block: Block) -> None:
        """Note a block's problems; rows are counted by the kind of their reason."""
        if not block.problems:
            return
        with self.path.open("a", encoding="utf-8") as lines:
            for row, kind, detail in sorted(block.problems):
                self.reasons[kind] += 1
                reason = f"{kind}: {detail}" if detail else kind
                lines.write(json.dumps({"file": block.file, "row": row, "reason": reason}, ensure_ascii=False) + "\n")

    @property
    def count(self) -> int:
        """Rows left out."""
        return self.reasons.total()


def as_stored(block: Block, dtype: Dtype) -> Block:
    """The block with its numbers as they are stored."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that torch cannot write into what it only reads
        numbers = torch.from_numpy(np.ascontiguousarray(block.vectors))
    stored = torch.empty(numbers.shape, dtype=getattr(torch, dtype))
    for piece, stored_piece in zip(numbers.view(-1).split(_PIECE), stored.view(-1).split(_PIECE), strict=True):
        stored_piece.copy_(piece)  # to float16 several times as fast as numpy, and the same
    return replace(block, vectors=stored.numpy().astype(np.dtype(dtype).newbyteorder("<"), copy=False))


def leave_out_unusable(block: Block, dtype: Dtype) -> Block:
    """Leave out documents with a vector that is NaN, infinite or zero, also once it is stored as `dtype`.

    One pass over the numbers finds the vectors whose length is unusual; only those are looked at closely.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.einsum("ij,ij->i", block.vectors, block.vectors, dtype=np.float32, casting="same_kind")
    suspects = np.flatnonzero(~((squares > _SMALLEST) & (squares < _LARGEST)))
    wanted = np.ones(len(block), dtype=bool)
    problems = list(block.problems)
    if len(suspects):
        document_of = np.repeat(np.arange(len(block)), block.n)
        first = np.cumsum(block.n) - block.n
        for vector in suspects.tolist():
            document = int(document_of[vector])
            reason = _reason(block.vectors[vector], dtype)
            if reason and wanted[document]:
                wanted[document] = False
                problems.append((block.rows[document], reason, f"sentence {vector - first[document]}"))
    return replace(block.choose(wanted), problems=problems)


def _reason(vector: np.ndarray, dtype: Dtype) -> str | None:
    if np.isnan(vector).any():
        return "NaN"
    if np.isinf(vector).any():
        return "infinity"
    with np.errstate(over="ignore", under="ignore"):
        stored = vector.astype(dtype)
    if np.isinf(stored).any():
        return f"too large for {dtype}"
    if not stored.any():
        return "zero vector"
    return None


def read_ahead(items: Iterable[T], depth: int = 1) -> Iterator[T]:
    """The same items, read in a thread of its own while the last ones are worked on."""
    queue: Queue[tuple[bool, Any]] = Queue(depth)
    stopped = Event()

    def fill() -> None:
        try:
            for item in items:
                queue.put((True, item))
                if stopped.is_set():
                    return
            queue.put((False, None))
        except BaseException as error:  # noqa: BLE001  it is raised where the items are used
            queue.put((False, error))

    thread = Thread(target=fill, daemon=True)
    thread.start()
    try:
        while True:
            there, item = queue.get()
            if there:
                yield item
            elif item is None:
                return
            else:
                raise item
    finally:
        stopped.set()
        while thread.is_alive():
            if not queue.empty():
                queue.get()
            thread.join(timeout=0.01)
