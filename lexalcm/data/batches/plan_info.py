"""How a training would read its data sets, in numbers."""

from dataclasses import dataclass

import numpy as np

from lexalcm.data.batches.mixture import TRAIN_SPLIT, Mixture
from lexalcm.data.batches.plan import PackedRows, TrainingPlan
from lexalcm.data.settings import DataSettings

_SAMPLED_STEPS = 64
"""Steps of the first epoch whose targets are counted."""


@dataclass(frozen=True)
class SetSummary:
    """What an epoch reads of one data set."""

    path: str
    concepts: int
    """In all its windows, with special concepts."""
    drawn: int
    """Of these in an epoch; more than there are where it is read several times."""
    passes: float
    """How often an epoch reads it."""
    share: float
    """Its part of the epoch's concepts."""


@dataclass(frozen=True)
class PlanSummary:
    """An epoch of training."""

    row_length: int
    micro_batch: int
    global_batch: int
    rows: int
    fill: float
    """Share of positions that hold a concept."""
    targets_per_step: float
    """On average, counted over the first steps."""
    imbalance: float
    """By how much the targets of a micro-batch differ from the average: standard deviation over average."""
    steps_per_epoch: int
    sets: list[SetSummary]

    def lines(self) -> str:
        """For people."""
        lines = [
            f"plan: {self.rows:,} rows of {self.row_length} ({self.fill:.1%} used), {self.steps_per_epoch:,} steps an "
            f"epoch with {self.global_batch} x {self.micro_batch} rows a step, {self.targets_per_step:,.0f} targets a "
            f"step, micro-batches within {self.imbalance:.1%}"
        ]
        if len(self.sets) > 1:
            lines += [
                f"  {one.path}: {one.share:.1%} of concepts, {one.passes:.3g} passes an epoch" for one in self.sets
            ]
        return "\n".join(lines)


def summarize_plan(mixture: Mixture, settings: DataSettings) -> PlanSummary:
    """Plan an epoch on the `train` split and count.

    Raises:
        DataError: as `TrainingBatches`.
    """
    rows = PackedRows([part.documents for part in mixture.parts(TRAIN_SPLIT)], settings.row_length)
    plan = TrainingPlan(rows, micro_batch=settings.micro_batch, global_batch=settings.global_batch, seed=0)
    steps = range(min(plan.steps_per_epoch, _SAMPLED_STEPS))
    micro_batches = range(len(steps) * settings.global_batch)
    targets = np.array([plan.micro_batch_windows(number).targets.sum() for number in micro_batches])
    drawn = rows.draws(0) @ np.arange(settings.row_length + 1)
    return PlanSummary(
        row_length=settings.row_length,
        micro_batch=settings.micro_batch,
        global_batch=settings.global_batch,
        rows=len(plan.rows.epoch_rows(0)),
        fill=plan.rows.epoch_rows(0).fill,
        targets_per_step=float(targets.sum() / len(steps)),
        imbalance=float(targets.std() / targets.mean()),
        steps_per_epoch=plan.steps_per_epoch,
        sets=[
            SetSummary(
                path=dataset.address,
                concepts=windows.concepts,
                drawn=int(draws),
                passes=float(draws / windows.concepts) if windows.concepts else 0.0,
                share=float(draws / drawn.sum()),
            )
            for dataset, windows, draws in zip(mixture.datasets, rows.sets, drawn, strict=True)
        ],
    )
