"""Weights & Biases (https://docs.wandb.ai), for those who want it: the extra `wandb`.

A resumed run is the same run there: its id is kept in `runs/NAME/wandb.json`. What a resumed run computes again (the
steps since its checkpoint) is the same, and Weights & Biases keeps the first of two values for a step.
"""

import json
import math
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lexalcm.errors import ConfigError, import_extra
from lexalcm.io.atomic import write_text
from lexalcm.train.monitor.settings import WandbSettings
from lexalcm.train.settings import RunConfig

PURPOSE = "train.wandb.project"


def check_wandb(settings: WandbSettings) -> None:
    """Make sure that Weights & Biases is there if it is asked for.

    Raises:
        MissingExtraError: it is not installed.
    """
    if settings.project is not None:
        import_extra("wandb", "wandb", PURPOSE)


class WeightsAndBiases:
    """See `MetricsWriter`."""

    def __init__(self, config: RunConfig, folder: Path) -> None:
        """Start, or resume, the run that belongs to a run's folder.

        Raises:
            ConfigError: Weights & Biases refuses, e.g. because nobody is logged in.
        """
        wandb = import_extra("wandb", "wandb", PURPOSE)
        self._html = wandb.Html
        settings = config.train.wandb
        file = folder / "wandb.json"
        if not file.exists():
            write_text(file, json.dumps({"id": uuid.uuid4().hex[:12]}) + "\n")
        try:
            self._run: Any = wandb.init(
                project=settings.project,
                entity=settings.entity,
                name=folder.name,
                id=json.loads(file.read_text(encoding="utf-8"))["id"],
                resume="allow",
                tags=settings.tags or None,
                mode=settings.mode,
                dir=str(folder),
                config=config.model_dump(mode="json"),
                settings=wandb.Settings(silent=True, console="off"),
            )
        except wandb.errors.Error as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"Weights & Biases says: {reason}; or set train.wandb.mode=offline") from error

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `MetricsWriter.scalars`."""
        self._run.log({name: value for name, value in values.items() if math.isfinite(value)}, step=step)

    def text(self, step: int, name: str, text: str) -> None:
        """See `MetricsWriter.text`; alerts are also sent as such."""
        if name == "alerts":
            self._run.alert(title="training", text=f"step {step}: {text}", level="WARN")
        self._run.log({name: self._html(f"<pre>{_escaped(text)}</pre>")}, step=step)

    def close(self) -> None:
        """See `MetricsWriter.close`."""
        self._run.finish()


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
