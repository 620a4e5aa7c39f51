"""What a metric is, and which metrics a report on a data set has.

A metric is a weighted mean: a number and a weight for every target of a data set, or for every example of a task.
`METRICS` in `lexalcm.registries` lists all by name, in the order of reports; settings, help, tables, and every form of
a report iterate over it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from lexalcm.errors import ConfigError, nearest
from lexalcm.registries import METRICS

if TYPE_CHECKING:
    from lexalcm.evaluate.metrics.scored_batch import ScoredBatch, Values
    from lexalcm.evaluate.metrics.scored_example import ScoredExample

Group = Literal["default", "embedding", "text", "all"]
GROUPS: tuple[Group, ...] = get_args(Group)
"""Names that stand for several metrics. `default` is what a report has if no metric is chosen: quick ones, which need
no codec; `all` is what it has if documents are continued, since these are written as text anyway."""


@dataclass(frozen=True)
class Metric:
    """One metric: how it is computed, and how reports present it. Its name is that of its line in the registry.

    Args:
        title: what reports call it.
        better: the direction of improvement; None: the nearer to the value of the true concepts, the better.
        definition: a sentence of the report, without a full stop.
        compute: from a batch with predictions to a number and a weight for each target; None: not for data sets.
        compute_example: from an example of a task to a number and its weight; None: not for tasks.
        groups: those that it belongs to; without any it is computed only if chosen by name.
        needs: what it reads: embeddings alone, decoded text, or text and a language model.
        weight: what it is weighted by, in words; "1": a plain mean.
        scale, unit: what a displayed number is multiplied by, and what follows it.
        decimals: of a displayed number; None: four significant digits.
    """

    title: str
    better: Literal["higher", "lower"] | None
    definition: str
    compute: "Callable[[ScoredBatch], Values] | None" = None
    compute_example: "Callable[[ScoredExample], tuple[float, float]] | None" = None
    groups: tuple[Group, ...] = ()
    needs: Literal["embeddings", "text", "language model"] = "embeddings"
    weight: str = "1"
    scale: float = 1
    unit: str = ""
    decimals: int | None = None

    @property
    def direction(self) -> str:
        """The direction of improvement in words."""
        return f"{self.better} is better" if self.better else "closest to the truth is best"


def choose_metrics(names: Iterable[str]) -> tuple[str, ...]:
    """Metrics of a data set by name or group, each once, in the order of reports.

    Raises:
        ConfigError: an unknown name, a metric of tasks, or no name at all.
    """
    of_data = {name: metric for name in METRICS.names() if (metric := METRICS.load(name)).compute}
    known = [*GROUPS, *of_data]
    chosen: set[str] = set()
    for name in names:
        if name in GROUPS:
            chosen |= {member for member, metric in of_data.items() if name in metric.groups}
        elif name in of_data:
            chosen.add(name)
        elif name in METRICS.names():
            raise ConfigError(f"{name} is a metric of tasks: it is reported with --task")
        else:
            raise ConfigError(f"unknown metric {name!r}{nearest(name, known)}")
    if not chosen:
        raise ConfigError(f"no metric chosen: known are {', '.join(known)}")
    return tuple(name for name in of_data if name in chosen)


def task_metrics() -> tuple[str, ...]:
    """The metrics of a report on a task, in the order of reports."""
    return tuple(name for name in METRICS.names() if METRICS.load(name).compute_example)
