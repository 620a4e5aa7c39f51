"""The settings of an evaluation, validated in one place for the command line and Python."""

from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, field_validator

from lexalcm.codec.options import CodecChoice
from lexalcm.config import NonNegativeInt, PositiveInt, Settings
from lexalcm.errors import ConfigError
from lexalcm.evaluate.metrics.metric import GROUPS, choose_metrics
from lexalcm.option import Option
from lexalcm.registries import METRICS

Baseline = Literal["repeat", "mean", "nearest"]


def _split(names: Any) -> Any:
    """The names of a comma-separated text; `none` alone stands for no name."""
    if not isinstance(names, str):
        return names
    return () if names == "none" else tuple(name.strip() for name in names.split(",") if name.strip())


Names = Annotated[tuple[str, ...], BeforeValidator(_split)]


class FreeRunning(Settings):
    """Continue each document after a prefix, from the model's own output instead of the true sentences."""

    prefix: PositiveInt = 5  # sentences of each document that are given
    sentences: PositiveInt = 10  # written at most; no more than the document has


class LanguageModelSettings(Settings):
    """The causal language model, for metrics that need one."""

    name: str  # a Transformers id or folder
    context: PositiveInt = 10  # preceding sentences, at most (LCM paper, section 2.4.1)


_OF_THE_MACHINE: Any = {"resamples": True, "device": True, "codec": {"run": {"device", "batch"}}}


class EvaluationSettings(Settings):
    """Everything that an evaluation depends on beside models and data."""

    split: Annotated[str, Option(metavar="NAME")] = "validation"
    """Split to predict."""
    metrics: Annotated[Names | None, Option(metavar="NAMES", choices=lambda: GROUPS)] = None
    """Metrics, comma-separated, of --list-metrics, or groups of them."""
    baselines: Annotated[Names, Option(metavar="NAMES", default="repeat,mean,nearest")] = get_args(Baseline)
    """Baselines, comma-separated: repeat, mean, nearest; or none."""
    neighbours: Annotated[PositiveInt, Option()] = 20_000
    """Training concepts that the baseline nearest searches."""
    limit: Annotated[PositiveInt | None, Option()] = None
    """Use this many documents, evenly spaced; or a task's first examples."""
    batch: Annotated[int, Field(ge=4), Option()] = 512
    """Concepts of an evaluation batch, at least."""
    corpus_order: Annotated[bool, Option(("--corpus-order",))] = False
    """Batches of neighbouring documents instead of random ones (harder)."""
    window: Annotated[int, Field(ge=2), Option()] = 128
    """Longest context, in concepts; best the row length of training."""
    seed: Annotated[NonNegativeInt, Option()] = 0
    """Seed of the noise and of the resampling."""
    resamples: Annotated[int, Field(ge=100), Option()] = 2000
    """Bootstrap resamples of documents."""
    device: Annotated[str, Option(metavar="DEVICE")] = "auto"
    """Of the models: auto (a GPU if there is one), cpu, cuda, cuda:1."""
    free: FreeRunning | None = None
    language_model: LanguageModelSettings | None = None
    codec: CodecChoice = CodecChoice()
    generation: dict[str, Any] = Field(default_factory=dict)
    """Changes to each model's own options; None: no change."""

    @field_validator("metrics")
    @classmethod
    def _known(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if names is None else choose_metrics(names)

    @field_validator("baselines")
    @classmethod
    def _named(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        known = get_args(Baseline)
        if unknown := [name for name in names if name not in known]:
            raise ConfigError(f"unknown baseline {unknown[0]!r}: known are {', '.join(known)}, or none")
        return names

    @property
    def chosen_metrics(self) -> tuple[str, ...]:
        """The metrics of a report on a data set, in its order.

        If none are chosen: the group `default`, or `all` if documents are continued, since these are written as text
        anyway. A language model adds the metrics of `all` that need one; without it such metrics are left out.

        Raises:
            ConfigError: without a language model none is left.
        """
        wanted = self._wanted_metrics
        if self.language_model is not None:
            return choose_metrics([*wanted, *filter(_needs_language_model, choose_metrics(["all"]))])
        if left := [name for name in wanted if not _needs_language_model(name)]:
            return choose_metrics(left)
        raise ConfigError(f"{METRICS.load(wanted[0]).title} needs a language model: give one with --lm")

    @property
    def notes(self) -> list[str]:
        """Which metrics the report lacks, and why."""
        if self.language_model is not None:
            return []
        missing = [METRICS.load(name).title for name in self._wanted_metrics if _needs_language_model(name)]
        return [f"{title.capitalize()} is left out: no language model was given (--lm)." for title in missing]

    @property
    def _wanted_metrics(self) -> tuple[str, ...]:
        """Before it is considered whether there is a language model."""
        return choose_metrics(["all" if self.free else "default"]) if self.metrics is None else self.metrics

    def scores_depend_on(self) -> dict[str, Any]:
        """The settings that a document's numbers depend on: all but those of the intervals and of the machine."""
        return self.model_dump(mode="json", exclude=_OF_THE_MACHINE)


def _needs_language_model(metric: str) -> bool:
    return METRICS.load(metric).needs == "language model"
