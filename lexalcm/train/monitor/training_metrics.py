"""What is measured of a run beside its loss; `lexalcm.train.monitor.callbacks` puts it together from the settings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lexalcm.data.batches.batch import Batch
from lexalcm.train.checkpoint.format import Progress
from lexalcm.train.monitor.timestep_loss import TimestepBuckets


class Look(Protocol):
    """Looks at the model now and then; every process calls it at the same steps."""

    def due(self, step: int, validating: bool) -> bool:
        """Whether to look after a step."""

    def look(self, progress: Progress) -> dict[str, Any]:
        """Look, and give what is to stand in the next line of metrics."""


@dataclass(frozen=True)
class Gauges:
    """By default nothing is measured that could not be had from the loop itself."""

    buckets: TimestepBuckets | None = None  # of a diffusion model
    flops_of: Callable[[Batch], float] | None = None  # operations that a micro-batch needs
    peak_flops: float | None = None  # operations a second that one process's device can do
    looks: Sequence[Look] = ()

    def speed(self, seconds: float, concepts: int, flops: float, processes: int) -> dict[str, float]:
        """Concepts a second, and where it can be known the share of what the devices can do."""
        speed = {"concepts_per_s": concepts / seconds}
        if self.flops_of is not None and self.peak_flops is not None:
            speed["mfu"] = flops / (seconds * self.peak_flops * processes)
        return speed
