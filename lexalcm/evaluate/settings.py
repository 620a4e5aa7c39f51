"""The settings of an evaluation, validated in one place for the command line and Python."""

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator

from lexalcm.codec.options import CodecOptions
from lexalcm.config import NonNegativeInt, PositiveInt, Settings
from lexalcm.errors import ConfigError
from lexalcm.evaluate.metric import choose_metrics
from lexalcm.registries import METRICS

Baseline = Literal["repeat", "mean", "nearest"]


class FreeRunning(Settings):
    """Continue each document after a prefix, from the model's own output instead of the true sentences."""

    prefix: PositiveInt = 5  # sentences of each document that are given
    sentences: PositiveInt = 10  # written at most; no more than the document has


class LanguageModelSettings(Settings):
    """The causal language model, for metrics that need one."""

    name: str  # a Transformers id or folder
    context: PositiveInt = 10  # preceding sentences, at most (LCM paper, section 2.4.1)


class CodecChoice(Settings):
    """How the codec is run, and by which implementation; default: the one in the data set or model."""

    name: str | None = None
    run: CodecOptions = CodecOptions()


_OF_THE_MACHINE: Any = {"resamples": True, "device": True, "codec": {"run": {"device", "batch"}}}


class EvaluationSettings(Settings):
    """Everything that an evaluation depends on beside models and data."""

    split: str = "validation"
    limit: PositiveInt | None = None  # use this many documents, evenly spaced over the split
    batch: PositiveInt = 512  # concepts of an evaluation batch, at least
    corpus_order: bool = False  # batches of neighbouring documents, which are similar, instead of random ones
    metrics: tuple[str, ...] | None = None  # names or groups, see `lexalcm.evaluate.metric`; None: a group
    baselines: tuple[Baseline, ...] = ("repeat", "mean", "nearest")
    neighbours: PositiveInt = 20_000  # training concepts that the nearest one is searched in
    free: FreeRunning | None = None
    language_model: LanguageModelSettings | None = None
    codec: CodecChoice = CodecChoice()
    window: Annotated[int, Field(ge=2)] = 128  # longest context, in concepts
    generation: dict[str, Any] = Field(default_factory=dict)  # changes to each model's own options; None: no change
    device: str = "auto"  # of the models: "auto" (a GPU if there is one), "cpu", "cuda:1", ...
    resamples: PositiveInt = 2000  # of documents, for the intervals
    seed: NonNegativeInt = 0  # of the models' noise and of the resampling

    @field_validator("metrics")
    @classmethod
    def _known(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if names is None else choose_metrics(names)

    @field_validator("baselines", mode="before")
    @classmethod
    def _named(cls, names: Any) -> Any:
        if unknown := [name for name in names if name not in get_args(Baseline)]:
            raise ConfigError(f"unknown baseline {unknown[0]!r}: known are {', '.join(get_args(Baseline))}, or none")
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
