"""Every metric that a report can hold: its name, its unit, which way is better, what computing it needs.

Each metric is a mean: a number for every target (or example of a task), weighted by 1 unless `weight` says otherwise.
Reports, settings and the documentation all speak from this one table.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from lexalcm.errors import ConfigError

Better = Literal["higher", "lower", None]


@dataclass(frozen=True)
class Metric:
    """One metric."""

    name: str
    title: str
    better: Better
    definition: str
    scale: float = 1  # what a shown number is multiplied by
    unit: str = ""
    weight: str = "1"
    needs: Literal["embeddings", "text", "language model"] = "embeddings"
    decimals: int | None = None  # none: four digits in all

    @property
    def direction(self) -> str:
        """In words."""
        return f"{self.better} is better" if self.better else "near the truth's is best"


_PREDICTION = [
    Metric(
        "squared_l2",
        "squared L2",
        "lower",
        "squared distance of the prediction from the truth, summed over dimensions, in the data set's normalized space",
    ),
    Metric(
        "contrastive_accuracy",
        "contrastive accuracy",
        "higher",
        "share of the other concepts of the evaluation batch that are farther from the prediction than the true one",
        scale=100,
        unit="%",
        decimals=1,
    ),
    Metric("cosine", "cosine to the truth", "higher", "cosine of prediction and truth, in the codec's space"),
    Metric(
        "context_cosine",
        "largest cosine to the context",
        None,
        "the largest cosine of the prediction to a concept before it, in the codec's space",
    ),
    Metric(
        "paraphrasing",
        "paraphrasing",
        None,
        "the largest cosine of the prediction to a concept before it, over the same of the true concept; "
        "above 1 says again what was said, more than the truth does",
        weight="the largest cosine of the true concept to one before it",
    ),
    Metric("coherence", "coherence", None, "cosine of the prediction to the concept just before it"),
]
_TEXT = [
    Metric(
        "round_trip_l2",
        "round-trip squared L2",
        "lower",
        "as squared L2, of the prediction decoded to text and embedded again",
        needs="text",
    ),
    Metric(
        "rouge_l",
        "ROUGE-L",
        "higher",
        "F1 of the longest common subsequence of the tokens of decoded and true text",
        scale=100,
        decimals=1,
        needs="text",
    ),
    Metric(
        "chrf",
        "chrF",
        "higher",
        "F2 of the character n-grams, n = 1 to 6, of decoded and true text",
        decimals=1,
        needs="text",
    ),
    Metric(
        "repetition",
        "repeated 4-grams",
        "lower",
        "share of the decoded text's 4-grams that stand already in the text before",
        scale=100,
        unit="%",
        decimals=1,
        weight="its number of 4-grams",
        needs="text",
    ),
    Metric(
        "mutual_information",
        "mutual information",
        "higher",
        "(log p(text | up to 10 sentences before it) - log p(text)) / tokens, by a language model, in nats",
        weight="its number of tokens",
        needs="language model",
    ),
]
_TASK = [
    Metric(
        "concept_precision",
        "concept precision",
        "higher",
        "mean over the sentences written of the largest cosine to a sentence of the reference",
        scale=100,
        decimals=1,
    ),
    Metric(
        "concept_recall",
        "concept recall",
        "higher",
        "mean over the sentences of the reference of the largest cosine to a sentence written",
        scale=100,
        decimals=1,
    ),
    Metric(
        "concept_f1",
        "concept F1",
        "higher",
        "harmonic mean of concept precision and concept recall (0 where one is not positive)",
        scale=100,
        decimals=1,
    ),
    Metric(
        "length_ratio",
        "length",
        None,
        "tokens written over tokens of the reference",
        weight="tokens of the reference",
    ),
]

METRICS = {metric.name: metric for metric in [*_PREDICTION, *_TEXT, *_TASK]}
"""By name, in the order of reports."""

DEFAULT = ("squared_l2", "contrastive_accuracy")
"""What a report on a data set holds unless told otherwise: quick, and no codec is opened."""

TASK_METRICS = (
    "rouge_l",
    "chrf",
    "concept_precision",
    "concept_recall",
    "concept_f1",
    "coherence",
    "repetition",
    "length_ratio",
)
"""What a report on a task holds."""

GROUPS = {
    "default": DEFAULT,
    "embedding": tuple(metric.name for metric in _PREDICTION),
    "text": tuple(metric.name for metric in _TEXT),
    "all": tuple(metric.name for metric in [*_PREDICTION, *_TEXT]),
}
"""Names that stand for several metrics of a report on a data set."""


def choose_metrics(names: Iterable[str]) -> tuple[str, ...]:
    """Metrics by name or group, each once, in the order of reports.

    Raises:
        ConfigError: an unknown name, or none at all.
    """
    chosen: set[str] = set()
    known = [*GROUPS, *GROUPS["all"]]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise ConfigError(f"unknown metric {name!r}: {hint}")
        chosen |= set(GROUPS.get(name, (name,)))
    if not chosen:
        raise ConfigError(f"no metric chosen: there are {', '.join(known)}")
    return tuple(name for name in METRICS if name in chosen)
