"""What there is to know of a step that ended a run because its loss or gradient was not finite.

Nothing is kept for it while training goes well: the batch plan says again what was in the step, and each process reads
its own micro-batches again from where it read them. The file is JSON, so numbers that are not finite stand in it as the
words "nan", "inf" and "-inf".
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lexalcm.atomic import write_text
from lexalcm.data.loader import Batch, TrainingBatches
from lexalcm.data.mixture import TRAIN_SPLIT, Mixture
from lexalcm.data.plan import Windows
from lexalcm.train.engines.protocol import Engine
from lexalcm.train.weight_statistics import weight_norms
from lexalcm.train.world import World


@dataclass(frozen=True)
class BadStep:
    """A step as this process saw it."""

    step: int
    lr: float
    loss: float  # mean per target, over all processes
    grad_norm: float
    micro_batches: tuple[int, ...]  # this process's, by number
    losses: tuple[float, ...]  # summed, of each of them


def dump_bad_step(
    folder: Path, bad: BadStep, seed: int, engine: Engine, batches: TrainingBatches, mixture: Mixture, world: World
) -> Path:
    """Write `bad_step_XXXXXXXX.json` into the run's folder; every process must call it, the main one writes.

    Args:
        folder: of the run.
        bad: the step.
        seed: of the run, which with a micro-batch's number gives its noise.
        engine: the model as it is now, after the step was skipped.
        batches: the training data.
        mixture: the data sets that they are from.
        world: this process's place.
    """
    path = folder / f"bad_step_{bad.step:08d}.json"
    mine = [
        {"rank": world.rank, **_describe(batches, mixture, number, loss)}
        for number, loss in zip(bad.micro_batches, bad.losses, strict=True)
    ]
    of_all = [one for each in world.gather(mine) for one in each]
    norms = weight_norms(engine)
    if world.is_main:
        content = {
            "step": bad.step,
            "lr": bad.lr,
            "loss": bad.loss,
            "grad_norm": bad.grad_norm,
            "seed": seed,
            "engine": engine.name,
            "precision": engine.precision,
            "processes": world.size,
            "micro_batches": sorted(of_all, key=lambda one: one["number"]),
            "weight_norms": norms,
        }
        write_text(path, json.dumps(_speakable(content), indent=1, ensure_ascii=False) + "\n")
    return path


def _describe(batches: TrainingBatches, mixture: Mixture, number: int, loss: float) -> dict[str, Any]:
    """One micro-batch: its loss, how long its concepts are, and from which documents they come."""
    batch = batches.micro_batch(number)
    windows = batches.plan.micro_batch_windows(number)
    norms = _norms(batch)
    return {
        "number": number,
        "loss": loss,
        "targets": int(batch.targets.sum()),
        **_range(norms[batch.documents.numpy() >= 0]),
        "documents": [_document(batches, mixture, windows, i, norms) for i in range(len(windows.document))],
    }


def _document(
    batches: TrainingBatches, mixture: Mixture, windows: Windows, i: int, norms_BL: np.ndarray
) -> dict[str, Any]:
    data_set, document = int(windows.data_set[i]), int(windows.document[i])
    begin, length = int(windows.begin[i]), int(windows.length[i])
    split = batches.reader.splits[data_set]
    shard, key = split.where(document).split()
    return {
        "data": mixture.datasets[data_set].address,
        "split": TRAIN_SPLIT,
        "shard": shard,
        "key": key,
        "document": document,
        "first_concept": int(windows.start[i]),
        "concepts": length,
        **_range(norms_BL[int(windows.row[i]), begin : begin + length]),
    }


def _norms(batch: Batch) -> np.ndarray:
    """Euclidean norms, float64 [rows, length]: the square of what does no harm in it may overflow float32."""
    return np.linalg.norm(batch.embeddings.numpy().astype(np.float64), axis=-1)


def _range(norms: np.ndarray) -> dict[str, float | None]:
    """Smallest and largest concept norm."""
    found: Sequence[float | None] = (float(norms.min()), float(norms.max())) if norms.size else (None, None)
    return {"smallest_norm": found[0], "largest_norm": found[1]}


def _speakable(value: Any) -> Any:
    """The same with words in place of numbers that JSON does not have."""
    if isinstance(value, dict):
        return {name: _speakable(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_speakable(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
