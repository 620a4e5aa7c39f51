"""The start of a run: whether it begins, resumes, or is complete; and its folder made ready for that.

A run resumes only with the settings that it began with: mixing two would give a loss curve that no settings explain.
What cannot change the curve may change (engine, logging, checkpoints, loader processes), and `train.steps` may grow.

A folder that a run begins in appears whole, so that a kill at any moment leaves a run or nothing. What lies beyond the
checkpoint that a run resumes from is set aside: whoever goes back may want to return.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lexalcm.errors import ConfigError, TrainingError, UserError
from lexalcm.io.atomic import atomic_folder, check_output, remove_folder, write_text
from lexalcm.io.folders import entries
from lexalcm.train.checkpoint.format import TrainState, list_checkpoints, read_train_state
from lexalcm.train.run.folder import Fingerprints, RunFolder
from lexalcm.train.settings import RunConfig

MAY_CHANGE = (
    "name",
    "deepspeed",
    "data.num_workers",
    "data.on_bad_shard",
    "data.check_hashes",
    "train.engine",
    "train.fsdp",
    "train.nvme_path",
    "train.activation_checkpointing",
    "train.log_every",
    "train.validate_every",
    "train.max_bad_steps",
    "train.timeout",
    "train.checkpoint",
    "train.peak_tflops",
    "train.watch",
    "train.samples",
    "train.wandb",
)
MAY_GROW = "train.steps"

Note = Callable[[str], None]
"""Prints one line for the user."""


@dataclass(frozen=True)
class StartPoint:
    """Where a run starts or resumes."""

    state: TrainState
    checkpoint: Path | None = None  # none: from the initial weights
    complete: bool = False  # all steps done and the model exported


def check_inputs_outside_run(run: RunFolder, config: RunConfig) -> None:
    """Make sure that a run does not train on what is in its own folder, which beginning anew would remove.

    Raises:
        ConfigError: the model or a data set is there.
    """
    inside = run.path.resolve()
    for kind, path in (("model", config.model), *(("data set", one.path) for one in config.data.all_sets)):
        if Path(path).resolve().is_relative_to(inside):
            raise ConfigError(
                f"the {kind} {path} is in {run.path}, the folder of the run that is to train with it: choose another "
                "name for the new run with --name"
            )


def resolve_resume(
    run: RunFolder,
    config: RunConfig,
    fingerprints: Fingerprints,
    *,
    resume: str,
    checkpoint: Path | None = None,
    overwrite: bool = False,
    note: Note,
) -> StartPoint:
    """Decide from where a run starts or resumes, changing nothing on disk.

    Args:
        run: its folder.
        config: the settings asked for.
        fingerprints: of the model and data set that the settings name.
        resume: `auto`: resume where there is something to resume from; `never`: start over.
        checkpoint: resume from this one and no other.
        overwrite: `never` may replace an earlier run.
        note: prints that a damaged checkpoint is skipped.

    Raises:
        ConfigError: the settings are not those that the run began with.
        UserError: the folder is taken; the one checkpoint, or all there are, cannot be used.
    """
    if overwrite and resume != "never":
        raise ConfigError("--overwrite goes with --resume never; without them a run resumes where it stopped")
    if resume == "never":
        check_output(run.path, overwrite=overwrite, marker=run.config.name)
        return StartPoint(TrainState())
    if not run.config.is_file():
        if run.path.exists() and any(run.path.iterdir()):
            raise UserError(f"{run.path} holds no {run.config.name}, so it is not a run: choose another --name")
        check_output(run.path)
        return StartPoint(TrainState())
    check_unchanged(run, config, fingerprints)
    if checkpoint is not None:
        try:
            return _start_point(checkpoint, run, config)
        except TrainingError as error:
            raise UserError(
                f"{checkpoint} cannot be used ({error}): choose another checkpoint, or --resume {run.path} to resume "
                "from the newest one that is complete"
            ) from error
    candidates = list_checkpoints(run.checkpoints)
    for candidate in candidates:
        try:
            return _start_point(candidate, run, config)
        except TrainingError as error:
            note(f"skipping the checkpoint {candidate.name}: {error}")
    if candidates:
        raise UserError(f"no checkpoint in {run.checkpoints} can be used: start over with --resume never --overwrite")
    if run.latest.exists():  # a disk that is not mounted must not cost what was trained
        raise UserError(
            f"{run.path} has saved checkpoints, but {run.checkpoints} holds none: put one back, or start over with "
            "--resume never --overwrite"
        )
    return StartPoint(TrainState())


def _start_point(checkpoint: Path, run: RunFolder, config: RunConfig) -> StartPoint:
    """The start from a checkpoint; raises `TrainingError` where it cannot be used."""
    state = read_train_state(checkpoint)
    exported = run.model.is_dir() and run.saved_fingerprints().exported == state.step
    return StartPoint(state, checkpoint, exported and state.step >= config.train.steps)


def check_unchanged(run: RunFolder, config: RunConfig, fingerprints: Fingerprints) -> None:
    """Make sure that a run resumes with what it began with.

    Raises:
        ConfigError: names the first setting that differs, and what to do.
        UserError: what it began with cannot be read.
    """
    advice = "use --name NEW for another run, or --resume never --overwrite to start this one over"
    saved = run.saved_settings().model_dump(mode="json")
    for key, old, new in differences(saved, config.model_dump(mode="json")):
        if any(key == allowed or key.startswith(allowed + ".") for allowed in MAY_CHANGE):
            continue
        if key == MAY_GROW and new > old:
            continue
        before, now = ("null" if value is None else value for value in (old, new))  # as settings are written
        raise ConfigError(f"{run.path} was started with {key} = {before}, not {now}: {advice}")
    began = run.saved_fingerprints()
    if began.weights != fingerprints.weights:
        raise ConfigError(f"{run.path} was started from other weights than {config.model} holds now: {advice}")
    if began.dataset != fingerprints.dataset:
        raise ConfigError(f"{run.path} was started on another data set than {config.data.names} is now: {advice}")


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Keys in which two settings differ, with both values."""
    for key, value in old.items():
        if isinstance(value, Mapping) and isinstance(new[key], Mapping):
            yield from differences(value, new[key], f"{prefix}{key}.")
        elif value != new[key]:
            yield f"{prefix}{key}", value, new[key]


def prepare_run_folder(
    run: RunFolder, config: RunConfig, fingerprints: Fingerprints, start: StartPoint, note: Note
) -> None:
    """Make the run's folder as it is to be at this start: the first change on disk.

    A run that begins has nothing in it; one that resumes has no step beyond the one it resumes from.
    """
    if start.checkpoint is None:
        remove_folder(run.path)
        with atomic_folder(run.path) as folder:
            new = RunFolder(folder)
            new.checkpoints.mkdir()
            _write_settings(new, config, fingerprints)
        return
    for leftover in _leftovers(run):
        with suppress(OSError):  # it costs nothing but room
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    later = [path for path in list_checkpoints(run.checkpoints) if path.name > start.checkpoint.name]
    if later:
        note(f"checkpoints after {start.checkpoint.name} were moved to {_move_to_set_aside(run, later)}")
    for lines in (run.metrics, run.samples):
        keep_lines_until(lines, start.state.step)
    _write_settings(run, config, fingerprints)


def _leftovers(run: RunFolder) -> list[Path]:
    """What writers that were killed left behind."""
    in_checkpoints = [path for path in entries(run.checkpoints) if path.name.startswith(".")]
    return in_checkpoints + [path for path in entries(run.path) if path.match(".*.tmp")]


def recreate_run_folder(run: RunFolder, config: RunConfig, fingerprints: Fingerprints) -> str | None:
    """Make the folder of a run at work again if somebody has removed it, so that it can be resumed.

    Returns:
        a note of it; none: the folder is there.
    """
    if run.config.is_file():
        return None
    run.path.mkdir(parents=True, exist_ok=True)
    _write_settings(run, config, fingerprints)
    return f"{run.path} was removed: it is created again, with this checkpoint"


def record_export(run: RunFolder, fingerprints: Fingerprints, state: TrainState) -> None:
    """Note which step's weights the exported model has: a run may be made longer, and stop before its next end."""
    _write_fingerprints(run, fingerprints.model_copy(update={"exported": state.step}))


def _write_settings(run: RunFolder, config: RunConfig, fingerprints: Fingerprints) -> None:
    _write_fingerprints(run, fingerprints)
    write_text(run.config, config.to_yaml())


def _write_fingerprints(run: RunFolder, fingerprints: Fingerprints) -> None:
    write_text(run.fingerprints, fingerprints.model_dump_json(indent=2) + "\n")


def _move_to_set_aside(run: RunFolder, checkpoints: list[Path]) -> Path:
    """Move checkpoints into a folder that is a run of its own, with the lines until now; gives that folder."""
    run.set_aside.mkdir(exist_ok=True)
    numbers = [int(path.name) for path in entries(run.set_aside) if path.name.isdecimal()]
    moved = RunFolder(run.set_aside / str(max(numbers, default=0) + 1))
    with atomic_folder(moved.path) as folder:
        for file in (run.config, run.fingerprints, run.metrics, run.samples):
            if file.exists():
                shutil.copyfile(file, folder / file.name)
        RunFolder(folder).checkpoints.mkdir()
    for checkpoint in checkpoints:
        checkpoint.rename(moved.checkpoints / checkpoint.name)
    return moved.path


def keep_lines_until(file: Path, step: int) -> None:
    """Drop the lines of later steps, and a last line that was not written to its end."""
    if not file.exists():
        return
    kept = []
    for line in file.read_bytes().split(b"\n"):  # not where text has a line break of another kind
        try:
            text = line.decode()
            record = json.loads(text)
        except ValueError:  # of JSON, or of UTF-8 in the middle of a letter
            continue
        if record["step"] <= step:
            kept.append(text + "\n")
    write_text(file, "".join(kept))
