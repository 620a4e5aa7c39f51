"""What a run has written so far: `metrics.jsonl` as columns, beside the run's settings.

A run may be writing while it is read: a last line that has no end yet is left for the next time. A number that a line
lacks, or that was not finite (null), is NaN. Where a run went back to an earlier checkpoint, the later lines count.
Nothing of the training code is loaded: a page is there in a second.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lexalcm.errors import DataError, UserError
from lexalcm.io.folders import entries
from lexalcm.pages.style import is_drawable
from lexalcm.yaml_text import YAMLTextError, parse_yaml

METRICS_FILE = "metrics.jsonl"
CONFIG_FILE = "config.yaml"
BY_TIMESTEP, VALIDATION_BY_TIMESTEP = "loss_by_timestep", "validation_loss_by_timestep"


@dataclass(frozen=True)
class RunMetrics:
    """One run.

    Attributes:
        name: a short one, that its figures and tables go by.
        path: its folder.
        columns: a number for each line, float64 [n]; `step` ascends.
        loss_by_timestep: the loss in each bucket of timesteps, [n, buckets]; None where the run does not write it.
        validation_loss_by_timestep: likewise of the validation loss.
        config: its settings, empty where there are none.
        unreadable: lines that are not JSON, except for an unfinished last one.
    """

    name: str
    path: Path
    columns: Mapping[str, np.ndarray]
    loss_by_timestep: np.ndarray | None
    validation_loss_by_timestep: np.ndarray | None
    config: Mapping[str, Any]
    unreadable: int

    @property
    def lines(self) -> int:
        """How many lines there are."""
        return len(self.columns["step"])

    @property
    def steps(self) -> int | None:
        """How many steps it is to make, if its settings say so."""
        train = self.config.get("train")
        steps = train.get("steps") if isinstance(train, Mapping) else None
        return steps if isinstance(steps, int) else None

    def has(self, column: str) -> bool:
        """Whether any line has this number."""
        return column in self.columns and bool(np.isfinite(self.columns[column]).any())

    def points(self, column: str, x_column: str = "step") -> tuple[np.ndarray, np.ndarray]:
        """Where a number is known, and the number; nothing where no line has it."""
        x, y = self.columns[x_column], self.columns.get(column, np.full(self.lines, np.nan))
        known = np.isfinite(x) & np.isfinite(y)
        return x[known], y[known]

    def last(self, column: str) -> float | None:
        """The newest number of a column."""
        values = self.points(column)[1]
        return float(values[-1]) if len(values) else None


def find_metrics(path: Path | str) -> Path:
    """The metrics file of a run folder, whether it is there yet or not; a file is taken as it is.

    Raises:
        UserError: no such folder, or one that is not a run's.
    """
    path = Path(path)
    if path.is_file():
        if path.suffix != ".jsonl":
            raise UserError(f"{path} is not the folder of a run, nor the metrics.jsonl of one")
        return path
    if not path.is_dir():
        raise UserError(f"no run in {path}: give the folder of a run, such as runs/base")
    if not (path / METRICS_FILE).exists() and not (path / CONFIG_FILE).exists():
        raise UserError(f"{path} is not the folder of a run: it has neither {METRICS_FILE} nor {CONFIG_FILE}")
    return path / METRICS_FILE


def newest_run(runs: Path) -> Path:
    """The run in a folder of runs that was last written to.

    Raises:
        UserError: there is none.
    """
    found = [run / METRICS_FILE for run in entries(runs) if (run / METRICS_FILE).is_file()]
    if not found:
        raise UserError(f"no run in {runs}/ yet: start one with lcm train, or give its folder")
    return max(found, key=lambda file: file.stat().st_mtime).parent


def read_runs(paths: Sequence[Path | str]) -> list[RunMetrics]:
    """Read runs, each under a short name of its own.

    Raises:
        UserError: a path is not a run.
        DataError: a metrics file cannot be read.
    """
    files = [find_metrics(path) for path in paths]
    return [_read(name, file) for name, file in zip(short_names([file.parent for file in files]), files, strict=True)]


def short_names(paths: Sequence[Path]) -> list[str]:
    """The shortest endings of paths that tell them apart; a number for one that the figures' font cannot write."""
    parts = [path.resolve().parts for path in paths]
    names = []
    for number, own in enumerate(parts):
        others = [other for other in parts if other != own]
        length = next((n for n in range(1, len(own)) if all(other[-n:] != own[-n:] for other in others)), len(own))
        name = "/".join(own[-length:])
        names.append(name if is_drawable(name) and not name.startswith("_") else f"run {number + 1}")
    return names


def differing_settings(runs: Sequence[RunMetrics]) -> dict[str, list[Any]]:
    """Settings in which runs differ, dotted names with the value of each run; None where a run has no such setting."""
    flat = [dict(_flatten(run.config)) for run in runs]
    names = dict.fromkeys(name for settings in flat for name in settings)
    values = {name: [settings.get(name) for settings in flat] for name in names}
    return {name: row for name, row in values.items() if any(value != row[0] for value in row)}


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs = []
    for key, value in tree.items():
        pairs += _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
    return pairs


def _read(name: str, file: Path) -> RunMetrics:
    records, unreadable = _read_lines(file)
    names = {key for record in records for key, value in record.items() if not isinstance(value, list)}
    columns = {key: np.array([_number(record.get(key)) for record in records]) for key in {"step", "seconds"} | names}
    return RunMetrics(
        name=name,
        path=file.parent,
        columns=columns,
        loss_by_timestep=_buckets([record.get(BY_TIMESTEP) for record in records]),
        validation_loss_by_timestep=_buckets([record.get(VALIDATION_BY_TIMESTEP) for record in records]),
        config=_read_config(file.parent / CONFIG_FILE),
        unreadable=unreadable,
    )


def _read_lines(file: Path) -> tuple[list[dict[str, Any]], int]:
    try:
        text = file.read_bytes()
    except FileNotFoundError:  # the run has not written its first line
        return [], 0
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error
    records: list[dict[str, Any]] = []
    unreadable = 0
    for line in text[: text.rfind(b"\n") + 1].splitlines():
        try:
            record = json.loads(line)
            step = record["step"] if isinstance(record, dict) else None
        except (ValueError, KeyError):
            step = None
        if not isinstance(step, int):
            unreadable += bool(line.strip())
            continue
        while records and records[-1]["step"] >= step:
            records.pop()
        records.append(record)
    return records, unreadable


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _buckets(rows: Sequence[Any]) -> np.ndarray | None:
    """[lines, buckets], or None if no line has them."""
    width = max((len(row) for row in rows if isinstance(row, list)), default=0)
    if not width:
        return None
    table = np.full((len(rows), width), np.nan)
    for number, row in enumerate(rows):
        if isinstance(row, list):
            table[number, : len(row)] = [_number(value) for value in row]
    return table if np.isfinite(table).any() else None


def _read_config(file: Path) -> Mapping[str, Any]:
    try:
        config = parse_yaml(file.read_bytes())
    except (OSError, YAMLTextError):  # a run's curves are there without its settings
        return {}
    return config if isinstance(config, Mapping) else {}
