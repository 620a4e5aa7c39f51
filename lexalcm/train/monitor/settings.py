"""What is watched and shown while a model trains: `train.watch`, `train.samples` and `train.wandb` of `lcm train`."""

from typing import Literal

from lexalcm.config import NonNegativeInt, PositiveInt, Settings


class WatchSettings(Settings):
    """Checking every weight, for those that do not move or are not finite."""

    every: NonNegativeInt | None = None
    """Steps between two checks; null: at validations; 0: never."""


class SampleSettings(Settings):
    """What the model writes after the first sentences of a few validation documents, while it trains."""

    every: NonNegativeInt | None = None
    """Steps between samples; null: at validations, where the data set holds its codec; 0: never."""
    documents: PositiveInt = 3
    """How many documents are continued."""
    prompt: PositiveInt = 2
    """Sentences of a document that the model reads."""
    sentences: PositiveInt = 3
    """Most sentences that it writes."""


class WandbSettings(Settings):
    """Weights & Biases, beside the run's own files."""

    project: str | None = None
    """The project to log to; null: Weights & Biases is not used."""
    entity: str | None = None
    """The user or team that the project belongs to; null: your default one."""
    tags: tuple[str, ...] = ()
    """Tags of the run there."""
    mode: Literal["online", "offline"] | None = None
    """Whether the run is sent at once or kept for `wandb sync`; null: as WANDB_MODE says."""
