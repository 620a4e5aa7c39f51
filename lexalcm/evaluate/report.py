"""What an evaluation found: numbers with their intervals, as a table, as sentences, and as JSON."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rich import box
from rich.table import Table
from rich.text import Text

METRICS = ("squared_l2", "contrastive_accuracy")
ALL = "all"

Verdict = Literal["better", "worse", "unclear"]


@dataclass(frozen=True)
class Estimate:
    """A mean over targets, with its bootstrap interval over documents (none from a single document)."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Row:
    """One predictor's numbers: `scores[language or "all"][metric]`."""

    name: str
    kind: Literal["model", "baseline"]
    scores: dict[str, dict[str, Estimate]]
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """A model minus a baseline, target by target, resampled in pairs."""

    model: str
    baseline: str
    scores: dict[str, dict[str, Estimate]]

    def verdict(self, metric: str, language: str = ALL) -> Verdict:
        """Whether the model is better in a metric: only when the whole interval is on one side of zero."""
        estimate = self.scores[language][metric]
        if estimate.low is None or estimate.high is None or estimate.low <= 0 <= estimate.high:
            return "unclear"
        higher_is_better = metric == "contrastive_accuracy"
        return "better" if (estimate.low > 0) == higher_is_better else "worse"


@dataclass(frozen=True)
class Size:
    """How much a group of numbers rests on."""

    documents: int
    targets: int


@dataclass(frozen=True)
class Evaluation:
    """Everything that `lcm evaluate` reports."""

    dataset: dict[str, Any]
    settings: dict[str, Any]
    sizes: dict[str, Size]
    rows: list[Row]
    differences: list[Difference]

    def to_json(self) -> dict[str, Any]:
        """As plain values; each difference with its verdicts."""
        tree = asdict(self)
        for difference, entry in zip(self.differences, tree["differences"], strict=True):
            entry["verdicts"] = {
                language: {metric: difference.verdict(metric, language) for metric in METRICS}
                for language in difference.scores
            }
        return tree

    def table(self) -> Table:
        """One line per predictor, for all documents and for each language."""
        table = Table(box=box.SIMPLE_HEAD, title=Text(self._title()), title_justify="left", caption_justify="left")
        table.caption = Text(self._caption())
        table.add_column("predictor", overflow="fold")
        table.add_column("squared L2\nlower is better", justify="right")
        table.add_column("contrastive accuracy\nhigher is better", justify="right")
        for language, size in self.sizes.items():
            table.add_section()
            table.add_row(
                Text("all languages" if language == ALL else language, style="bold"),
                Text(f"{size.documents:,} documents", style="dim"),
                Text(f"{size.targets:,} targets", style="dim"),
            )
            for row in self.rows:
                scores = row.scores[language]
                table.add_row(
                    Text(row.name, style="cyan" if row.kind == "model" else ""),
                    Text(_number(scores["squared_l2"], scale=1, unit="")),
                    Text(_number(scores["contrastive_accuracy"], scale=100, unit="%")),
                )
        return table

    def verdicts(self) -> list[str]:
        """One sentence per model and baseline: is it beaten, by how much, how sure."""
        return [_sentence(difference) for difference in self.differences]

    def _title(self) -> str:
        size = self.sizes[ALL]
        return (
            f"{self.dataset['path']}, split {self.dataset['split']}: "
            f"{size.documents:,} documents, {size.targets:,} targets"
        )

    def _caption(self) -> str:
        settings = self.settings
        lines = [
            f"[low, high]: {settings['confidence']:.0%} bootstrap interval over documents "
            f"({settings['resamples']:,} resamples). Distances in the data set's normalized space. "
            f"{self.dataset['batches']} batches of at least {settings['batch']} concepts from documents in "
            f"{settings['batch_order']} order. Seed {settings['seed']}."
        ]
        lines += [f"{row.name}: {_describe(row.settings)}" for row in self.rows if row.kind == "model"]
        return "\n".join(lines)


def _describe(settings: dict[str, Any]) -> str:
    generation = settings.get("generation")
    parameters = f"{settings['architecture']}, {settings['parameters']:,} parameters"
    if generation is None:
        return f"{parameters}, predicts directly"
    options = ", ".join(f"{name} {value}" for name, value in generation.items() if value is not None)
    return f"{parameters}, {options}"


def _number(estimate: Estimate, *, scale: float, unit: str) -> str:
    value, low, high = (_digits(part, scale) for part in (estimate.value, estimate.low, estimate.high))
    return f"{value}{unit} [{low}, {high}]" if low else f"{value}{unit}"


def _digits(value: float | None, scale: float, sign: str = "") -> str:
    if value is None:
        return ""
    number = value * scale
    decimals = 1 if scale == 100 else max(0, 4 - math.floor(math.log10(max(abs(number), 0.1))) - 1)
    return f"{number:{sign},.{decimals}f}"


def _sentence(difference: Difference) -> str:
    words = {"better": "beats", "worse": "is worse than", "unclear": "is not clearly different from"}
    accuracy = difference.scores[ALL]["contrastive_accuracy"]
    distance = difference.scores[ALL]["squared_l2"]
    return (
        f"{difference.model} {words[difference.verdict('contrastive_accuracy')]} '{difference.baseline}' "
        f"in contrastive accuracy: {_change(accuracy, scale=100)} points; "
        f"squared L2 {_change(distance, scale=1)} ({difference.verdict('squared_l2')})"
    )


def _change(estimate: Estimate, *, scale: float) -> str:
    value, low, high = (_digits(part, scale, "+") for part in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]" if low else f"{value} [no interval from one document]"
