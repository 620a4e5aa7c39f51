"""What `lcm train` does, from settings to result: check everything, decide where to begin, train, export.

Every mistake that can be known is found before the run's folder is touched, so that a run that was refused leaves
nothing behind.
"""

import hashlib
import logging
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lexalcm.config import load_settings
from lexalcm.data.batches.loader import TrainingBatches, ValidationBatches
from lexalcm.data.batches.loader_failure import report_worker_death
from lexalcm.data.batches.mixture import Mixture
from lexalcm.data.format.manifest import MANIFEST_FILE
from lexalcm.distributed.signals import StopRequest
from lexalcm.distributed.world import World, find_world, joined
from lexalcm.io.hashing import file_sha256
from lexalcm.model.lcm import LCM
from lexalcm.model.storage.codec_match import check_codec_match
from lexalcm.model.storage.folder import load_model
from lexalcm.objective import Objective, create_objective
from lexalcm.train.checkpoint.export import export_model
from lexalcm.train.checkpoint.format import TrainState, load_weights, restore_engine
from lexalcm.train.checkpoint.manager import CheckpointManager
from lexalcm.train.engines.choose import EngineChoice, agreed_engine, choose_engine, start_engine
from lexalcm.train.layers import freeze
from lexalcm.train.memory.allocator import keep_freed_memory
from lexalcm.train.memory.choice import planned_bytes
from lexalcm.train.memory.peak import peak_bytes
from lexalcm.train.monitor.callbacks import build_callbacks, build_training_metrics, open_monitor
from lexalcm.train.monitor.log_file import LogFile
from lexalcm.train.monitor.run_monitor import Display, LoggingDisplay, Monitor, NullDisplay
from lexalcm.train.monitor.wandb import check_wandb
from lexalcm.train.run.bad_step import BadStep, dump_bad_step
from lexalcm.train.run.folder import Fingerprints, RunFolder, run_folder, saved_run
from lexalcm.train.run.lock import check_shared, locked
from lexalcm.train.run.resume import (
    check_inputs_outside_run,
    prepare_run_folder,
    record_export,
    recreate_run_folder,
    resolve_resume,
)
from lexalcm.train.settings import RunConfig
from lexalcm.train.trainer import Trainer

logger = logging.getLogger(__name__)

VALIDATION_SPLIT = "validation"
DRY_RUN_STEPS = 2


@dataclass(frozen=True)
class RunResult:
    """How a run ended."""

    status: str  # "finished", "stopped" (asked to; what was done is saved) or "complete" (it was finished before)
    run: Path
    step: int
    train_loss: float | None  # mean per target over the last line's steps
    validation_loss: float | None
    skipped_steps: int
    skipped_documents: int  # in bad shards, each time that they were to be read
    concepts: int
    seconds: float  # in all, also before a resumption
    model: Path | None  # the exported model
    checkpoint: Path | None


@dataclass(frozen=True)
class DryRunResult:
    """What two steps showed; bytes are those of this process."""

    engine: str
    precision: str
    device: str
    processes: int
    model_parameters: int
    parameters_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    peak_bytes: int  # of the GPU, or of this process's whole memory on a CPU
    loss: float
    seconds_per_step: float


@dataclass(frozen=True)
class _Parts:
    """What a training is made of, checked and ready."""

    world: World
    choice: EngineChoice
    mixture: Mixture
    batches: TrainingBatches
    validation: ValidationBatches | None
    objective: Objective

    @property
    def model(self) -> LCM:
        """What is trained."""
        return self.objective.model


def read_run_config(file: Path | None, overrides: Iterable[str | tuple[str, Any]], resume: str) -> RunConfig:
    """Read the settings of a run; where `resume` is a path, those saved there are the base.

    Raises:
        ConfigError: an unknown key, a wrong type, an unreadable file.
        UserError: the path to resume from is not a run.
    """
    base: dict[str, Any] = {}
    if resume not in ("auto", "never"):
        run, _ = saved_run(resume)
        base = {**run.saved_settings().model_dump(mode="json"), "name": run.path.resolve().name}
    return load_settings(RunConfig, file, overrides, base)


def train(
    config: RunConfig,
    *,
    resume: str = "auto",
    overwrite: bool = False,
    display: Display | None = None,
    stop: StopRequest | None = None,
) -> RunResult:
    """Train a model as the settings say, in the folder `runs/NAME`.

    Args:
        config: the settings.
        resume: `auto`: resume where an earlier run of this name stopped; `never`: start over; else the folder of a run,
            or one of its checkpoints, to resume from.
        overwrite: with `never`, replace an earlier run of this name.
        display: shows the run; asked on the main process only.
        stop: has caught signals since before all this was loaded.

    Raises:
        UserError: something about settings, data, model or folders must be put right first.
        TrainingError: the training cannot go on.
    """
    parts = _assemble(config)
    world = parts.world
    run, checkpoint = (run_folder(config), None) if resume in ("auto", "never") else saved_run(resume)
    check_inputs_outside_run(run, config)
    display = LoggingDisplay(display if display is not None and world.is_main else NullDisplay())
    group = joined(world, process_group=parts.choice.engine.needs_process_group, timeout=config.train.timeout)
    with (
        LogFile(world) as log,
        group,
        report_worker_death(world.rank),
        StopRequest(stop) as stop,
        locked(run, world, display.note),
    ):
        check_shared(run, world)
        fingerprints = world.from_main(lambda: _fingerprints(parts))
        start = world.from_main(
            lambda: resolve_resume(
                run, config, fingerprints, resume=resume, checkpoint=checkpoint, overwrite=overwrite, note=display.note
            )
        )
        if start.complete:
            return _result("complete", run, start.state, start.checkpoint)
        if world.sum([stop.requested])[0]:  # while all was loaded: as long again would pass before the first step
            return _result("stopped", run, start.state, start.checkpoint)
        if start.checkpoint is not None:
            load_weights(start.checkpoint, parts.model)
        choice = _agreed_choice(parts, config, display)
        with closing(start_engine(choice, parts.objective, config.train, world.device)) as engine:
            if start.checkpoint is not None:
                restore_engine(start.checkpoint, engine, start.state.updates)
                display.note(f"resuming from step {start.state.step} ({start.checkpoint})")
            if parts.validation is None:
                display.note(f"{config.data.names} has no {VALIDATION_SPLIT} split: there will be no validation loss")
            for bad in parts.mixture.bad_shards() if config.data.on_bad_shard == "skip" else ():
                display.note(f"skipping documents: {bad}")
            world.from_main(lambda: prepare_run_folder(run, config, fingerprints, start, display.note))
            log.open(run.logs)
            logger.info("engine %s in %s, from step %d", engine.name, engine.precision, start.state.step)
            checkpoints = CheckpointManager(
                run.checkpoints,
                engine,
                config.train.checkpoint,
                world,
                display.note,
                start.checkpoint,
                partial(recreate_run_folder, run, config, fingerprints),
            )

            def dump(bad: BadStep) -> str:
                return dump_bad_step(run.path, bad, config, engine, parts.batches, parts.mixture, world)

            objective, step = parts.objective, start.state.step
            with closing(checkpoints), open_monitor(config, objective, run, display, step, world) as monitor:
                planned = _planned_bytes(parts, config, choice)
                callbacks = build_callbacks(config, parts.mixture, engine, monitor, run, start.state, world, planned)
                trainer = Trainer(
                    engine,
                    parts.batches,
                    parts.validation,
                    config.train,
                    world,
                    monitor,
                    checkpoints.save,
                    dump,
                    build_training_metrics(config, objective, engine, world),
                    callbacks,
                    choice.compiled_parts,
                )
                state = trainer.run(start.state, stop)
            if state.step < config.train.steps:
                return _result("stopped", run, state, checkpoints.last)
            dataset = parts.mixture.datasets[0].path
            world.from_main(lambda: export_model(_saved(checkpoints), config.model, dataset, run.model))
            world.from_main(lambda: record_export(run, fingerprints, state))
            return _result("finished", run, state, checkpoints.last)


def dry_run(config: RunConfig, *, display: Display | None = None, stop: StopRequest | None = None) -> DryRunResult:
    """Make two steps and measure memory; nothing is written. Arguments and errors are those of `train`."""
    parts = _assemble(config)
    world = parts.world
    display = display if display is not None and world.is_main else NullDisplay()
    settings = config.train.model_copy(update={"steps": DRY_RUN_STEPS})
    model_parameters = sum(parameter.numel() for parameter in parts.model.parameters())
    with (
        joined(world, process_group=parts.choice.engine.needs_process_group, timeout=config.train.timeout),
        report_worker_death(world.rank),
        StopRequest(stop) as stop,
    ):
        choice = _agreed_choice(parts, config, display)
        with closing(start_engine(choice, parts.objective, config.train, world.device)) as engine:
            monitor, compiled = Monitor(None, display), choice.compiled_parts
            trainer = Trainer(engine, parts.batches, None, settings, world, monitor, _save_nothing, compiled=compiled)
            began = time.perf_counter()
            state = trainer.run(TrainState(), stop)
            seconds = time.perf_counter() - began
            memory = engine.memory()
            return DryRunResult(
                engine=engine.name,
                precision=engine.precision,
                device=str(world.device),
                processes=world.size,
                model_parameters=model_parameters,
                parameters_bytes=memory.parameters,
                gradients_bytes=memory.gradients,
                optimizer_bytes=memory.optimizer,
                peak_bytes=peak_bytes(world.device),
                loss=state.train_loss if state.train_loss is not None else float("nan"),
                seconds_per_step=seconds / DRY_RUN_STEPS,
            )


def _assemble(config: RunConfig) -> _Parts:
    """Open and check everything that a training needs; what fits together first, the memory plan last."""
    world = find_world()
    check_wandb(config.train.wandb)
    if world.device.type == "cpu":
        keep_freed_memory()
    mixture = Mixture.open(config.data)
    model = load_model(config.model)
    check_codec_match(model.config, config.model, mixture.codec, config.data.all_sets[0].path)
    objective = create_objective(model, config.train.objective)
    freeze(model, config.train.freeze)
    batches = TrainingBatches(mixture, config.data, config.train.seed)
    validation = ValidationBatches.of(mixture, config.data, VALIDATION_SPLIT)
    choice = choose_engine(config, world, model.config)
    return _Parts(world, choice, mixture, batches, validation, objective)


def _agreed_choice(parts: _Parts, config: RunConfig, display: Display) -> EngineChoice:
    """The engine that suits all processes, which have joined; notes why it was chosen."""
    choice = agreed_engine(parts.choice, config, parts.world, parts.model.config)
    if choice.note is not None:
        display.note(choice.note)
    gpus = torch.cuda.device_count()
    if parts.world.size == 1 and gpus > 1:
        display.note(f"1 of {gpus} GPUs is used; --nproc gpu starts a process on each")
    return choice


def _planned_bytes(parts: _Parts, config: RunConfig, choice: EngineChoice) -> int | None:
    """Bytes of each GPU's memory."""
    if parts.world.device.type != "cuda":
        return None
    checkpointing = choice.checkpointing or config.train.activation_checkpointing
    precision, layout = choice.setup.precision, choice.setup.layout
    return planned_bytes(config, parts.model.config, parts.world.size, precision, layout, checkpointing)


def _fingerprints(parts: _Parts) -> Fingerprints:
    digest = hashlib.sha256()
    for name, tensor in sorted(parts.model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    manifests = [file_sha256(dataset.path / MANIFEST_FILE) for dataset in parts.mixture.datasets]
    data = manifests[0] if len(manifests) == 1 else hashlib.sha256("".join(manifests).encode()).hexdigest()
    return Fingerprints(weights=digest.hexdigest(), dataset=data)


def _save_nothing(state: TrainState, *, required: bool) -> None:
    """Of a dry run."""


def _saved(checkpoints: CheckpointManager) -> Path:
    assert checkpoints.last is not None  # the last step must be saved, or there is an error
    return checkpoints.last


def _result(status: str, run: RunFolder, state: TrainState, checkpoint: Path | None) -> RunResult:
    return RunResult(
        status=status,
        run=run.path,
        step=state.step,
        train_loss=state.train_loss,
        validation_loss=state.validation_loss,
        skipped_steps=state.step - state.updates,
        skipped_documents=state.skipped_documents,
        concepts=state.concepts,
        seconds=state.seconds,
        model=run.model if run.model.is_dir() else None,
        checkpoint=checkpoint,
    )
