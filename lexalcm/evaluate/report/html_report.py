"""A report as one HTML page that needs no other file: tables, differences, charts by position, examples."""

from lexalcm.evaluate.report import formatting
from lexalcm.evaluate.report.position_figure import Line, metric_by_position
from lexalcm.evaluate.report.report import ALL, Evaluation
from lexalcm.pages.page import FigureSpec, draw_figures, render_page
from lexalcm.pages.style import COLOURS
from lexalcm.registries import METRICS
from lexalcm.text.running_text import join_sentences


def to_html(evaluation: Evaluation) -> str:
    """The whole report."""
    return render_page(
        "evaluation.html.j2",
        {
            "title": formatting.title(evaluation),
            "command": "lcm evaluate",
            "evaluation": evaluation,
            "metrics": {name: METRICS.load(name) for name in evaluation.metrics},
            "groups": formatting.groups(evaluation),
            "pairs": [*evaluation.differences, *evaluation.comparisons],
            "figures": draw_figures(_figure_specs(evaluation), "svg"),
            "colours": COLOURS,
            "explanation": formatting.explanation(evaluation),
            "sentences": formatting.sentences(evaluation),
            "formatting": formatting,
            "running": join_sentences,
            "ALL": ALL,
        },
    )


def _figure_specs(evaluation: Evaluation) -> list[FigureSpec]:
    positions = list(evaluation.position_sizes)
    if len(positions) < 2:
        return []
    xlabel = formatting.position_name(evaluation)
    specs = []
    for name in evaluation.metrics:
        metric = METRICS.load(name)
        lines = [
            Line(number, [row.positions[position].get(name) for position in positions])
            for number, row in enumerate(evaluation.rows)
            if not (row.kind == "reference" and metric.better and metric.needs == "embeddings")  # is perfect there
        ]
        label = metric.title + (f" ({metric.unit})" if metric.unit else "")
        arguments = (lines, positions, xlabel, label, metric.scale)
        specs.append(FigureSpec(name, metric.title, f"{metric.direction}.".capitalize(), metric_by_position, arguments))
    return specs
