"""Which folder is meant by "the model": a model folder, the folder of a run, or the newest run's."""

from pathlib import Path

from lexalcm.errors import UserError
from lexalcm.io.folders import entries

RUNS = Path("runs")
CONFIG_FILE = "config.json"  # what makes a folder a model folder


def find_model(path: str | Path | None = None, runs: Path = RUNS) -> Path:
    """Find a model folder, the one that holds `config.json`.

    Args:
        path: a model folder, or the folder of a run that has exported its model; none: the newest of `runs/*/model`.
        runs: where runs are kept.

    Raises:
        UserError: there is none, with what to do.
    """
    if path is None:
        return _newest(runs)
    path = Path(path)
    for folder in (path, path / "model"):
        if (folder / CONFIG_FILE).is_file():
            return folder
    if not path.exists():
        raise UserError(f"no such model: {path}: make one with lcm bootstrap, or give a model or run folder")
    if (path / "checkpoints").is_dir():
        raise UserError(f"the run {path} has not exported a model yet: continue it with lcm train --resume auto")
    raise UserError(f"{path} is not a model folder: it has no {CONFIG_FILE}")


def _newest(runs: Path) -> Path:
    found = [run / "model" for run in entries(runs) if (run / "model" / CONFIG_FILE).is_file()]
    if not found:
        raise UserError(f"no trained model in {runs}/: run lcm train first")
    return max(found, key=lambda folder: (folder / CONFIG_FILE).stat().st_mtime)
