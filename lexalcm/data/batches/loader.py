"""Batches of concepts: the plan's rows, read from the shards by offset.

A rank reads micro-batches `rank, rank + world_size, ...` of each step. The plan is evaluated in the main process; a
loader process gets the windows of a micro-batch and copies their numbers out of the mapped shards, in the type that
they are stored in: half the bytes to pin and to send to a GPU, where they become float32. Nothing is shuffled in memory
and nothing is kept between batches, so starting at step 10,000 costs what starting at step 0 does.

A shard that is missing or damaged stops the training, or, with `data.on_bad_shard=skip`, leaves gaps where its
documents would be. The plan does not change with it, so that ranks need not agree on which shards are bad, and a
repaired shard is simply read again; each batch says how many documents and targets it lacks.
"""

import time
from collections.abc import Iterable, Iterator
from itertools import count

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as MapDataset

from lexalcm.data.batches.batch import Batch
from lexalcm.data.batches.mixture import TRAIN_SPLIT, Mixture, Part
from lexalcm.data.batches.plan import FixedPlan, PackedRows, TrainingPlan, Windows
from lexalcm.data.batches.windows import group_by
from lexalcm.data.format.dataset import Split
from lexalcm.data.settings import DataSettings
from lexalcm.errors import ConfigError, LexaError, ShardError

_SECONDS_TO_END = 2.0
"""In which torch, once a loader process does not answer, raises the error that says how it ended."""

Planned = tuple[int, Windows]
"""A micro-batch's number and what stands in its rows."""


class BatchReader(MapDataset):
    """Turns the windows of a micro-batch into its tensors; works in loader processes."""

    def __init__(self, parts: list[Part], settings: DataSettings) -> None:
        """Prepare to read a split of each data set; rows that get no windows stay empty."""
        self.splits: list[Split] = [part.split for part in parts]
        self.spans = {i: part.documents.targets for i, part in enumerate(parts) if part.documents.targets is not None}
        """Of data sets with conversations, which of their concepts are targets."""
        self.sets = [part.documents for part in parts]
        self.prefixes = np.array([len(part.prefix) for part in parts])
        self.special = np.concatenate([vectors for part in parts for vectors in (part.prefix, part.suffix)])
        """Special concepts of all data sets, those before a document and those behind it: [n, dim]."""
        counts = [len(vectors) for part in parts for vectors in (part.prefix, part.suffix)]
        self.special_starts = (np.cumsum(counts) - counts).reshape(-1, 2)
        self.dim = self.special.shape[1]
        self.shape = (settings.micro_batch, settings.row_length)
        self.skip = settings.on_bad_shard == "skip"

    def __getitem__(self, planned: Planned) -> Batch:
        """Read a micro-batch.

        Raises:
            ShardError: a shard cannot be read and is not to be skipped.
        """
        number, windows = planned
        begins = windows.row * self.shape[1] + windows.begin
        documents, positions, targets = self._places(windows, begins)
        out = np.empty((len(documents), self.dim), self.special.dtype)  # torch.empty hands out memory more slowly
        out[np.flatnonzero(documents < 0)] = 0
        skipped: list[int] = []
        for data_set, split in enumerate(self.splits):
            mine = np.flatnonzero(windows.data_set == data_set)
            if len(mine) == len(begins):
                skipped += self._read(data_set, split, windows, begins, out)
            elif len(mine):
                own = Windows(*(column[mine] for column in windows))
                skipped += mine[self._read(data_set, split, own, begins[mine], out)].tolist()
        for window in skipped:
            places = slice(int(begins[window]), int(begins[window] + windows.length[window]))
            out[places], documents[places], positions[places], targets[places] = 0, -1, 0, False
        return Batch(
            embeddings=torch.from_numpy(out.reshape(*self.shape, self.dim)),
            documents=torch.from_numpy(documents.reshape(self.shape)),
            positions=torch.from_numpy(positions.reshape(self.shape)),
            targets=torch.from_numpy(targets.reshape(self.shape)),
            number=number,
            skipped=self._documents_begun(windows, skipped),
            missing_targets=int(windows.targets[skipped].sum()),
        )

    def _places(self, windows: Windows, begins: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Document, position and whether it is a target, of every place in the rows, one row behind the other."""
        size = self.shape[0] * self.shape[1]
        documents, positions, targets = np.full(size, -1, np.int64), np.zeros(size, np.int64), np.zeros(size, bool)
        window, position = _enumerate(windows.length)
        at = position + begins[window]
        documents[at] = windows.place[window]
        positions[at] = position
        targets[at] = position >= windows.context[window]
        for data_set, spans in self.spans.items():
            mine = np.flatnonzero(windows.data_set[window] == data_set)
            document = windows.document[window[mine]]
            place = windows.start[window[mine]] + position[mine] - self.prefixes[data_set]
            behind = place >= self.splits[data_set].lengths[document]
            targets[at[mine]] &= behind | spans.contains(document, place)
        return documents, positions, targets

    def _read(self, data_set: int, split: Split, windows: Windows, begins: np.ndarray, out: np.ndarray) -> list[int]:
        """Put the concepts of a data set's windows where they belong; returns which could not be read."""
        first = windows.start - self.prefixes[data_set]  # within the sentences; negative among what stands before them
        before = np.clip(-first, 0, windows.length)
        behind = np.clip(first + windows.length - split.lengths[windows.document], 0, windows.length)
        if before.any():
            self._fill(out, before, begins, self.special_starts[data_set, 0] + windows.start)
        if behind.any():
            last = begins + windows.length - behind
            places = first + windows.length - behind - split.lengths[windows.document]
            self._fill(out, behind, last, self.special_starts[data_set, 1] + places)
        counts, starts = windows.length - before - behind, np.maximum(first, 0)
        split.prefetch(windows.document)
        unreadable: list[int] = []
        same_type = split.dtype == out.dtype
        to = out.view(np.uint8).reshape(-1).data
        width = self.dim * out.itemsize
        goals = zip(((begins + before) * width).tolist(), (counts * width).tolist(), strict=True)
        spans = split.spans(windows.document, starts, counts)
        for window, (span, (goal, size)) in enumerate(zip(spans, goals, strict=True)):
            if isinstance(span, ShardError):
                if not self.skip:
                    raise span
                unreadable.append(window)
            elif same_type:
                to[goal : goal + size] = span
            else:  # a data set of the narrower type
                numbers = np.frombuffer(span, split.dtype).astype(out.dtype)
                to[goal : goal + size] = numbers.data.cast("B")
        return unreadable

    def _documents_begun(self, windows: Windows, chosen: list[int]) -> int:
        """How many of some windows hold the first target of their document."""
        count = 0
        for data_set, at in group_by(windows.data_set[chosen]):
            window = np.array(chosen)[at]
            first = self.sets[data_set].context(windows.document[window])
            count += int((windows.start[window] + windows.context[window] == first).sum())
        return count

    def _fill(self, out: np.ndarray, counts: np.ndarray, begins: np.ndarray, special: np.ndarray) -> None:
        """Write `counts` special concepts, from number `special` on, to the places from `begins` on."""
        window, place = _enumerate(counts)
        out[begins[window] + place] = self.special[special[window] + place]


def _enumerate(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of a number of things in each group: every thing's group, and its number in the group."""
    group = np.repeat(np.arange(len(counts)), counts)
    return group, np.arange(len(group)) - (np.cumsum(counts) - counts)[group]


class TrainingBatches:
    """The batches of a training: random access by number, and in order for one rank."""

    def __init__(self, mixture: Mixture, settings: DataSettings, seed: int) -> None:
        """Plan a training on the `train` split.

        Raises:
            ConfigError: a row length below 2; an unknown special concept or language.
            DataError: nothing to train on.
        """
        parts = mixture.parts(TRAIN_SPLIT)
        rows = PackedRows([part.documents for part in parts], settings.row_length)
        self.settings = settings
        self.reader = BatchReader(parts, settings)
        self.plan = TrainingPlan(rows, micro_batch=settings.micro_batch, global_batch=settings.global_batch, seed=seed)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in which every row is used once (but for the remainder, see `lexalcm.data.batches.plan`)."""
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
            ShardError: a shard cannot be read, unless the settings say to skip it.
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
        return number, self.plan.micro_batch_windows(number)


class ValidationBatches:
    """Every document of a split once, whatever the weights, always in the same batches."""

    def __init__(self, mixture: Mixture, settings: DataSettings, split_name: str = "validation") -> None:
        """Plan a validation; documents are cut only where they are longer than a row. Raises as `TrainingBatches`."""
        parts = mixture.parts(split_name)
        documents = [part.documents._replace(weight=None) for part in parts]
        self.settings = settings
        self.reader = BatchReader(parts, settings)
        self.plan = FixedPlan(PackedRows(documents, settings.row_length, cut=False), micro_batch=settings.micro_batch)

    @classmethod
    def of(cls, mixture: Mixture, settings: DataSettings, split_name: str = "validation") -> "ValidationBatches | None":
        """The validation of a mixture, or None where no data set has documents for it. Raises as `TrainingBatches`."""
        return cls(mixture, settings, split_name) if mixture.parts(split_name) else None

    def __len__(self) -> int:
        return self.plan.micro_batches

    @property
    def targets(self) -> int:
        """Targets in all batches."""
        return self.plan.targets

    def iterate(self, *, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        """Yield a rank's batches `rank, rank + world_size, ...`.

        Every rank gets as many, so that all may meet in collective operations; rows beyond the last are empty.
        """
        numbers = range(rank, -(-len(self) // world_size) * world_size, world_size)
        planned = ((number, self.plan.micro_batch_windows(number)) for number in numbers)
        return _load(self.reader, planned, self.settings.num_workers)


class _SendsErrors(MapDataset):
    """Hands the project's errors over as values: raised in a loader process they would lose their one line."""

    def __init__(self, reader: BatchReader) -> None:
        self.reader = reader

    def __getitem__(self, planned: Planned) -> Batch | LexaError:
        try:
            return self.reader[planned]
        except LexaError as error:
            return error


def _load(reader: BatchReader, planned: Iterable[Planned], num_workers: int) -> Iterator[Batch]:
    if not num_workers:
        for batch in map(reader.__getitem__, planned):
            yield batch.pin_memory() if torch.cuda.is_available() else batch
        return
    loader = DataLoader(
        _SendsErrors(reader),
        batch_size=None,
        sampler=planned,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # or it would draw from the default one, which belongs to the training
    )
    arriving = iter(loader)  # torch watches its processes for as long as it is there
    try:
        for batch in arriving:
            if isinstance(batch, LexaError):
                raise batch
            yield batch
    except (ConnectionError, EOFError):  # a process that is killed loses its connections before torch hears of its end
        time.sleep(_SECONDS_TO_END)
        raise
