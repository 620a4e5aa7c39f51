"""What is measured and done beside training itself; `lexalcm.train.monitor.callbacks` builds it from the settings."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from lexalcm.data.batches.batch import Batch
from lexalcm.train.checkpoint.format import TrainState
from lexalcm.train.monitor.timestep_loss import TimestepBuckets


class Callback(Protocol):
    """Runs after some steps; every process calls it at the same ones."""

    def should_run(self, step: int, validating: bool) -> bool:
        """Whether to run after a step."""

    def run(self, state: TrainState) -> dict[str, Any]:
        """Run, and give what to add to the next line of metrics."""


@dataclass(frozen=True)
class TrainingMetrics:
    """What is measured beside the loss; by default nothing but what the loop itself knows."""

    buckets: TimestepBuckets | None = None  # of a diffusion model
    flops_of: Callable[[Batch], float] | None = None  # operations that a micro-batch needs
    peak_flops: float | None = None  # operations a second that one process's device can do

    def speed(self, seconds: float, concepts: int, flops: float, processes: int) -> dict[str, float]:
        """Concepts a second, and where it can be known the share of what the devices can do."""
        speed = {"concepts_per_s": concepts / seconds}
        if self.flops_of is not None and self.peak_flops is not None:
            speed["mfu"] = flops / (seconds * self.peak_flops * processes)
        return speed
