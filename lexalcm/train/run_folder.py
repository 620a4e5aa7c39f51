"""The folder of a run, and the decision whether a run begins, goes on, or is done.

    runs/NAME/
      config.yaml      the settings, ready for --config
      run.json         what the settings cannot show: fingerprints of the model and of the data set it began with
      checkpoints/     see checkpoint.py
      latest           the newest checkpoint's name
      metrics.jsonl    one JSON object a line, steps ascending
      samples.jsonl    what the model wrote on the way, where it can
      tb/              TensorBoard
      logs/            a log of each process
      model/           the exported model, at the end

A run goes on only with the settings that it began with: mixing two would give a loss curve that no settings explain.
What cannot change the curve may change (engine, logging, checkpoints, loader processes), and `train.steps` may grow.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lexalcm.atomic import check_output, write_text
from lexalcm.config import RunConfig, Settings, load_settings
from lexalcm.errors import ConfigError, TrainingError, UserError
from lexalcm.model.locate import RUNS
from lexalcm.train.checkpoint import Progress, list_checkpoints, read_progress

MAY_CHANGE = (
    "name",
    "deepspeed",
    "data.num_workers",
    "data.on_bad_shard",
    "data.check_hashes",
    "train.engine",
    "train.fsdp",
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
"""Says something to the user, one line."""


class Fingerprints(Settings):
    """`run.json`: what a run began with, beside its settings."""

    weights: str  # SHA-256 of the initial weights
    dataset: str  # SHA-256 of the data set's manifest, which holds its shards' hashes


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run."""

    path: Path

    @property
    def config(self) -> Path:
        """The settings."""
        return self.path / "config.yaml"

    @property
    def fingerprints(self) -> Path:
        """What it began with."""
        return self.path / "run.json"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """The metrics, a JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def samples(self) -> Path:
        """What the model wrote on the way, a JSON object a line."""
        return self.path / "samples.jsonl"

    @property
    def logs(self) -> Path:
        """The folder of logs, a file a process."""
        return self.path / "logs"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's folder."""
        return self.path / "tb"

    @property
    def model(self) -> Path:
        """The exported model."""
        return self.path / "model"


@dataclass(frozen=True)
class Start:
    """Where a run begins or goes on."""

    progress: Progress
    checkpoint: Path | None = None  # none: from the initial weights
    complete: bool = False  # all steps done and the model exported


def run_folder(config: RunConfig) -> RunFolder:
    """The folder of a run: `runs/` and its name, by default the model folder's.

    Raises:
        ConfigError: a name that is no plain folder name.
    """
    name = config.name if config.name is not None else Path(config.model).name
    if not name or name in (".", "..") or Path(name).name != name:
        raise ConfigError(f"name {name!r}: a run's name is a plain folder name; choose one with --name")
    return RunFolder(RUNS / name)


def saved_run(path: str | Path, option: str = "--resume") -> tuple[RunFolder, Path | None]:
    """Find the run, and the checkpoint if one is meant, that an option names.

    Raises:
        UserError: it is neither a run's folder nor one of its checkpoints.
    """
    path = Path(path)
    for folder, checkpoint in ((path, None), (path.parent.parent, path)):
        run = RunFolder(folder)
        if run.config.is_file() and (checkpoint is None or checkpoint.parent == run.checkpoints):
            return run, checkpoint
    raise UserError(f"{option} {path}: neither the folder of a run nor one of its checkpoints")


def decide_start(
    run: RunFolder,
    config: RunConfig,
    fingerprints: Fingerprints,
    *,
    resume: str,
    checkpoint: Path | None = None,
    overwrite: bool = False,
    note: Note,
) -> Start:
    """Decide how a run starts, changing nothing on disk.

    Args:
        run: its folder.
        config: the settings asked for.
        fingerprints: of the model and data set that the settings name.
        resume: `auto`: go on where there is something to go on from; `never`: begin anew.
        checkpoint: go on from this one and no other.
        overwrite: `never` may replace an earlier run.
        note: where to say that a damaged checkpoint is passed over.

    Raises:
        ConfigError: the settings are not those that the run began with.
        UserError: the folder is taken, or its checkpoints are all damaged.
    """
    if overwrite and resume != "never":
        raise ConfigError("--overwrite goes with --resume never; without them a run goes on where it stopped")
    if resume == "never":
        check_output(run.path, overwrite=overwrite, marker=run.config.name)
        return Start(Progress())
    if not run.config.is_file():
        if run.path.exists() and any(run.path.iterdir()):
            raise UserError(f"{run.path} holds no {run.config.name}, so it is no run: choose another --name")
        check_output(run.path)
        return Start(Progress())
    check_unchanged(run, config, fingerprints)
    candidates = [checkpoint] if checkpoint else list_checkpoints(run.checkpoints)
    for candidate in candidates:
        try:
            progress = read_progress(candidate)
        except TrainingError as error:
            note(f"passing over the checkpoint {candidate.name}: {error}")
            continue
        complete = progress.step >= config.train.steps and run.model.is_dir()
        return Start(progress, candidate, complete)
    if candidates:
        raise UserError(f"no checkpoint in {run.checkpoints} can be used: begin anew with --resume never --overwrite")
    return Start(Progress())


def check_unchanged(run: RunFolder, config: RunConfig, fingerprints: Fingerprints) -> None:
    """Make sure that a run goes on with what it began with.

    Raises:
        ConfigError: names the first setting that differs, and what to do.
    """
    advice = "use --name NEW for another run, or --resume never --overwrite to begin this one anew"
    saved = load_settings(RunConfig, run.config)
    for key, old, new in differences(saved.model_dump(mode="json"), config.model_dump(mode="json")):
        if any(key == allowed or key.startswith(allowed + ".") for allowed in MAY_CHANGE):
            continue
        if key == MAY_GROW and new > old:
            continue
        raise ConfigError(f"{run.path} was begun with {key} = {old}, not {new}: {advice}")
    began = Fingerprints.model_validate_json(run.fingerprints.read_bytes())
    if began.weights != fingerprints.weights:
        raise ConfigError(f"{run.path} was begun from other weights than {config.model} holds now: {advice}")
    if began.dataset != fingerprints.dataset:
        raise ConfigError(f"{run.path} was begun on another data set than {config.data.names} is now: {advice}")


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Keys in which two settings differ, with both values."""
    for key, value in old.items():
        if isinstance(value, Mapping) and isinstance(new[key], Mapping):
            yield from differences(value, new[key], f"{prefix}{key}.")
        elif value != new[key]:
            yield f"{prefix}{key}", value, new[key]


def prepare(run: RunFolder, config: RunConfig, fingerprints: Fingerprints, start: Start) -> None:
    """Make the run's folder as it is to be at this start: the first change on disk.

    A run that begins has nothing in it; one that goes on has no step beyond the one it goes on from.
    """
    if start.checkpoint is None and run.path.exists():
        shutil.rmtree(run.path)
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    for leftover in run.checkpoints.glob(".*"):  # of a writer that was killed
        shutil.rmtree(leftover)
    for checkpoint in list_checkpoints(run.checkpoints):
        if start.checkpoint is not None and checkpoint.name > start.checkpoint.name:
            shutil.rmtree(checkpoint)
    for lines in (run.metrics, run.samples):
        keep_lines_until(lines, start.progress.step)
    write_text(run.fingerprints, fingerprints.model_dump_json(indent=2) + "\n")
    write_text(run.config, config.to_yaml())


def keep_lines_until(file: Path, step: int) -> None:
    """Drop the lines of later steps, and a last line that was not written to its end."""
    if not file.exists():
        return
    kept = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if record["step"] <= step:
            kept.append(line + "\n")
    write_text(file, "".join(kept))
