"""A report's numbers and sentences as text: the same on a terminal, in Markdown and in HTML."""

import math
from typing import Any

from lexalcm.evaluate.metrics.metric import Metric
from lexalcm.evaluate.report.report import ALL, FEW_DOCUMENTS, Change, Difference, Estimate, Evaluation, Size, count
from lexalcm.registries import METRICS


def title(evaluation: Evaluation) -> str:
    """The data set and its size."""
    data, free, size = evaluation.dataset, evaluation.settings.get("free"), evaluation.size(ALL)
    if evaluation.of_task:
        return f"{data['path']}: {size}"
    mode = f", continued after {_given(free)}" if free else ""
    return f"{data['path']}, split {data['split']}{mode}: {size}"


def _given(free: dict[str, Any]) -> str:
    given = {"source": "their sources", "turns": "the turns before each answer"}
    return given.get(free.get("given", ""), count(free["prefix"], "sentence"))


def groups(evaluation: Evaluation) -> list[str]:
    """The groups of documents to show: a single language alone, since all documents are the same group."""
    return [name for name in evaluation.sizes if len(evaluation.sizes) != 2 or name != ALL]


def group_name(language: str) -> str:
    """The title of a group of documents."""
    return "all languages" if language == ALL else language


def number(estimate: Estimate | None, metric: str) -> str:
    """A mean with its interval."""
    if estimate is None:
        return "–"
    about = METRICS.load(metric)
    value, low, high = (_digits(part, about) for part in (estimate.value, estimate.low, estimate.high))
    return f"{value}{about.unit} [{low}, {high}]" if low else f"{value}{about.unit}"


def change(estimate: Change | None, metric: str) -> str:
    """A difference with its interval and p-value."""
    if estimate is None:
        return "–"
    text = _change(estimate, METRICS.load(metric))
    return text if estimate.p is None else f"{text}, {p_value(estimate.p)}"


def p_value(p: float) -> str:
    """E.g. `p = 0.03`, `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def sentences(evaluation: Evaluation) -> list[str]:
    """One sentence per model and baseline, or pair of models: which is better, by how much, and the p-value."""
    return [_sentence(pair, evaluation.metrics) for pair in [*evaluation.differences, *evaluation.comparisons]]


def explanation(evaluation: Evaluation) -> list[str]:
    """How the numbers were computed: intervals, batches, each model's options, notes."""
    settings, data = evaluation.settings, evaluation.dataset
    unit = "examples" if evaluation.of_task else "documents"
    interval = f"{settings['confidence']:.0%} bootstrap interval"
    text = f"[low, high]: {interval} over {unit} ({settings['resamples']:,} resamples)."
    if not evaluation.of_task:
        text += (
            f" Distances in the data set's normalized space. {count(data['batches'], 'batch')} of at least "
            f"{settings['batch']} concepts from documents in {settings['batch_order']} order."
        )
    lines = [f"{text} Seed {settings['seed']}."]
    lines += _of_few(evaluation, unit)
    lines += [f"{row.name}: {_describe(row.settings)}" for row in evaluation.rows if row.kind == "model"]
    return [*lines, *evaluation.notes]


def _of_few(evaluation: Evaluation, unit: str) -> list[str]:
    """Which groups, if any, are too small for their intervals."""

    def small(sizes: dict[str, Size]) -> str:
        return ", ".join(f"{name} ({size.documents})" for name, size in sizes.items() if size.documents < FEW_DOCUMENTS)

    text = f"With fewer than {FEW_DOCUMENTS} {unit}, intervals are too narrow and p-values too small"
    if evaluation.sizes[ALL].documents < FEW_DOCUMENTS:
        return [f"{text}."]
    by_place = small(evaluation.position_sizes)
    groups = [small(evaluation.sizes), f"{position_name(evaluation)} {by_place}" if by_place else ""]
    named = "; ".join(group for group in groups if group)
    return [f"{text}: {named}."] if named else []


def _describe(settings: dict[str, Any]) -> str:
    generation = settings.get("generation")
    parameters = f"{settings['architecture']}, {settings['parameters']:,} parameters"
    if generation is None:
        return f"{parameters}, one forward pass per concept"
    options = ", ".join(f"{name} {value}" for name, value in generation.items() if value is not None)
    return f"{parameters}, {options}"


def _sentence(difference: Difference, metrics: list[str]) -> str:
    """About contrastive accuracy, or else the first metric that has a direction of improvement."""
    words = {"better": "beats", "worse": "is worse than", "unclear": "is not clearly different from"}
    scores = difference.scores[ALL]
    directed = [name for name in metrics if METRICS.load(name).better and name in scores]
    if not directed:
        return f"{difference.model} and '{difference.baseline}': none of these metrics has a direction of improvement"
    first = "contrastive_accuracy" if "contrastive_accuracy" in directed else directed[0]
    text = (
        f"{difference.model} {words[difference.verdict(first)]} '{difference.baseline}' "
        f"in {METRICS.load(first).title}: {change(scores[first], first)}"
    )
    if "squared_l2" in directed and first != "squared_l2":
        distance = _change(scores["squared_l2"], METRICS.load("squared_l2"))
        text += f"; squared L2 {distance} ({difference.verdict('squared_l2')})"
    return text


def _change(estimate: Estimate, metric: Metric) -> str:
    points = " points" if metric.unit == "%" else ""
    value, low, high = (_digits(part, metric, "+") for part in (estimate.value, estimate.low, estimate.high))
    return f"{value}{points} [{low}, {high}]" if low else f"{value}{points} [no interval from one document]"


def _digits(value: float | None, metric: Metric, sign: str = "") -> str:
    if value is None:
        return ""
    shown = value * metric.scale
    decimals = metric.decimals
    if decimals is None and round(shown, 4) == 0:
        return "0"
    if decimals is None:
        decimals = max(0, 4 - math.floor(math.log10(max(abs(round(shown, 4)), 0.1))) - 1)
    return f"{round(shown, decimals) + 0.0:{sign},.{decimals}f}"  # + 0.0: no -0.0


def position_name(evaluation: Evaluation) -> str:
    """What positions count."""
    if evaluation.settings.get("free"):
        return "position in the continuation, in sentences"
    return "number of preceding sentences"
