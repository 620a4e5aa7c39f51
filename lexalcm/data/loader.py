"""Batches of concepts: the plan's rows, read from the shards by offset.

A rank reads micro-batches `rank, rank + world_size, ...` of each step. The plan is evaluated in the main process; a
loader process gets the windows of a micro-batch, copies their numbers out of the mapped shards and turns them into
float32. Nothing is shuffled in memory and nothing is kept between batches, so starting at step 10,000 costs what
starting at step 0 does.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import count

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as MapDataset

from lexalcm.config import DataSettings
from lexalcm.data.dataset import Dataset, Split
from lexalcm.data.plan import FixedPlan, PackedRows, TrainingPlan, Windows, concept_counts
from lexalcm.errors import ConfigError

Planned = tuple[int, list[Windows]]
"""A micro-batch's number and what stands in each of its rows."""


@dataclass(frozen=True)
class Batch:
    """One micro-batch of packed rows."""

    embeddings: Tensor
    """float32 [rows, row_length, dim]; zeros where there is no concept."""
    documents: Tensor
    """int64 [rows, row_length]; 0, 1, 2, ... within the row, -1 where there is no concept."""
    positions: Tensor
    """int64 [rows, row_length]; counts from 0 in each document, 0 where there is no concept."""
    targets: Tensor
    """bool [rows, row_length]; where the loss counts: not a document's first concept and not where there is none."""
    number: int
    """Which micro-batch it is, counted from the start of training; seeds all that is random in it."""

    def to(self, device: torch.device | str) -> "Batch":
        """The batch on a device; does not wait for copies from pinned memory."""
        return Batch(
            **{name: x.to(device, non_blocking=True) for name, x in self.model_inputs().items()}, number=self.number
        )

    def pin_memory(self) -> "Batch":
        """The batch in memory that a GPU copies from at full speed; the `DataLoader` calls it."""
        return Batch(**{name: x.pin_memory() for name, x in self.model_inputs().items()}, number=self.number)

    def model_inputs(self) -> dict[str, Tensor]:
        """The tensors by the names of the model's arguments."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "number"}


class BatchReader(MapDataset):
    """Turns the windows of a micro-batch into its tensors; works in loader processes."""

    def __init__(self, split: Split, end_of_text: np.ndarray | None, row_length: int, micro_batch: int) -> None:
        """Prepare to read.

        Args:
            split: where the numbers are.
            end_of_text: [dim], ends every document, or None.
            row_length: positions in a row.
            micro_batch: rows in a batch; those that get no windows stay empty.
        """
        self.split = split
        self.end_of_text = None if end_of_text is None else end_of_text.astype(split.dtype)
        self.shape = (micro_batch, row_length)

    def __getitem__(self, planned: Planned) -> Batch:
        number, rows = planned
        embeddings = np.zeros((*self.shape, self.split.dim), self.split.dtype)
        documents = np.full(self.shape, -1, np.int64)
        positions = np.zeros(self.shape, np.int64)
        for row, windows in enumerate(rows):
            begin = 0
            for place, (document, start, length) in enumerate(zip(*map(np.ndarray.tolist, windows), strict=True)):
                end = begin + length
                self._read(document, start, embeddings[row, begin:end])
                documents[row, begin:end] = place
                positions[row, begin:end] = np.arange(length)
                begin = end
        return Batch(
            embeddings=torch.from_numpy(embeddings).float(),
            documents=torch.from_numpy(documents),
            positions=torch.from_numpy(positions),
            targets=torch.from_numpy(positions > 0),
            number=number,
        )

    def _read(self, document: int, start: int, out: np.ndarray) -> None:
        concepts = self.split.embeddings(document)[start : start + len(out)]
        out[: len(concepts)] = concepts
        if len(concepts) < len(out):
            out[-1] = self.end_of_text


class TrainingBatches:
    """The batches of a training: random access by number, and in order for one rank."""

    def __init__(self, dataset: Dataset, settings: DataSettings, seed: int) -> None:
        """Plan a training on the `train` split.

        Raises:
            ConfigError: a row length below 2.
            DataError: nothing to train on.
        """
        split = dataset.split("train")
        rows = PackedRows(concept_counts(split.lengths, settings.end_of_text), settings.row_length)
        self.settings = settings
        self.reader = _reader(dataset, split, settings)
        self.plan = TrainingPlan(rows, micro_batch=settings.micro_batch, global_batch=settings.global_batch, seed=seed)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in which every row is used once (but for the remainder, see `lexalcm.data.plan`)."""
        return self.plan.steps_per_epoch

    def targets_in_step(self, step: int) -> int:
        """Targets in all micro-batches of an optimizer step, whoever reads them; no data is read."""
        return self.plan.targets_in_step(step)

    def micro_batch(self, number: int) -> Batch:
        """Micro-batch `number` from the start of training; it belongs to step `number // global_batch`."""
        return self.reader[self._planned(number)]

    def iterate(
        self, first_step: int = 0, last_step: int | None = None, *, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]:
        """Yield a rank's micro-batches of the steps from `first_step` to before `last_step` (None: without end).

        Raises:
            ConfigError: `world_size` does not divide the global batch.
        """
        if self.settings.global_batch % world_size:
            raise ConfigError(
                f"data.global_batch={self.settings.global_batch} micro-batches cannot be shared out evenly to "
                f"{world_size} processes: make it a multiple of {world_size}"
            )
        numbers = self._numbers(first_step, last_step, rank, world_size)
        return _load(self.reader, map(self._planned, numbers), self.settings.num_workers)

    def _numbers(self, first_step: int, last_step: int | None, rank: int, world_size: int) -> Iterator[int]:
        size = self.settings.global_batch
        for step in count(first_step) if last_step is None else range(first_step, last_step):
            yield from range(step * size + rank, (step + 1) * size, world_size)

    def _planned(self, number: int) -> Planned:
        return number, self.plan.micro_batch_rows(number)


class ValidationBatches:
    """Every document of a split once, always in the same batches."""

    def __init__(self, dataset: Dataset, settings: DataSettings, split_name: str = "validation") -> None:
        """Plan a validation; documents are cut only where they are longer than a row. Raises as `TrainingBatches`."""
        split = dataset.split(split_name)
        rows = PackedRows(concept_counts(split.lengths, settings.end_of_text), settings.row_length, cut=False)
        self.settings = settings
        self.reader = _reader(dataset, split, settings)
        self.plan = FixedPlan(rows, micro_batch=settings.micro_batch)

    def __len__(self) -> int:
        return self.plan.micro_batches

    @property
    def targets(self) -> int:
        """Targets in all batches."""
        return int(self.plan.rows.targets.sum())

    def iterate(self, *, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        """Yield a rank's batches `rank, rank + world_size, ...`.

        Every rank gets as many, so that all may meet in collective operations; rows beyond the last are empty.
        """
        numbers = range(rank, -(-len(self) // world_size) * world_size, world_size)
        planned = ((number, self.plan.micro_batch_rows(number)) for number in numbers)
        return _load(self.reader, planned, self.settings.num_workers)


def _reader(dataset: Dataset, split: Split, settings: DataSettings) -> BatchReader:
    end_of_text = dataset.special_concepts()["end_of_text"] if settings.end_of_text else None
    return BatchReader(split, end_of_text, settings.row_length, settings.micro_batch)


def _load(reader: BatchReader, planned: Iterable[Planned], num_workers: int) -> Iterator[Batch]:
    return iter(
        DataLoader(
            reader,
            batch_size=None,
            sampler=planned,
            num_workers=num_workers,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # or it would draw from the default one, which belongs to the training
        )
    )
