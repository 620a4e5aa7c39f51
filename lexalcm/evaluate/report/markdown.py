"""A report as Markdown tables."""

from collections.abc import Iterable, Iterator, Sequence

from lexalcm.evaluate.report import formatting
from lexalcm.evaluate.report.report import ALL, Evaluation
from lexalcm.registries import METRICS
from lexalcm.text.running_text import join_sentences


def to_markdown(evaluation: Evaluation) -> str:
    """The whole report."""
    return "\n".join(_lines(evaluation)) + "\n"


def _lines(evaluation: Evaluation) -> Iterator[str]:
    names = evaluation.metrics
    yield from [f"# {_escape(formatting.title(evaluation))}", ""]
    for language in evaluation.sizes:
        if language == ALL and len(evaluation.sizes) == 2:  # the same group
            continue
        yield from [f"## {formatting.group_name(language)}: {evaluation.size(language)}", ""]
        rows = (
            [row.name, *(formatting.number(row.scores[language].get(name), name) for name in names)]
            for row in evaluation.rows
        )
        yield from _table(["predictor", *(METRICS.load(name).title for name in names)], rows)
    if evaluation.differences or evaluation.comparisons:
        yield from ["## Differences", ""]
        yield from ["A model minus a baseline or another model, by the paired bootstrap; p is two-sided.", ""]
        pairs = [*evaluation.differences, *evaluation.comparisons]
        rows = (
            [
                f"{pair.model} − {pair.baseline}",
                *(formatting.change(pair.scores[ALL].get(name), name) for name in names),
            ]
            for pair in pairs
        )
        yield from _table(["difference", *(METRICS.load(name).title for name in names)], rows)
    if evaluation.position_sizes:
        yield from [f"## By {formatting.position_name(evaluation)}", ""]
        for name in names:
            yield from [f"### {METRICS.load(name).title}", ""]
            rows = (
                [
                    row.name,
                    *(
                        formatting.number(row.positions[position].get(name), name)
                        for position in evaluation.position_sizes
                    ),
                ]
                for row in evaluation.rows
            )
            yield from _table(["predictor", *evaluation.position_sizes], rows)
    if evaluation.examples:
        yield from ["## Examples", ""]
        for example in evaluation.examples:
            yield from [f"### {_escape(example.document)}, {example.lang}", ""]
            texts = {"given": example.given, "truth": example.truth, **example.written}
            yield from _table(["", "text"], ([name, join_sentences(text)] for name, text in texts.items()))
    yield from ["## Metrics", ""]
    for name in names:
        metric = METRICS.load(name)
        weight = "" if metric.weight == "1" else f" Weighted by {metric.weight}."
        yield f"- **{metric.title}** ({metric.direction}): {metric.definition}.{weight}"
    yield ""
    for line in formatting.explanation(evaluation):
        yield from [_escape(line), ""]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(map(_escape, head)) + " |"
    yield "|---" * len(head) + "|"
    for row in rows:
        yield "| " + " | ".join(map(_escape, row)) + " |"
    yield ""


def _escape(text: str) -> str:
    """The text, with what Markdown would interpret escaped."""
    for character in "\\|<*_`":
        text = text.replace(character, "\\" + character)
    return text.replace("\n", " ")
