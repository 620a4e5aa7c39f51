"""A report as one HTML page that needs no other file: tables, differences, charts by position, examples."""

from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lexalcm.evaluate import formatting
from lexalcm.evaluate.place_plot import Line, draw
from lexalcm.evaluate.report import ALL, Evaluation
from lexalcm.evaluate.text_similarity import join_sentences
from lexalcm.registries import METRICS


@dataclass(frozen=True)
class Chart:
    """One metric by position."""

    title: str
    direction: str
    svg: Markup


def to_html(evaluation: Evaluation) -> str:
    """The whole report."""
    environment = Environment(
        loader=PackageLoader("lexalcm.evaluate"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("evaluation.html.j2").render(
        title=formatting.title(evaluation),
        evaluation=evaluation,
        metrics={name: METRICS.load(name) for name in evaluation.metrics},
        groups=formatting.groups(evaluation),
        pairs=[*evaluation.differences, *evaluation.comparisons],
        charts=_charts(evaluation),
        legend=[(number, row.name) for number, row in enumerate(evaluation.rows)],
        explanation=formatting.explanation(evaluation),
        sentences=formatting.sentences(evaluation),
        formatting=formatting,
        running=join_sentences,
        ALL=ALL,
    )


def _charts(evaluation: Evaluation) -> list[Chart]:
    positions = list(evaluation.position_sizes)
    if len(positions) < 2:
        return []
    xlabel = formatting.position_name(evaluation)
    charts = []
    for name in evaluation.metrics:
        metric = METRICS.load(name)
        lines = [
            Line(row.name, number, [row.positions[position].get(name) for position in positions])
            for number, row in enumerate(evaluation.rows)
            if not (row.kind == "reference" and metric.better and metric.needs == "embeddings")  # is perfect there
        ]
        label = f"{metric.title} by {xlabel}"
        svg = Markup(draw(lines, positions, xlabel=xlabel, label=label, scale=metric.scale))
        charts.append(Chart(metric.title + (f", {metric.unit}" if metric.unit else ""), metric.direction, svg))
    return charts
