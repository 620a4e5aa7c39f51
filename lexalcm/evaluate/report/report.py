"""The results of an evaluation: numbers with their intervals; and the same as JSON."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from lexalcm.registries import METRICS

ALL = "all"

Verdict = Literal["better", "worse", "higher", "lower", "unclear"]

FEW_DOCUMENTS = 20
"""Below this number of documents, resampling underestimates their variance."""


def count(number: int, word: str) -> str:
    """E.g. `1 document`, `2,000 documents`."""
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}{'es' if word.endswith('ch') else 's'}"


@dataclass(frozen=True)
class Estimate:
    """A mean over targets, with its bootstrap interval over documents (none from a single document)."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Change(Estimate):
    """A difference of two means, with its interval and its two-sided p-value, both by the paired bootstrap."""

    p: float | None = None


@dataclass(frozen=True)
class Row:
    """One predictor's numbers: `scores[language or "all"][metric]`, `positions[position][metric]`.

    A metric without any weight is absent.
    """

    name: str
    kind: Literal["model", "baseline", "reference"]
    scores: dict[str, dict[str, Estimate]]
    settings: dict[str, Any] = field(default_factory=dict)
    positions: dict[str, dict[str, Estimate]] = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """A model minus a baseline or another model, target by target, resampled in pairs."""

    model: str
    baseline: str
    scores: dict[str, dict[str, Change]]

    def verdict(self, metric: str, language: str = ALL) -> Verdict:
        """Whether the model is better in a metric: only if the whole interval is on one side of zero.

        For a metric without a direction of improvement: whether it is higher or lower.
        """
        change = self.scores[language][metric]
        if change.low is None or change.high is None or change.low <= 0 <= change.high:
            return "unclear"
        direction: Literal["higher", "lower"] = "higher" if change.low > 0 else "lower"
        if METRICS.load(metric).better is None:
            return direction
        return "better" if direction == METRICS.load(metric).better else "worse"


@dataclass(frozen=True)
class Size:
    """The number of documents and targets that a group of numbers is a mean of."""

    documents: int
    targets: int


@dataclass(frozen=True)
class Example:
    """A text and its continuations by each predictor."""

    document: str
    lang: str
    given: list[str]
    truth: list[str]
    written: dict[str, list[str]]


@dataclass(frozen=True)
class Evaluation:
    """Everything that `lcm evaluate` reports."""

    dataset: dict[str, Any]
    settings: dict[str, Any]
    metrics: list[str]
    sizes: dict[str, Size]
    position_sizes: dict[str, Size]
    rows: list[Row]
    differences: list[Difference]  # models minus baselines
    comparisons: list[Difference]  # models minus models
    notes: list[str]
    examples: list[Example]

    @property
    def of_task(self) -> bool:
        """Whether it evaluates examples of a task instead of documents."""
        return self.settings["mode"] == "task"

    def size(self, language: str) -> str:
        """The size of a group in words."""
        size = self.sizes[language]
        if self.of_task:
            return count(size.documents, "example")
        return f"{count(size.documents, 'document')}, {count(size.targets, 'target')}"

    def to_json(self) -> dict[str, Any]:
        """As plain values; each difference with its verdicts, each metric with its definition."""
        tree = asdict(self)
        for name, pairs in (("differences", self.differences), ("comparisons", self.comparisons)):
            for difference, entry in zip(pairs, tree[name], strict=True):
                entry["verdicts"] = {
                    language: {metric: difference.verdict(metric, language) for metric in scores}
                    for language, scores in difference.scores.items()
                }
        tree["metrics"] = {
            metric: {
                "title": METRICS.load(metric).title,
                "better": METRICS.load(metric).better,
                "definition": METRICS.load(metric).definition,
                "weight": METRICS.load(metric).weight,
            }
            for metric in self.metrics
        }
        return tree
