"""Checkpoints: the whole state of a run, in a layout of our own that every engine writes and reads.

    checkpoints/step_00000100/
      weights.safetensors     every trained parameter, whole, float32, under the model's names
      optimizer.safetensors   the optimizer's tensors of each, whole: of AdamW NAME.exp_avg and NAME.exp_avg_sq, float32
      ema.safetensors         the weights' moving average, where one is kept, like the weights
      state.json              counters, and size and hash of the others

Several processes write a file each of every kind, weights-00001-of-00004.safetensors and so on, at the same time. Which
tensors are in which does not matter: whoever reads looks for a name in all files of a kind.

There is no generator state: every micro-batch seeds its own, and the batch plan and the learning rate are functions
of the step. Frozen parameters are the initial model's. So this is all, and a run resumes under another engine, ZeRO
stage or number of processes. The price, with AdamW, is 12 bytes a parameter on disk (16 with the average). Each process
writes its share of that: in every round it gets one tensor, and all write theirs. Tensors go by size into rounds, so
that those of a round take equally long.

A checkpoint is written beside its place, and renamed when all have written, so that one with a name is complete. It is
still checked against its hashes before it is used, because disks fail; a damaged one is skipped for the one before.
"""

import math
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from lexalcm.config import NonNegativeFloat, NonNegativeInt, Settings
from lexalcm.distributed.world import World
from lexalcm.errors import DataError, TrainingError, UserError
from lexalcm.io.atomic import atomic_folder, fsync_path, write_text
from lexalcm.io.folders import entries, inside
from lexalcm.io.hashing import file_sha256
from lexalcm.io.safetensors_writer import StoredTensors, TensorSpec, write_tensors
from lexalcm.train.engines.protocol import Engine, Gather

WEIGHTS, OPTIMIZER, AVERAGE = "weights", "optimizer", "ema"
"""Kinds of tensors."""
STATE = "state.json"
FORMAT_VERSION = 1


class TrainState(Settings):
    """Where a training stands: all that is to be kept of it but weights and optimizer state."""

    step: NonNegativeInt = 0  # steps done, skipped ones included
    updates: NonNegativeInt = 0  # steps that changed the weights
    bad_steps: NonNegativeInt = 0  # steps skipped in a row, just now
    concepts: NonNegativeInt = 0  # read so far
    skipped_documents: NonNegativeInt = 0  # planned, but in a bad shard
    seconds: NonNegativeFloat = 0.0  # spent in steps so far
    open_loss: float = 0.0  # of the steps since the last line of metrics.jsonl, summed over targets
    open_targets: NonNegativeInt = 0  # their targets
    open_loss_by_timestep: tuple[float, ...] = ()  # the same in each bucket of timesteps, where the model has such
    open_targets_by_timestep: tuple[float, ...] = ()
    train_loss: float | None = None  # of the last line of metrics.jsonl
    validation_loss: float | None = None

    def after_step(
        self,
        *,
        applied: bool,
        loss: float,
        targets: int,
        concepts: int,
        skipped: int,
        seconds: float,
        by_timestep: Sequence[float] = (),
        targets_by_timestep: Sequence[float] = (),
    ) -> "TrainState":
        """One step further; `loss` is summed over its `targets`, and not counted where it is not finite."""
        counted = math.isfinite(loss)
        return self._with(
            step=self.step + 1,
            updates=self.updates + applied,
            bad_steps=0 if applied else self.bad_steps + 1,
            concepts=self.concepts + concepts,
            skipped_documents=self.skipped_documents + skipped,
            seconds=self.seconds + seconds,
            open_loss=self.open_loss + (loss if counted else 0.0),
            open_targets=self.open_targets + (targets if counted else 0),
            open_loss_by_timestep=_add(self.open_loss_by_timestep, by_timestep if counted else ()),
            open_targets_by_timestep=_add(self.open_targets_by_timestep, targets_by_timestep if counted else ()),
        )

    def after_line(self, train_loss: float, validation_loss: float | None) -> "TrainState":
        """A line of metrics has been written with these losses, the latter only where there was a validation."""
        if validation_loss is None:
            validation_loss = self.validation_loss
        return self._with(
            open_loss=0.0,
            open_targets=0,
            open_loss_by_timestep=(),
            open_targets_by_timestep=(),
            train_loss=train_loss,
            validation_loss=validation_loss,
        )

    def _with(self, **changes: Any) -> "TrainState":
        return self.model_copy(update=changes)


def _add(sums: Sequence[float], more: Sequence[float]) -> tuple[float, ...]:
    """Add up by place; no numbers at all are zeros."""
    return tuple(a + b for a, b in zip_longest(sums, more, fillvalue=0.0))


class FileRecord(Settings):
    """What a file must be, to tell a damaged one by."""

    bytes: NonNegativeInt
    sha256: str


class StateFile(Settings):
    """`state.json`."""

    format_version: int = FORMAT_VERSION
    progress: TrainState
    files: dict[str, FileRecord]


def checkpoint_name(step: int) -> str:
    """The folder's name, which sorts by step."""
    return f"step_{step:08d}"


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, newest first.

    Raises:
        UserError: it cannot be looked into.
    """
    return [path for path in reversed(entries(folder)) if re.fullmatch(r"step_[0-9]{8}", path.name)]


def step_of(path: Path) -> int:
    """The step of a checkpoint, which is in its folder's name."""
    return int(path.name.removeprefix("step_"))


@dataclass(frozen=True)
class Content:
    """What this process is to write of a checkpoint; its tensors can be gone through once, file by file."""

    state: TrainState
    layouts: dict[str, dict[str, TensorSpec]]  # of each file, its tensors by name
    tensors: dict[str, Iterator[Tensor]]

    def exhaust(self) -> None:
        """Go through the tensors that are left, because gathering each is the work of all processes."""
        for tensors in self.tensors.values():
            for _ in tensors:
                pass

    def copied(self) -> "Content":
        """The same from memory that no step changes."""
        copies = {name: iter([t.detach().to("cpu", copy=True) for t in self.tensors[name]]) for name in self.tensors}
        return replace(self, tensors=copies)

    def write(self, folder: Path) -> dict[str, FileRecord]:
        """Write the files, to the disk, and give what they must be."""
        files = {}
        for name, layout in self.layouts.items():
            files[name] = FileRecord(**write_tensors(folder / name, layout, self.tensors[name]))
            fsync_path(folder / name)
        return files


def gather(engine: Engine, state: TrainState, world: World) -> Content:
    """This process's share of a run's state.

    Nothing is gathered before the tensors are gone through, which every process must do.
    """
    weights = {name: TensorSpec(shape) for name, shape in engine.shapes.items()}
    layouts, tensors = {}, {}

    def add(
        kind: str,
        layout: Mapping[str, TensorSpec],
        source: Mapping[str, Gather],
        in_place: AbstractContextManager[None] = nullcontext(),  # noqa: B008  it holds nothing
    ) -> None:
        rounds = assign_rounds(layout, world.size)
        file = file_name(kind, world.rank, world.size)
        layouts[file] = {names[world.rank]: layout[names[world.rank]] for names in rounds if world.rank < len(names)}
        tensors[file] = _in_rounds(rounds, source, world, in_place)

    add(WEIGHTS, weights, engine.weights())
    add(OPTIMIZER, engine.state_layout, engine.state())
    if engine.average is not None:
        add(AVERAGE, weights, engine.weights(), engine.average.in_place())
    return Content(state, layouts, tensors)


def assign_rounds(layout: Mapping[str, TensorSpec], processes: int) -> list[list[str]]:
    """Names of tensors in rounds, one for each process, from the largest tensors to the smallest."""
    names = sorted(layout, key=lambda name: -layout[name].nbytes)
    return [names[first : first + processes] for first in range(0, len(names), processes)]


def _in_rounds(
    rounds: list[list[str]], source: Mapping[str, Gather], world: World, in_place: AbstractContextManager[None]
) -> Iterator[Tensor]:
    """This process's tensor of each round; every process must go through its own to the end."""
    with in_place:
        for names in rounds:
            own = None
            for rank, name in enumerate(names):
                world.at("saving a checkpoint")  # each is a piece of work that has gone on: all may take long
                tensor = source[name](rank)
                if rank == world.rank:
                    own = tensor
                del tensor
            if own is not None:
                yield own


def file_name(kind: str, rank: int, processes: int) -> str:
    """The file that a process writes tensors of this kind into."""
    return f"{kind}.safetensors" if processes == 1 else f"{kind}-{rank + 1:05d}-of-{processes:05d}.safetensors"


def write_checkpoint(folder: Path, content: Content, world: World) -> Path:
    """Write a checkpoint; its place in `folder`, where it is whole or not at all. Every process must call it.

    Raises:
        UserError: the disk of a process is full, or fails; all raise it.
    """
    path = folder / checkpoint_name(content.state.step)
    with ExitStack() as stack:

        def begin() -> Path:
            with disk_failures_of(world):
                return stack.enter_context(atomic_folder(path, overwrite=True))

        def write() -> dict[str, FileRecord]:
            with disk_failures_of(world):
                try:
                    return content.write(temporary)
                except OSError:
                    content.exhaust()
                    raise

        def end() -> None:
            files = {name: record for of_one in written for name, record in of_one.items()}
            record = StateFile(progress=content.state, files=files)
            with disk_failures_of(world):
                write_text(temporary / STATE, record.model_dump_json(indent=2) + "\n")
                stack.close()

        temporary = world.from_main(begin)
        written = world.together(write)
        world.from_main(end)
    return path


@contextmanager
def disk_failures_of(world: World) -> Iterator[None]:
    """Make of an error of the disk one that all processes can raise, and that says of which it is."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        where = f"process {world.rank} on {socket.gethostname()}: " if world.size > 1 else ""
        raise UserError(where + why) from error


def read_train_state(path: Path) -> TrainState:
    """Check a checkpoint's files against their hashes and give its train state.

    Raises:
        TrainingError: a file is missing, truncated, damaged or cannot be read; the message says which.
        UserError: no permission to read a file, so that nothing is known of it.
    """
    try:
        record = StateFile.model_validate_json((path / STATE).read_bytes())
        with ThreadPoolExecutor() as pool:
            list(pool.map(_check_file, [inside(path, name) for name in record.files], record.files.values()))
    except PermissionError as error:  # no reason to skip it, nor to start over
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from error
    except (FileNotFoundError, ValidationError, DataError) as error:
        raise TrainingError(f"{path / STATE} is missing or damaged") from error
    except OSError as error:  # of the disk
        raise TrainingError(f"{error.filename or path} cannot be read: {error.strerror}") from error
    return record.progress


def _check_file(file: Path, record: FileRecord) -> None:
    if not file.is_file():
        raise TrainingError(f"{file} is missing")
    if file.stat().st_size != record.bytes:
        raise TrainingError(f"{file} is truncated: {file.stat().st_size} of {record.bytes} bytes")
    if file_sha256(file) != record.sha256:
        raise TrainingError(f"{file} is damaged: its hash is not the one in {STATE}")


def load_weights(path: Path, model: nn.Module) -> None:
    """Copy a checkpoint's weights into a model that no engine holds yet."""
    with torch.no_grad():
        for name, weight in stored_tensors(path, WEIGHTS).items():
            model.get_parameter(name).copy_(weight)


def stored_tensors(path: Path, kind: str) -> StoredTensors:
    """A checkpoint's tensors of one kind; none where it has no average and that is asked for."""
    return StoredTensors(file for file in entries(path) if file.match(f"{kind}*.safetensors"))


def final_weights(path: Path) -> StoredTensors:
    """What a checkpoint's training has come to: the weights' average, or the weights without one."""
    return stored_tensors(path, AVERAGE) or stored_tensors(path, WEIGHTS)


def restore_engine(path: Path, engine: Engine, updates: int) -> None:
    """Give an engine a checkpoint's weights, optimizer state and average."""
    weights, state, average = (stored_tensors(path, kind) for kind in (WEIGHTS, OPTIMIZER, AVERAGE))
    engine.restore(weights.__getitem__, state.__getitem__, average.__getitem__ if average else None, updates)
