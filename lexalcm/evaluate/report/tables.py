"""A report as tables for a terminal."""

from collections.abc import Iterator

from rich import box
from rich.table import Table
from rich.text import Text

from lexalcm.evaluate.report import formatting
from lexalcm.evaluate.report.report import Evaluation
from lexalcm.registries import METRICS

COLUMNS = 3
"""Metrics side by side in a table; more of them make more tables."""


def tables(evaluation: Evaluation) -> Iterator[Table]:
    """One line per predictor, for all documents and for each language; the last table has the explanation."""
    metrics = evaluation.metrics
    for start in range(0, len(metrics), COLUMNS):
        table = _table(evaluation, metrics[start : start + COLUMNS])
        if start == 0:
            table.title = Text(formatting.title(evaluation))
        if start + COLUMNS >= len(metrics):
            table.caption = Text("\n".join(formatting.explanation(evaluation)))
        yield table


def metric_table() -> Table:
    """Every metric that there is."""
    table = Table("name", "what it is", "groups", box=box.SIMPLE_HEAD)
    for name in METRICS.names():
        metric = METRICS.load(name)
        groups = [*metric.groups, "--task"] if metric.compute_example else metric.groups
        package = METRICS.origin(name)[0]
        added = "" if package == "lexalcm" else f" From the package {package}."
        table.add_row(Text(name), Text(f"{metric.definition} ({metric.direction}).{added}"), Text(", ".join(groups)))
    table.columns[0].no_wrap = True
    return table


def _table(evaluation: Evaluation, metrics: list[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title_justify="left", caption_justify="left")
    table.add_column("predictor", overflow="fold")
    for name in metrics:
        table.add_column(f"{METRICS.load(name).title}\n{METRICS.load(name).direction}", justify="right")
    for language in formatting.groups(evaluation):
        table.add_section()
        sizes = evaluation.size(language).split(", ")[: len(metrics)]
        table.add_row(
            Text(formatting.group_name(language), style="bold"),
            *(Text(text, style="dim") for text in sizes),
        )
        for row in evaluation.rows:
            table.add_row(
                Text(row.name, style="cyan" if row.kind == "model" else "dim" if row.kind == "reference" else ""),
                *(Text(formatting.number(row.scores[language].get(name), name)) for name in metrics),
            )
    return table
