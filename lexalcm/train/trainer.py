"""The training loop: which numbers go through the model when. It knows no engine, no process group, no files.

The loss curve is a function of settings and seed alone:

- the batch plan says what is in micro-batch n, whoever computes it;
- torch's generator is seeded with (seed, n) before micro-batch n, so its timesteps, noise and dropout are its own;
- a step's loss is the mean over the targets of all its micro-batches, whose number is known from the plan before any
  is computed. Each micro-batch's summed loss is scaled by processes / targets, because engines average over processes.
  Where documents of a bad shard are skipped, the gradient is smaller by their share; the loss told is the mean of what
  was there.

So 2 processes with 4 micro-batches each and 1 process with 8 compute the same up to rounding. The price is one small
exchange of numbers between processes a step, which also tells all of them when one was asked to stop.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from lexalcm.data.batches.loader import TrainingBatches, ValidationBatches
from lexalcm.distributed.signals import StopRequest
from lexalcm.distributed.world import World
from lexalcm.errors import TrainingError
from lexalcm.train.checkpoint.format import Progress
from lexalcm.train.engines.protocol import Engine
from lexalcm.train.lr_schedule import learning_rate
from lexalcm.train.memory.peak import peak_bytes
from lexalcm.train.monitor.run_monitor import Monitor
from lexalcm.train.monitor.timestep_loss import means
from lexalcm.train.monitor.training_metrics import Gauges
from lexalcm.train.prefetch import Ahead
from lexalcm.train.run.bad_step import BadStep
from lexalcm.train.settings import TrainSettings
from lexalcm.train.step_metrics import Counted, Tally

TRAINING, VALIDATION = range(2)
"""What a generator is seeded for, so that no micro-batch of one shares its noise with one of the other."""

logger = logging.getLogger(__name__)


class _Step(NamedTuple):
    counted: Counted
    bad: BadStep
    grad_norm: float
    seconds: float


@dataclass
class _Since:
    """Since the last line of metrics."""

    seconds: float = 0.0
    concepts: int = 0
    flops: float = 0.0
    waited: float = 0.0

    def add(self, step: _Step) -> None:
        self.seconds += step.seconds
        self.concepts += step.counted.concepts
        self.flops += step.counted.flops
        self.waited += step.counted.waited


class Save(Protocol):
    """Writes a checkpoint; every process calls it at the same steps."""

    def __call__(self, progress: Progress, *, must: bool) -> None:
        """Save; where it `must` be, return when it is, or raise `TrainingError`."""


class Trainer:
    """Takes a model from one step to another."""

    def __init__(
        self,
        engine: Engine,
        batches: TrainingBatches,
        validation: ValidationBatches | None,
        settings: TrainSettings,
        world: World,
        monitor: Monitor,
        save: Save,
        dump: Callable[[BadStep], str] = lambda _: "",
        gauges: Gauges | None = None,
        compiled: str | None = None,
    ) -> None:
        """Put a training together.

        Args:
            engine: the model in training.
            batches: the training data.
            validation: the data of the validation loss, or none.
            settings: steps, learning rate and so on.
            world: this process's place.
            monitor: where metrics go.
            save: writes a checkpoint; every process calls it at the same steps.
            dump: writes what there is to know of a step that ends the run, and gives words that say where; called
                likewise.
            gauges: what to measure beside the loss.
            compiled: what the first step compiles, for the user; none: nothing.
        """
        self.engine = engine
        self.batches = batches
        self.validation = validation
        self.settings = settings
        self.world = world
        self.monitor = monitor
        self.save = save
        self.dump = dump
        self.gauges = gauges or Gauges()
        self.compiled = compiled

    def run(self, progress: Progress, stop: StopRequest) -> Progress:
        """Train from `progress` to `settings.steps`, or until asked to stop; save as the settings say and at the end.

        Raises:
            TrainingError: too many steps in a row without a finite loss and gradient.
        """
        self.monitor.display.begin(progress.step, self.settings.steps)
        try:
            return self._run(progress, stop)
        finally:
            self.monitor.display.end()

    def _run(self, progress: Progress, stop: StopRequest) -> Progress:
        settings = self.settings
        in_order = self.batches.iterate(progress.step, settings.steps, rank=self.world.rank, world_size=self.world.size)
        batches = Ahead(self.world.watched(in_order), self.world.device)
        since, seen = _Since(), dict[str, Any]()
        first, stopping = progress.step, False
        while progress.step < settings.steps and not stopping:
            lr = learning_rate(progress.step, settings)
            with self._compiling(stop) if progress.step == first and self.compiled else nullcontext():
                progress, step = self._step(progress, batches, lr, stop)
            since.add(step)
            if progress.bad_steps >= settings.max_bad_steps:
                self._give_up(progress, step)
            stopping = step.counted.stops > 0
            last = progress.step == settings.steps
            validating = self.validation is not None and (last or progress.step % settings.validate_every == 0)
            for one in self.gauges.looks:
                if one.due(progress.step, validating):
                    seen |= one.look(progress)
            if validating or last or progress.step % settings.log_every == 0:
                line = self._line(progress, step, since, lr) | seen
                if validating:
                    with stop.ending("validating", nothing_is_lost=False):
                        line |= self._validation_metrics()
                self.monitor.write(line)
                progress = progress.begin_line(line["loss"], line.get("validation_loss"))
                since, seen = _Since(), {}
            if stopping:
                here = "no signal" if stop.signal is None else stop.signal.name
                logger.info("asked to stop after step %d (this process: %s)", progress.step, here)
            if last or stopping or progress.step % settings.checkpoint.every == 0:
                self.save(progress, must=last or stopping)
        return progress

    @contextmanager
    def _compiling(self, stop: StopRequest) -> Iterator[None]:
        """Around the first step, which may take a minute in which nothing else is to be seen."""
        note, began = self.monitor.display.note, time.perf_counter()
        note(f"compiling {self.compiled} in the first step, once: up to a minute")
        with stop.ending(f"compiling {self.compiled}", nothing_is_lost=True):
            yield
        note(f"compiled in {time.perf_counter() - began:.0f} s")

    def validate(self) -> tuple[float, list[float]]:
        """The mean loss per target of the validation split, with noise that is the same in every run.

        Returns:
            the loss, and the same of each bucket of timesteps.
        """
        assert self.validation is not None
        tally = Tally(self.gauges.buckets)
        for batch in self.world.watched(self.validation.iterate(rank=self.world.rank, world_size=self.world.size)):
            seed_generators(VALIDATION, 0, batch.number)
            tally.add(batch, self.engine.loss(batch))
        tally.send()
        counted = tally.exchange(self.world)
        targets = max(1, self.validation.targets - counted.missing_targets)
        return counted.loss / targets, means(counted.by_timestep, counted.targets_by_timestep)

    def _step(self, progress: Progress, batches: Ahead, lr: float, stop: StopRequest) -> tuple[Progress, _Step]:
        began = time.perf_counter()
        targets = self.batches.targets_in_step(progress.step)
        tally = Tally(self.gauges.buckets, self.gauges.flops_of)
        for left in reversed(range(self.batches.settings.global_batch // self.world.size)):
            batch = next(batches)
            seed_generators(TRAINING, self.settings.seed, batch.number)
            tally.add(batch, self.engine.accumulate(batch, self.world.size / targets, last=left == 0))
            batches.fetch()
        tally.send()
        update = self.engine.update(lr)
        waited, batches.waited = batches.waited, 0.0
        peak = peak_bytes(self.world.device)
        counted = tally.exchange(self.world, stop=stop.requested, waited=waited, peak_bytes=peak)
        targets = max(1, targets - counted.missing_targets)
        seconds = time.perf_counter() - began
        progress = progress.after_step(
            applied=update.applied,
            loss=counted.loss,
            targets=targets,
            concepts=counted.concepts,
            skipped=counted.skipped,
            seconds=seconds,
            by_timestep=counted.by_timestep,
            targets_by_timestep=counted.targets_by_timestep,
        )
        loss = counted.loss / targets
        if not update.applied:
            logger.warning("step %d is skipped: loss %g, gradient norm %g", progress.step, loss, update.grad_norm)
        speed = self.gauges.speed(seconds, counted.concepts, counted.flops, self.world.size)
        self.monitor.display.advance({"step": progress.step, "loss": loss, "lr": lr, **speed})
        bad = BadStep(
            progress.step, lr, loss, update.grad_norm, update.grad_norms, tuple(tally.numbers), tuple(tally.losses)
        )
        return progress, _Step(counted, bad, update.grad_norm, seconds)

    def _line(self, progress: Progress, step: _Step, since: _Since, lr: float) -> dict[str, Any]:
        line: dict[str, Any] = {
            "step": progress.step,
            "loss": progress.open_loss / progress.open_targets if progress.open_targets else math.nan,
            "lr": lr,
            "grad_norm": step.grad_norm,
            **self.gauges.speed(since.seconds, since.concepts, since.flops, self.world.size),
            "data_wait": since.waited / since.seconds,
            "peak_memory_gb": step.counted.peak_bytes / 1e9,
            "seconds": progress.seconds,
            "skipped_steps": progress.step - progress.updates,
            "skipped_documents": progress.skipped_documents,
        }
        if (buckets := self.gauges.buckets) is not None:
            counts = progress.open_targets_by_timestep or (0.0,) * buckets.count  # none: no step had a finite loss
            line["loss_by_timestep"] = means(progress.open_loss_by_timestep or counts, counts)
        return line

    def _validation_metrics(self) -> dict[str, Any]:
        loss, by_timestep = self.validate()
        metrics: dict[str, Any] = {"validation_loss": loss}
        if by_timestep:
            metrics["validation_loss_by_timestep"] = by_timestep
        return metrics

    def _give_up(self, progress: Progress, step: _Step) -> None:
        where = self.dump(step.bad)
        raise TrainingError(
            f"the loss or its gradient was not finite in {progress.bad_steps} steps in a row (up to step "
            f"{progress.step}, learning rate {step.bad.lr:.3g}){where and f'; {where}'}: lower train.lr or raise "
            "train.warmup_steps, and look at grad_norm in metrics.jsonl before; if it fails from the first step, check "
            "the data: lcm verify data"
        )


def seed_generators(purpose: int, seed: int, number: int) -> None:
    """Seed torch's default generators, of CPU and GPU, for one micro-batch."""
    torch.manual_seed(int(np.random.SeedSequence((purpose, seed, number)).generate_state(1, np.uint64)[0]))
