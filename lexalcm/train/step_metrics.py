"""What a step's micro-batches come to, on this process and then over all of them.

Losses stay on the device until the step is done: one transfer from a GPU a step, which waits for no optimizer, and one
exchange of numbers between processes, whatever is counted.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from lexalcm.data.batches.batch import Batch
from lexalcm.distributed.world import World
from lexalcm.objective import Loss
from lexalcm.to_host import ToHost
from lexalcm.train.monitor.timestep_loss import TimestepBuckets


@dataclass(frozen=True)
class StepMetrics:
    """A step's numbers over all processes."""

    loss: float  # summed over targets
    by_timestep: list[float]  # the same in each bucket of timesteps
    targets_by_timestep: list[float]
    concepts: int
    skipped: int  # documents
    missing_targets: int
    flops: float
    stops: int  # processes that were asked to stop
    waited: float  # seconds for data, of the process that waited longest
    peak_bytes: int  # of the process with the most


@dataclass
class StepAccumulator:
    """Adds up micro-batches one by one.

    Attributes:
        numbers: the micro-batches' numbers.
        losses: the summed loss of each, filled by `reduce`.
    """

    buckets: TimestepBuckets | None
    flops_of: Callable[[Batch], float] | None = None
    numbers: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    _on_device: list[torch.Tensor] = field(default_factory=list)
    _sent: ToHost | None = None
    _concepts: int = 0
    _skipped: int = 0
    _missing: int = 0
    _flops: float = 0.0

    def add(self, batch: Batch, loss: Loss) -> None:
        """Count a micro-batch and its loss."""
        self.numbers.append(batch.number)
        self._concepts += int((batch.documents >= 0).sum())
        self._skipped += batch.skipped
        self._missing += batch.missing_targets
        if self.flops_of is not None:
            self._flops += self.flops_of(batch)
        numbers = [loss.sum.detach().double()[None]]
        if self.buckets is not None:
            targets = batch.targets if batch.transferred is None else batch.transferred.batch.targets
            numbers.append(self.buckets.add_up(loss, targets).flatten())
        self._on_device.append(torch.cat(numbers))

    def send(self) -> None:
        """No micro-batch follows: what was counted may leave the device."""
        rows = torch.stack(self._on_device)
        self._sent = ToHost(torch.cat([rows[:, 0], rows.sum(0)]))

    def reduce(self, world: World, *, stop: bool = False, waited: float = 0.0, peak_bytes: int = 0) -> StepMetrics:
        """Add up over all processes; each must call it, after `send`.

        Args:
            world: this process's place.
            stop: whether this process was asked to stop.
            waited: seconds for data.
            peak_bytes: the most memory that it has had.
        """
        assert self._sent is not None
        count = 0 if self.buckets is None else self.buckets.count
        transferred = self._sent.read().tolist()
        self.losses, mine = transferred[: len(self.numbers)], transferred[len(self.numbers) :]
        places = [[0.0] * world.size, [0.0] * world.size]  # what is not added up has a place for each process
        for place, value in zip(places, (waited, peak_bytes), strict=True):
            place[world.rank] = value
        counts = [self._concepts, self._skipped, self._missing, self._flops, stop]
        everything = world.sum([*mine, *counts, *places[0], *places[1]])
        loss, *by_timestep = everything[: 1 + 2 * count]
        concepts, skipped, missing, flops, stops = everything[1 + 2 * count :][: len(counts)]
        waits, peaks = everything[-2 * world.size : -world.size], everything[-world.size :]
        return StepMetrics(
            loss=loss,
            by_timestep=by_timestep[:count],
            targets_by_timestep=by_timestep[count:],
            concepts=int(concepts),
            skipped=int(skipped),
            missing_targets=int(missing),
            flops=flops,
            stops=int(stops),
            waited=max(waits),
            peak_bytes=int(max(peaks)),
        )
