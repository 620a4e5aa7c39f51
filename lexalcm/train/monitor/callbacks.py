"""Builds what a run is monitored with, as its settings say."""

from functools import partial

from lexalcm.data.batches.mixture import Mixture
from lexalcm.distributed.world import World
from lexalcm.objective import Objective
from lexalcm.train.checkpoint.format import TrainState
from lexalcm.train.engines.protocol import Engine
from lexalcm.train.lr_schedule import learning_rate
from lexalcm.train.memory.watch import MemoryWatch
from lexalcm.train.monitor.alerts import WeightWatch
from lexalcm.train.monitor.mfu import batch_flops, peak_flops
from lexalcm.train.monitor.run_monitor import Display, MetricsWriter, Monitor
from lexalcm.train.monitor.samples import open_samples
from lexalcm.train.monitor.timestep_loss import TimestepBuckets
from lexalcm.train.monitor.training_metrics import Callback, TrainingMetrics
from lexalcm.train.monitor.wandb import WeightsAndBiases
from lexalcm.train.run.folder import RunFolder
from lexalcm.train.settings import RunConfig


def open_monitor(
    config: RunConfig, objective: Objective, run: RunFolder, display: Display, step: int, world: World
) -> Monitor:
    """Open what the main process writes metrics to; every process must call it.

    Args:
        config: the run's settings.
        objective: the model and its loss.
        run: the run's folder.
        display: shows the run.
        step: steps done.
        world: this process's place.

    Raises:
        ConfigError: Weights & Biases refuses.
    """
    writers: list[MetricsWriter] = []

    def open_writers() -> None:
        if config.train.wandb.project is not None:
            writers.append(WeightsAndBiases(config, run.path))

    world.from_main(open_writers)
    buckets = _buckets(objective)
    return Monitor(
        run if world.is_main else None,
        display,
        step,
        buckets=buckets.names if buckets is not None else (),
        writers=writers,
    )


def build_training_metrics(config: RunConfig, objective: Objective, engine: Engine, world: World) -> TrainingMetrics:
    """What to measure beside the loss."""
    peak = peak_flops(world.device, engine.precision, config.train.peak_tflops)
    return TrainingMetrics(
        buckets=_buckets(objective),
        # The design's operations are those of training every weight; without a peak nothing is compared with them.
        flops_of=None if config.train.freeze or peak is None else partial(batch_flops, objective.model.config),
        peak_flops=peak,
    )


def build_callbacks(
    config: RunConfig,
    mixture: Mixture,
    engine: Engine,
    monitor: Monitor,
    run: RunFolder,
    state: TrainState,
    world: World,
    planned_bytes: int | None,
) -> list[Callback]:
    """What to run between steps; every process must call it.

    Args:
        config: the run's settings.
        mixture: the run's data sets.
        engine: the model in training.
        monitor: where alerts and samples go.
        run: the run's folder.
        state: where the run starts or resumes.
        world: this process's place.
        planned_bytes: of each GPU's memory; none: there is no memory plan.
    """
    train = config.train
    callbacks: list[Callback] = []
    if planned_bytes is not None:
        callbacks.append(MemoryWatch(planned_bytes, world.device, state.step, monitor))
    if train.watch.every != 0:
        rate = partial(learning_rate, settings=train)
        callbacks.append(WeightWatch(engine, monitor, rate, train.watch.every, state))
    samples = open_samples(config, run.samples, engine, monitor, world, mixture)
    if samples is not None:
        callbacks.append(samples)
    return callbacks


def _buckets(objective: Objective) -> TimestepBuckets | None:
    return None if objective.timesteps is None else TimestepBuckets(objective.timesteps)
