"""The training loop: which numbers go through the model when. It knows no engine, no process group, no files.

The loss curve is a function of settings and seed alone:

- the batch plan says what is in micro-batch n, whoever computes it;
- torch's generator is seeded with (seed, n) before micro-batch n, so its timesteps, noise and dropout are its own;
- a step's loss is the mean over the targets of all its micro-batches, whose number is known from the plan before any
  is computed. Each micro-batch's summed loss is scaled by processes / targets, because engines average over processes.
  Where documents of a bad shard are skipped, the gradient is smaller by their share; the reported loss is the mean of
  what was there.

So 2 processes with 4 micro-batches each and 1 process with 8 compute the same up to rounding. The price is one small
exchange of numbers between processes a step, which also tells all of them when one was asked to stop.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from lexalcm.data.batches.loader import TrainingBatches, ValidationBatches
from lexalcm.distributed.signals import StopRequest
from lexalcm.distributed.world import World
from lexalcm.errors import TrainingError
from lexalcm.train.checkpoint.format import TrainState
from lexalcm.train.engines.protocol import Engine
from lexalcm.train.lr_schedule import learning_rate
from lexalcm.train.memory.peak import peak_bytes
from lexalcm.train.monitor.run_monitor import Monitor
from lexalcm.train.monitor.timestep_loss import means
from lexalcm.train.monitor.training_metrics import Callback, TrainingMetrics
from lexalcm.train.prefetch import Prefetcher
from lexalcm.train.run.bad_step import BadStep
from lexalcm.train.settings import TrainSettings
from lexalcm.train.step_metrics import StepAccumulator, StepMetrics

TRAINING, VALIDATION = range(2)
"""What a generator is seeded for, so that no micro-batch of one shares its noise with one of the other."""

logger = logging.getLogger(__name__)


class _Step(NamedTuple):
    metrics: StepMetrics
    bad: BadStep
    grad_norm: float
    seconds: float


@dataclass
class _LineTotals:
    """Sums since the last line of metrics."""

    seconds: float = 0.0
    concepts: int = 0
    flops: float = 0.0
    waited: float = 0.0

    def add(self, step: _Step) -> None:
        self.seconds += step.seconds
        self.concepts += step.metrics.concepts
        self.flops += step.metrics.flops
        self.waited += step.metrics.waited


class Save(Protocol):
    """Writes a checkpoint; every process calls it at the same steps."""

    def __call__(self, state: TrainState, *, required: bool) -> None:
        """Save; where that is `required`, return once it is saved, or raise `TrainingError`."""


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
        training_metrics: TrainingMetrics | None = None,
        callbacks: Sequence[Callback] = (),
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
            training_metrics: what to measure beside the loss.
            callbacks: run after steps at which they should.
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
        self.training_metrics = training_metrics or TrainingMetrics()
        self.callbacks = callbacks
        self.compiled = compiled

    def run(self, state: TrainState, stop: StopRequest) -> TrainState:
        """Train from `state` to `settings.steps`, or until asked to stop; save as the settings say and at the end.

        Raises:
            TrainingError: too many steps in a row without a finite loss and gradient.
        """
        self.monitor.display.begin(state.step, self.settings.steps)
        try:
            return self._run(state, stop)
        finally:
            self.monitor.display.end()

    def _run(self, state: TrainState, stop: StopRequest) -> TrainState:
        settings = self.settings
        in_order = self.batches.iterate(state.step, settings.steps, rank=self.world.rank, world_size=self.world.size)
        batches = Prefetcher(self.world.watched(in_order), self.world.device)
        totals, observed = _LineTotals(), dict[str, Any]()
        first, stopping = state.step, False
        while state.step < settings.steps and not stopping:
            lr = learning_rate(state.step, settings)
            with self._compiling(stop) if state.step == first and self.compiled else nullcontext():
                state, step = self._step(state, batches, lr, stop)
            totals.add(step)
            if state.bad_steps >= settings.max_bad_steps:
                self._give_up(state, step)
            stopping = step.metrics.stops > 0
            last = state.step == settings.steps
            validating = self.validation is not None and (last or state.step % settings.validate_every == 0)
            for callback in self.callbacks:
                if callback.should_run(state.step, validating):
                    observed |= callback.run(state)
            if validating or last or state.step % settings.log_every == 0:
                line = self._line(state, step, totals, lr) | observed
                if validating:
                    with stop.ending("validating", nothing_is_lost=False):
                        line |= self._validation_metrics()
                self.monitor.write(line)
                state = state.after_line(line["loss"], line.get("validation_loss"))
                totals, observed = _LineTotals(), {}
            if stopping:
                here = "no signal" if stop.signal is None else stop.signal.name
                logger.info("asked to stop after step %d (this process: %s)", state.step, here)
            if last or stopping or state.step % settings.checkpoint.every == 0:
                self.save(state, required=last or stopping)
        return state

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
        accumulator = StepAccumulator(self.training_metrics.buckets)
        for batch in self.world.watched(self.validation.iterate(rank=self.world.rank, world_size=self.world.size)):
            seed_generators(VALIDATION, 0, batch.number)
            accumulator.add(batch, self.engine.loss(batch))
        accumulator.send()
        metrics = accumulator.reduce(self.world)
        targets = max(1, self.validation.targets - metrics.missing_targets)
        return metrics.loss / targets, means(metrics.by_timestep, metrics.targets_by_timestep)

    def _step(self, state: TrainState, batches: Prefetcher, lr: float, stop: StopRequest) -> tuple[TrainState, _Step]:
        began = time.perf_counter()
        targets = self.batches.targets_in_step(state.step)
        accumulator = StepAccumulator(self.training_metrics.buckets, self.training_metrics.flops_of)
        for left in reversed(range(self.batches.settings.global_batch // self.world.size)):
            batch = next(batches)
            seed_generators(TRAINING, self.settings.seed, batch.number)
            accumulator.add(batch, self.engine.accumulate(batch, self.world.size / targets, last=left == 0))
            batches.fetch()
        accumulator.send()
        update = self.engine.update(lr)
        waited, batches.waited = batches.waited, 0.0
        peak = peak_bytes(self.world.device)
        metrics = accumulator.reduce(self.world, stop=stop.requested, waited=waited, peak_bytes=peak)
        targets = max(1, targets - metrics.missing_targets)
        seconds = time.perf_counter() - began
        state = state.after_step(
            applied=update.applied,
            loss=metrics.loss,
            targets=targets,
            concepts=metrics.concepts,
            skipped=metrics.skipped,
            seconds=seconds,
            by_timestep=metrics.by_timestep,
            targets_by_timestep=metrics.targets_by_timestep,
        )
        loss = metrics.loss / targets
        if not update.applied:
            logger.warning("step %d is skipped: loss %g, gradient norm %g", state.step, loss, update.grad_norm)
        speed = self.training_metrics.speed(seconds, metrics.concepts, metrics.flops, self.world.size)
        self.monitor.display.advance({"step": state.step, "loss": loss, "lr": lr, **speed})
        numbers, losses = tuple(accumulator.numbers), tuple(accumulator.losses)
        bad = BadStep(state.step, lr, loss, update.grad_norm, update.grad_norms, numbers, losses)
        return state, _Step(metrics, bad, update.grad_norm, seconds)

    def _line(self, state: TrainState, step: _Step, totals: _LineTotals, lr: float) -> dict[str, Any]:
        line: dict[str, Any] = {
            "step": state.step,
            "loss": state.open_loss / state.open_targets if state.open_targets else math.nan,
            "lr": lr,
            "grad_norm": step.grad_norm,
            **self.training_metrics.speed(totals.seconds, totals.concepts, totals.flops, self.world.size),
            "data_wait": totals.waited / totals.seconds,
            "peak_memory_gb": step.metrics.peak_bytes / 1e9,
            "seconds": state.seconds,
            "skipped_steps": state.step - state.updates,
            "skipped_documents": state.skipped_documents,
        }
        if (buckets := self.training_metrics.buckets) is not None:
            counts = state.open_targets_by_timestep or (0.0,) * buckets.count  # none: no step had a finite loss
            line["loss_by_timestep"] = means(state.open_loss_by_timestep or counts, counts)
        return line

    def _validation_metrics(self) -> dict[str, Any]:
        loss, by_timestep = self.validate()
        metrics: dict[str, Any] = {"validation_loss": loss}
        if by_timestep:
            metrics["validation_loss_by_timestep"] = by_timestep
        return metrics

    def _give_up(self, state: TrainState, step: _Step) -> None:
        where = self.dump(step.bad)
        raise TrainingError(
            f"the loss or its gradient was not finite in {state.bad_steps} steps in a row (up to step "
            f"{state.step}, learning rate {step.bad.lr:.3g}){where and f'; {where}'}: lower train.lr or raise "
            "train.warmup_steps, and check grad_norm in metrics.jsonl before; if it fails from the first step, check "
            "the data: lcm verify data"
        )


def seed_generators(purpose: int, seed: int, number: int) -> None:
    """Seed torch's default generators, of CPU and GPU, for one micro-batch."""
    torch.manual_seed(int(np.random.SeedSequence((purpose, seed, number)).generate_state(1, np.uint64)[0]))
