"""Puts together what a run is watched with, as its settings say."""

from functools import partial

from lexalcm.data.batches.mixture import Mixture
from lexalcm.distributed.world import World
from lexalcm.objective import Objective
from lexalcm.train.checkpoint.format import Progress
from lexalcm.train.engines.protocol import Engine
from lexalcm.train.lr_schedule import learning_rate
from lexalcm.train.memory.watch import MemoryWatch
from lexalcm.train.monitor.alerts import WeightWatch
from lexalcm.train.monitor.mfu import batch_flops, peak_flops
from lexalcm.train.monitor.run_monitor import Display, Elsewhere, Monitor
from lexalcm.train.monitor.samples import open_samples
from lexalcm.train.monitor.timestep_loss import TimestepBuckets
from lexalcm.train.monitor.training_metrics import Gauges, Look
from lexalcm.train.monitor.wandb import WandbLog
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
        display: who watches.
        step: steps done.
        world: this process's place.

    Raises:
        ConfigError: Weights & Biases refuses.
    """
    elsewhere: list[Elsewhere] = []

    def open_elsewhere() -> None:
        if config.train.wandb.project is not None:
            elsewhere.append(WandbLog(config, run.path))

    world.from_main(open_elsewhere)
    buckets = _buckets(objective)
    return Monitor(
        run if world.is_main else None,
        display,
        step,
        buckets=buckets.names if buckets is not None else (),
        elsewhere=elsewhere,
    )


def make_gauges(
    config: RunConfig,
    objective: Objective,
    mixture: Mixture,
    engine: Engine,
    monitor: Monitor,
    run: RunFolder,
    progress: Progress,
    world: World,
    planned_bytes: int | None,
) -> Gauges:
    """What to measure beside the loss; every process must call it.

    Args:
        config: the run's settings.
        objective: the model and its loss.
        mixture: the run's data sets.
        engine: the model in training.
        monitor: where alerts and samples go.
        run: the run's folder.
        progress: where the run begins or goes on.
        world: this process's place.
        planned_bytes: of each GPU's memory; none: there is no plan.
    """
    train = config.train
    looks: list[Look] = []
    if planned_bytes is not None:
        looks.append(MemoryWatch(planned_bytes, world.device, progress.step, monitor))
    if train.watch.every != 0:
        rate = partial(learning_rate, settings=train)
        looks.append(WeightWatch(engine, monitor, rate, train.watch.every, progress))
    samples = open_samples(config, run.samples, engine, monitor, world, mixture)
    if samples is not None:
        looks.append(samples)
    peak = peak_flops(world.device, engine.precision, train.peak_tflops)
    return Gauges(
        buckets=_buckets(objective),
        # The design's operations are those of training every weight; without a peak nothing is compared with them.
        flops_of=None if train.freeze or peak is None else partial(batch_flops, objective.model.config),
        peak_flops=peak,
        looks=looks,
    )


def _buckets(objective: Objective) -> TimestepBuckets | None:
    return None if objective.timesteps is None else TimestepBuckets(objective.timesteps)
