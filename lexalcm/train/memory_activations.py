"""What the micro-batches of a model take beyond weights and gradients, for any number of layers and rows.

A model with two layers in each tower is traced (`memory_trace`), so that a 7B model costs no more than a tiny one: what
a further layer leaves behind is what the first one left, and rows are linear from one trace to one of twice as many.
"""

from dataclasses import dataclass
from functools import cache

from lexalcm.model.config import ModelConfig
from lexalcm.train.layers import is_recomputed
from lexalcm.train.memory_trace import MemoryTrace, trace_micro_batch

TRACED = 2
"""Layers in each tower; what the first one leaves behind is what one leaves that is followed by another."""


@dataclass(frozen=True)
class Line:
    """Bytes that grow evenly with the rows of a micro-batch."""

    rows: int
    bytes: float  # at so many rows
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
    config: ModelConfig, rows: int, length: int, device_type: str, precision: str, checkpointing: str
) -> Activations:
    """What a micro-batch takes.

    Args:
        config: the model's sizes.
        rows: in the micro-batch.
        length: concepts in a row.
        device_type: `cpu` or `cuda`.
        precision: of `trace_micro_batch`; what autocast keeps of weights is in it.
        checkpointing: `none`, `full` or `every-N`, see `lexalcm.train.layers`.
    """

    def at(rows: int, precision: str) -> tuple[float, float]:
        return _at(config, rows, length, device_type, precision, checkpointing)

    without_casts = "bf16-weights" if precision == "bf16" else precision  # rows do not change what is cast
    growth = zip(at(rows, without_casts), at(2 * rows, without_casts), strict=True)
    peak, last = (
        Line(rows, now, (later - before) / rows)
        for now, (before, later) in zip(at(rows, precision), growth, strict=True)
    )
    return Activations(peak, last)


def _at(
    config: ModelConfig, rows: int, length: int, device_type: str, precision: str, checkpointing: str
) -> tuple[float, float]:
    """The two peaks of `Activations` at so many rows."""
    towers = [config.context_layers, config.num_layers] if config.context_layers else [config.num_layers]
    layers_of_each = {"num_layers": TRACED, "context_layers": TRACED * (len(towers) - 1)}
    small = config.model_copy(update={**layers_of_each, "preset": None, "codec": None})  # memory depends on sizes alone

    def trace(recomputed: bool) -> MemoryTrace:
        return _trace(small, rows, length, device_type, precision, recomputed)

    # What is recomputed is there whole for a while: one such layer is in the peak of the trace that recomputes.
    base = trace(checkpointing != "none")
    forward, backward = float(base.forward_peak), float(base.backward_peak)
    number = 0
    for tower, layers in enumerate(towers):
        first = tower * TRACED
        forward -= TRACED * base.layers[first].forward
        backward -= TRACED * base.layers[first].kept
        for _ in range(layers):
            layer = trace(is_recomputed(checkpointing, number)).layers[first]
            forward += layer.forward
            backward += layer.kept
            number += 1
    return max(forward, backward), base.backward_peak - sum(layer.kept for layer in base.layers[1:])


@cache
def _trace(
    config: ModelConfig, rows: int, length: int, device_type: str, precision: str, recomputed: bool
) -> MemoryTrace:
    return trace_micro_batch(config, rows, length, device_type, precision, recomputed=recomputed)
