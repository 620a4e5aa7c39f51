"""What there is to know of a step that ended a run because its loss or gradient was not finite.

Nothing is kept for it while training goes well: the batch plan says again what was in the step, and each process reads
its own micro-batches again from where it read them. Norms of weights and of their gradients, one by one and by layer,
show where numbers cease to be finite: the backward pass carries that on towards the input. The file is JSON, so numbers
that are not finite stand in it as the words "nan", "inf" and "-inf".
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lexalcm.data.batches.batch import Batch
from lexalcm.data.batches.loader import TrainingBatches
from lexalcm.data.batches.mixture import TRAIN_SPLIT, Mixture
from lexalcm.data.batches.plan import Windows
from lexalcm.distributed.world import World
from lexalcm.errors import LexaError
from lexalcm.io.atomic import write_text
from lexalcm.model.storage.folder import load_model
from lexalcm.train.engines.protocol import Engine
from lexalcm.train.monitor.alerts import layer_of
from lexalcm.train.monitor.weight_statistics import weight_norms
from lexalcm.train.settings import RunConfig


@dataclass(frozen=True)
class BadStep:
    """A step as this process saw it."""

    step: int
    lr: float
    loss: float  # mean per target, over all processes
    grad_norm: float  # of all gradients together
    grad_norms: Mapping[str, float]  # of each parameter's, as far as the engine knows them
    micro_batches: tuple[int, ...]  # this process's, by number
    losses: tuple[float, ...]  # summed, of each of them


def dump_bad_step(
    folder: Path,
    bad: BadStep,
    config: RunConfig,
    engine: Engine,
    batches: TrainingBatches,
    mixture: Mixture,
    world: World,
) -> str:
    """Write `bad_step_XXXXXXXX.json` into the run's folder; every process must call it, the main one writes.

    Args:
        folder: of the run.
        bad: the step.
        config: of the run, whose seed with a micro-batch's number gives its noise.
        engine: the model as it is now, after the step was skipped.
        batches: the training data.
        mixture: the data sets that they are from.
        world: this process's place.

    Returns:
        Words that say where it is, or why it is not: the run ends because of the step in any case.
    """
    path = folder / f"bad_step_{bad.step:08d}.json"
    mine = [
        {"rank": world.rank, **_describe(batches, mixture, number, loss)}
        for number, loss in zip(bad.micro_batches, bad.losses, strict=True)
    ]
    of_all = [one for each in world.gather(mine) for one in each]
    norms = weight_norms(engine)

    def write() -> str:
        of_weights = norms | _frozen_norms(config, engine)
        content = {
            "step": bad.step,
            "lr": bad.lr,
            "loss": bad.loss,
            "grad_norm": bad.grad_norm,
            "seed": config.train.seed,
            "engine": engine.name,
            "precision": engine.precision,
            "processes": world.size,
            "micro_batches": sorted(of_all, key=lambda one: one["number"]),
            "layers": _layers(of_weights, bad.grad_norms),
            "weight_norms": of_weights,
            "grad_norms": dict(bad.grad_norms),
        }
        try:
            write_text(path, json.dumps(_json_ready(content), indent=1, ensure_ascii=False) + "\n")
        except OSError as error:
            return f"its details could not be written to {path}: {error.strerror}"
        return f"{path} has its documents, losses, and the norms of weights and gradients by layer"

    return world.from_main(write)


def _frozen_norms(config: RunConfig, engine: Engine) -> dict[str, float]:
    """Of the parameters that no engine trains, which are as they were in the model that the run began with."""
    if not config.train.freeze:
        return {}
    frozen = (one for one in load_model(config.model).named_parameters() if one[0] not in engine.shapes)
    return {name: torch.linalg.vector_norm(weight.detach(), dtype=torch.float64).item() for name, weight in frozen}


def _layers(weights: Mapping[str, float], gradients: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Norms of what is in a layer together, in the model's order."""
    layers: dict[str, dict[str, list[float]]] = {}
    for kind, norms in (("weight_norm", weights), ("grad_norm", gradients)):
        for name, norm in norms.items():
            layers.setdefault(layer_of(name), {}).setdefault(kind, []).append(norm)
    return {
        layer: {kind: math.sqrt(sum(norm * norm for norm in norms)) for kind, norms in kinds.items()}
        for layer, kinds in layers.items()
    }


def _describe(batches: TrainingBatches, mixture: Mixture, number: int, loss: float) -> dict[str, Any]:
    """One micro-batch: its loss, how long its concepts are, and from which documents they come."""
    try:
        batch = batches.micro_batch(number)
    except (OSError, LexaError) as error:
        return {"number": number, "loss": loss, "unreadable": str(error)}
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


def _json_ready(value: Any) -> Any:
    """The same with words in place of numbers that JSON does not have."""
    if isinstance(value, dict):
        return {name: _json_ready(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_ready(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
