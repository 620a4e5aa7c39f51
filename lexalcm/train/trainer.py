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

import math
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch

from lexalcm.config import TrainSettings
from lexalcm.data.loader import Batch, TrainingBatches, ValidationBatches
from lexalcm.errors import TrainingError
from lexalcm.train.checkpoint import Progress
from lexalcm.train.engines.protocol import Engine
from lexalcm.train.monitor import Monitor
from lexalcm.train.schedule import learning_rate
from lexalcm.train.stop import StopRequest
from lexalcm.train.world import World

TRAINING, VALIDATION = range(2)
"""What a generator is seeded for, so that no micro-batch of one shares its noise with one of the other."""


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
        save: Callable[[Progress], None],
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
        """
        self.engine = engine
        self.batches = batches
        self.validation = validation
        self.settings = settings
        self.world = world
        self.monitor = monitor
        self.save = save

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
        batches = self.world.watched(
            self.batches.iterate(progress.step, settings.steps, rank=self.world.rank, world_size=self.world.size)
        )
        line_began, line_concepts = time.perf_counter(), progress.concepts
        stopping = False
        while progress.step < settings.steps and not stopping:
            lr = learning_rate(progress.step, settings)
            progress, grad_norm, stopping = self._step(progress, batches, lr, stop)
            self._check(progress, lr)
            last = progress.step == settings.steps
            validating = self.validation is not None and (last or progress.step % settings.validate_every == 0)
            if validating or last or progress.step % settings.log_every == 0:
                line = {
                    "step": progress.step,
                    "loss": progress.open_loss / progress.open_targets if progress.open_targets else math.nan,
                    "lr": lr,
                    "grad_norm": grad_norm,
                    "concepts_per_s": (progress.concepts - line_concepts) / (time.perf_counter() - line_began),
                    "seconds": progress.seconds,
                    "skipped_steps": progress.step - progress.updates,
                    "skipped_documents": progress.skipped_documents,
                }
                if validating:
                    line["validation_loss"] = self.validate()
                self.monitor.write(line)
                progress = progress.begin_line(line["loss"], line.get("validation_loss"))
                line_began, line_concepts = time.perf_counter(), progress.concepts
            if last or stopping or progress.step % settings.checkpoint.every == 0:
                self.save(progress)
        return progress

    def validate(self) -> float:
        """The mean loss per target of the validation split, with noise that is the same in every run."""
        assert self.validation is not None
        loss, missing = 0.0, 0
        for batch in self.world.watched(self.validation.iterate(rank=self.world.rank, world_size=self.world.size)):
            seed_generators(VALIDATION, 0, batch.number)
            loss += self.engine.loss(batch).sum.item()
            missing += batch.missing_targets
        all_loss, all_missing = self.world.sum([loss, missing])
        return all_loss / max(1, self.validation.targets - all_missing)

    def _step(
        self, progress: Progress, batches: Iterator[Batch], lr: float, stop: StopRequest
    ) -> tuple[Progress, float, bool]:
        """Make one step; returns the gradient's norm too, and whether any process was asked to stop."""
        began = time.perf_counter()
        targets = self.batches.targets_in_step(progress.step)
        losses, concepts, skipped, missing = [], 0, 0, 0
        for left in reversed(range(self.batches.settings.global_batch // self.world.size)):
            batch = next(batches)
            seed_generators(TRAINING, self.settings.seed, batch.number)
            losses.append(self.engine.accumulate(batch, self.world.size / targets, last=left == 0).sum)
            concepts += int((batch.documents >= 0).sum())
            skipped += batch.skipped
            missing += batch.missing_targets
        update = self.engine.update(lr)
        mine = torch.stack(losses).double().sum().item()
        loss, all_concepts, stops, all_skipped, all_missing = self.world.sum(
            [mine, concepts, stop.made, skipped, missing]
        )
        targets = max(1, targets - int(all_missing))
        seconds = time.perf_counter() - began
        progress = progress.after_step(
            applied=update.applied,
            loss=loss,
            targets=targets,
            concepts=int(all_concepts),
            skipped=int(all_skipped),
            seconds=seconds,
        )
        self.monitor.display.advance(
            {"step": progress.step, "loss": loss / targets, "lr": lr, "concepts_per_s": all_concepts / seconds}
        )
        return progress, update.grad_norm, stops > 0

    def _check(self, progress: Progress, lr: float) -> None:
        if progress.bad_steps >= self.settings.max_bad_steps:
            raise TrainingError(
                f"the loss or its gradient was not finite in {progress.bad_steps} steps in a row (up to step "
                f"{progress.step}, learning rate {lr:.3g}): lower train.lr or raise train.warmup_steps, and look at "
                "grad_norm in metrics.jsonl before; if it fails from the first step, check the data: lcm verify data"
            )


def seed_generators(purpose: int, seed: int, number: int) -> None:
    """Seed torch's default generators, of CPU and GPU, for one micro-batch."""
    torch.manual_seed(int(np.random.SeedSequence((purpose, seed, number)).generate_state(1, np.uint64)[0]))
