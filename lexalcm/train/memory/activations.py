"""What the micro-batches of a model take beyond weights and gradients, for any number of layers and rows.

A model with two layers in each tower is traced (`memory.trace`), so that a 7B model costs no more than a tiny one: what
a further layer leaves behind is what the first one left, and rows are linear from one trace to one of twice as many.
Where layers are compiled, what each keeps is the compiler's choice (`memory.compiled`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from lexalcm.model.config import ModelConfig
from lexalcm.train.layers import is_recomputed
from lexalcm.train.memory.compiled import Kept, can_partition, kept_by_compiled
from lexalcm.train.memory.trace import LayerTrace, MemoryTrace, trace_micro_batch, traced_model

TRACED = 2
"""Layers in each tower; what the first one leaves behind is what one leaves that is followed by another."""


@dataclass(frozen=True)
class Line:
    """Bytes that grow evenly with the rows of a micro-batch."""

    rows: int
    bytes: float  # at `rows` rows
    per_row: float

    def at(self, rows: int) -> float:
        """Bytes at another number of rows."""
        return self.bytes + self.per_row * (rows - self.rows)


@dataclass(frozen=True)
class Activations:
    """What a micro-batch takes beyond weights and gradients.

    Attributes:
        peak: the most at a time, when the backward pass begins.
        last: the most near the backward pass's end, when all gradients are there.
    """

    peak: Line
    last: Line


def activations(
    config: ModelConfig,
    objective: str,
    rows: int,
    length: int,
    device_type: str,
    precision: str,
    checkpointing: str,
    *,
    compiled: bool = False,
) -> Activations:
    """What a micro-batch takes.

    Args:
        config: the model's sizes.
        objective: `train.objective`.
        rows: in the micro-batch.
        length: concepts in a row.
        device_type: `cpu` or `cuda`.
        precision: of `trace_micro_batch`; what autocast keeps of weights is in it.
        checkpointing: `none`, `full` or `every-N`, see `lexalcm.train.layers`.
        compiled: whether the layers are.
    """

    asked = compiled and can_partition()
    kept = _kept_by_compiled(_small(config), objective, rows, length, device_type, precision) if asked else None

    def at(rows: int, precision: str) -> tuple[float, float]:
        return _at(config, objective, rows, length, device_type, precision, checkpointing, kept)

    without_casts = "bf16-weights" if precision == "bf16" else precision  # rows do not change what is cast
    growth = zip(at(rows, without_casts), at(2 * rows, without_casts), strict=True)
    peak, last = (
        Line(rows, now, (later - before) / rows)
        for now, (before, later) in zip(at(rows, precision), growth, strict=True)
    )
    return Activations(peak, last)


def _at(
    config: ModelConfig,
    objective: str,
    rows: int,
    length: int,
    device_type: str,
    precision: str,
    checkpointing: str,
    compiled: Sequence[Kept] | None,
) -> tuple[float, float]:
    """The two peaks of `Activations` at a number of rows; what compiled layers keep of each tower, if they are."""
    towers = _towers(config)

    def trace(recomputed: bool) -> MemoryTrace:
        return _trace(_small(config), objective, rows, length, device_type, precision, recomputed)

    def left_by(tower: int, recomputed: bool) -> LayerTrace:
        if compiled is not None and not recomputed:
            kept = compiled[tower].at(rows)
            return LayerTrace(kept, kept)
        return trace(recomputed).layers[tower * TRACED]

    # What is recomputed is there whole for a while: one such layer is in the peak of the trace that recomputes.
    recomputes = checkpointing != "none"
    base = trace(recomputes)
    forward, backward = float(base.forward_peak), float(base.backward_peak)
    number = 0
    for tower, layers in enumerate(towers):
        first = tower * TRACED
        forward -= TRACED * base.layers[first].forward
        backward -= TRACED * base.layers[first].kept
        for _ in range(layers):
            layer = left_by(tower, is_recomputed(checkpointing, number))
            forward += layer.forward
            backward += layer.kept
            number += 1
    if compiled is not None and recomputes:
        last = len(towers) - 1
        backward += left_by(last, recomputed=False).kept - trace(recomputed=False).layers[last * TRACED].kept
    return max(forward, backward), base.backward_peak - sum(layer.kept for layer in base.layers[1:])


def _towers(config: ModelConfig) -> list[int]:
    """Layers of each tower, in the order of `LCM.blocks`."""
    return [config.context_layers, config.num_layers] if config.context_layers else [config.num_layers]


def _small(config: ModelConfig) -> ModelConfig:
    """The model that is traced; memory depends on sizes alone."""
    layers = {"num_layers": TRACED, "context_layers": TRACED * (len(_towers(config)) - 1)}
    return config.model_copy(update={**layers, "preset": None, "codec": None})


@cache
def _kept_by_compiled(
    small: ModelConfig, objective: str, rows: int, length: int, device_type: str, precision: str
) -> list[Kept]:
    """Of a layer in each tower."""
    if precision == "bf16-weights":  # the same as under autocast, but for its copies of weights
        with_casts = _kept_by_compiled(small, objective, rows, length, device_type, "bf16")
        return [Kept(kept.per_row, 0) for kept in with_casts]
    trace = _trace(small, objective, rows, length, device_type, precision, recomputed=False)
    first_of_each = range(0, TRACED * len(_towers(small)), TRACED)
    blocks = traced_model(small, precision).blocks()
    return [kept_by_compiled(blocks[number], trace.given[number], rows, precision) for number in first_of_each]


@cache
def _trace(
    config: ModelConfig, objective: str, rows: int, length: int, device_type: str, precision: str, recomputed: bool
) -> MemoryTrace:
    return trace_micro_batch(config, objective, rows, length, device_type, precision, recomputed=recomputed)
