"""The folder of a run: what is where in it, and which one is meant.

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
  set_aside/1/     what was beyond the checkpoint that the run went on from, if anything was: a folder like this one
"""

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from lexalcm.config import NonNegativeInt, Settings, load_settings
from lexalcm.errors import ConfigError, UserError
from lexalcm.model.storage.locate import RUNS
from lexalcm.train.settings import RunConfig


class Fingerprints(Settings):
    """`run.json`: what a run began with, beside its settings."""

    weights: str  # SHA-256 of the initial weights
    dataset: str  # SHA-256 of the data set's manifest, which holds its shards' hashes
    exported: NonNegativeInt | None = None  # the step whose weights are in model/; none: of an earlier end, or nothing


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
    def latest(self) -> Path:
        """The file with the newest checkpoint's name."""
        return self.path / "latest"

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

    @property
    def set_aside(self) -> Path:
        """The folder of what was beyond a checkpoint that the run went on from."""
        return self.path / "set_aside"

    def saved_settings(self) -> RunConfig:
        """The settings that it was last started with.

        Raises:
            ConfigError: they cannot be read.
        """
        settings = load_settings(RunConfig, self.config)
        if not self.config.read_bytes().strip():  # never written so by a run
            raise ConfigError(f"{self.config} is empty, so the run cannot resume: put its settings back")
        return settings

    def saved_fingerprints(self) -> Fingerprints:
        """What it began with, beside its settings.

        Raises:
            UserError: that cannot be read.
        """
        try:
            return Fingerprints.model_validate_json(self.fingerprints.read_bytes())
        except (FileNotFoundError, ValidationError) as error:
            raise UserError(
                f"{self.fingerprints} is missing or damaged, so the run cannot resume: put it back, or make a "
                "model of a checkpoint (lcm bootstrap --from-checkpoint) and train that under another --name"
            ) from error
        except OSError as error:
            raise UserError(f"cannot read {self.fingerprints}: {error.strerror}") from error


def run_folder(config: RunConfig) -> RunFolder:
    """The folder of a run: `runs/` and its name, by default the model folder's.

    Raises:
        ConfigError: a name that is not a plain folder name.
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
