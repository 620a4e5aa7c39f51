"""Checkpoints: the whole state of a run, in a layout of our own that every engine writes and reads.

    checkpoints/step_00000100/
      weights.safetensors     every trained parameter, whole, float32, under the model's names
      optimizer.safetensors   the optimizer's tensors of each, whole: of AdamW NAME.exp_avg and NAME.exp_avg_sq, float32
      ema.safetensors         the weights' moving average, where one is kept, like the weights
      state.json              counters, and size and hash of the others

There is no generator state: every micro-batch seeds its own, and the batch plan and the learning rate are functions
of the step. Frozen parameters are the initial model's. So this is all, and a run goes on under another engine, ZeRO
stage or number of processes. The price, with AdamW, is 12 bytes a parameter on disk (16 with the average), gathered and
written by the main process one tensor at a time.

A checkpoint is written beside its place and renamed, so that one with a name is complete. It is still checked against
its hashes before it is used, because disks fail; a damaged one is passed over for the one before.
"""

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import safe_open
from torch import Tensor, nn

from lexalcm.atomic import atomic_folder, write_text
from lexalcm.config import NonNegativeFloat, NonNegativeInt, Settings
from lexalcm.errors import DataError, TrainingError, UserError
from lexalcm.file_hash import file_sha256
from lexalcm.folders import entries, inside
from lexalcm.train.engines.protocol import Engine, ReadTensor
from lexalcm.train.tensor_file import TensorSpec, write_tensors
from lexalcm.train.world import World

WEIGHTS = "weights.safetensors"
OPTIMIZER = "optimizer.safetensors"
AVERAGE = "ema.safetensors"
STATE = "state.json"
FORMAT_VERSION = 1


class Progress(Settings):
    """How far a run has come: everything but weights and optimizer state."""

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
    ) -> "Progress":
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

    def begin_line(self, train_loss: float, validation_loss: float | None) -> "Progress":
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

    def _with(self, **changes: Any) -> "Progress":
        return self.model_copy(update=changes)


def _add(sums: Sequence[float], more: Sequence[float]) -> tuple[float, ...]:
    """Add up by place; no numbers at all are zeros."""
    return tuple(a + b for a, b in zip_longest(sums, more, fillvalue=0.0))


class FileRecord(Settings):
    """What a file must be, to tell a damaged one by."""

    bytes: NonNegativeInt
    sha256: str


class State(Settings):
    """`state.json`."""

    format_version: int = FORMAT_VERSION
    progress: Progress
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
    """What a checkpoint is to hold; its tensors can be gone through once, in the order of the files."""

    progress: Progress
    layouts: dict[str, dict[str, TensorSpec]]  # of each file, its tensors by name
    tensors: dict[str, Iterator[Tensor]]

    def exhaust(self) -> None:
        """Go through the tensors that are left, because gathering each is the work of all processes."""
        for tensors in self.tensors.values():
            for _ in tensors:
                pass

    def watched(self, world: World) -> "Content":
        """The same, where each tensor counts as a piece of work that has gone on: all may take long."""
        words = "saving a checkpoint"
        return replace(
            self, tensors={name: world.watched(tensors, words, words) for name, tensors in self.tensors.items()}
        )

    def copied(self) -> "Content":
        """The same from memory that no step changes."""
        copies = {name: iter([t.detach().to("cpu", copy=True) for t in self.tensors[name]]) for name in self.tensors}
        return replace(self, tensors=copies)


def gather(engine: Engine, progress: Progress) -> Content:
    """The state of a run: nothing is gathered before the tensors are gone through, which every process must do."""
    weights = {name: TensorSpec(shape) for name, shape in engine.shapes.items()}
    layouts, tensors = {WEIGHTS: weights, OPTIMIZER: engine.state_layout}, {WEIGHTS: engine.weights()}
    tensors[OPTIMIZER] = engine.state()
    if engine.average is not None:
        layouts[AVERAGE] = weights
        tensors[AVERAGE] = engine.averaged_weights()
    return Content(progress, layouts, tensors)


def write_checkpoint(folder: Path, content: Content) -> Path:
    """Write a checkpoint; its place in `folder`, where it is whole or not at all.

    Raises:
        OSError: the disk is full, or fails.
    """
    path = folder / checkpoint_name(content.progress.step)
    with atomic_folder(path, overwrite=True) as temporary:
        files = {
            name: FileRecord(**write_tensors(temporary / name, layout, content.tensors[name]))
            for name, layout in content.layouts.items()
        }
        state = State(progress=content.progress, files=files)
        write_text(temporary / STATE, state.model_dump_json(indent=2) + "\n")
    return path


def read_progress(path: Path) -> Progress:
    """Check a checkpoint's files against their hashes and give its counters.

    Raises:
        TrainingError: a file is missing, truncated, damaged or cannot be read; the message says which.
        UserError: no permission to read a file, so that nothing is known of it.
    """
    try:
        state = State.model_validate_json((path / STATE).read_bytes())
        for name, record in state.files.items():
            _check_file(inside(path, name), record)
    except PermissionError as error:  # no reason to pass it over, nor to begin anew
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from error
    except (FileNotFoundError, ValidationError, DataError) as error:
        raise TrainingError(f"{path / STATE} is missing or damaged") from error
    except OSError as error:  # of the disk
        raise TrainingError(f"{error.filename or path} cannot be read: {error.strerror}") from error
    return state.progress


def _check_file(file: Path, record: FileRecord) -> None:
    if not file.is_file():
        raise TrainingError(f"{file} is missing")
    if file.stat().st_size != record.bytes:
        raise TrainingError(f"{file} is truncated: {file.stat().st_size} of {record.bytes} bytes")
    if file_sha256(file) != record.sha256:
        raise TrainingError(f"{file} is damaged: its hash is not the one in {STATE}")


def load_weights(path: Path, model: nn.Module) -> None:
    """Copy a checkpoint's weights into a model that no engine holds yet."""
    with torch.no_grad(), safe_open(path / WEIGHTS, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118  no mapping
            model.get_parameter(name).copy_(file.get_tensor(name))


def result_file(path: Path) -> Path:
    """The file with what a checkpoint's training has come to: the weights' average, or the weights without one."""
    return path / (AVERAGE if (path / AVERAGE).exists() else WEIGHTS)


def restore_engine(path: Path, engine: Engine, updates: int) -> None:
    """Give an engine a checkpoint's weights, optimizer state and average."""
    with ExitStack() as files:

        def reader(name: str) -> ReadTensor:
            return files.enter_context(safe_open(path / name, framework="pt")).get_tensor

        average = reader(AVERAGE) if (path / AVERAGE).exists() else None
        engine.restore(reader(WEIGHTS), reader(OPTIMIZER), average, updates)
