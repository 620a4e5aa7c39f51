"""The figures of a run, or of several in one: each takes what runs have written and gives a Matplotlib figure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from lexalcm.pages.run_metrics import RunMetrics
from lexalcm.pages.style import COLOURS, colour, log_axis, new_axes, sequential_colours

DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)))
MANY = 150
"""From this number of points, a noisy curve has its moving average drawn over it."""

RECENT = 0.1
"""Share of a run's lines that the loss by timestep is averaged over."""


@dataclass(frozen=True)
class XAxis:
    """What runs are drawn over: a column of the metrics, its unit, and the label."""

    column: str
    unit: float
    label: str

    def of(self, values: np.ndarray) -> np.ndarray:
        """The column's values in the unit."""
        return values / self.unit


STEP_AXIS = XAxis("step", 1, "step")


def time_axis(runs: Sequence[RunMetrics]) -> XAxis:
    """Training time in seconds, minutes or hours, as suits the longest run."""
    longest = max((run.last("seconds") or 0.0 for run in runs), default=0.0)
    unit, name = next((unit for unit in ((3600, "h"), (60, "min")) if longest > 2 * unit[0]), (1, "s"))
    return XAxis("seconds", unit, f"training time ({name})")


def curves(runs: Sequence[RunMetrics], column: str, ylabel: str, x_axis: XAxis, smooth: bool) -> Figure:
    """A metric of each run over its steps or its time.

    Args:
        runs: those that do not have it are left out, and keep their colour in other figures.
        column: of the metrics.
        ylabel: what it is.
        x_axis: what they are drawn over.
        smooth: draw the moving average of many points over them.
    """
    figure, axes = new_axes(x_axis.label, ylabel)
    drawn = []
    for number, run in enumerate(runs):
        x, y = run.points(column, x_axis.column)
        if not len(y):
            continue
        drawn.append(y)
        _curve(axes, x_axis.of(x), y, _line_style(runs, number), smooth)
    _finish(axes, runs, drawn, x_axis)
    return figure


def validation(runs: Sequence[RunMetrics], x_axis: XAxis) -> Figure:
    """The validation loss of each run, its lowest point marked."""
    figure, axes = new_axes(x_axis.label, "validation loss per concept")
    drawn = []
    for number, run in enumerate(runs):
        x, y = run.points("validation_loss", x_axis.column)
        if not len(y):
            continue
        x = x_axis.of(x)
        drawn.append(y)
        axes.plot(x, y, marker="o", markersize=3.5, **_line_style(runs, number))
        if len(y):
            best = int(y.argmin())
            axes.plot(
                x[best],
                y[best],
                "o",
                markersize=10,
                fillstyle="none",
                color=_line_style(runs, number)["color"],
                markeredgewidth=1.5,
            )
    _finish(axes, runs, drawn, x_axis)
    return figure


def learning_rate(runs: Sequence[RunMetrics], x_axis: XAxis) -> Figure:
    """The learning rate of each run."""
    figure = curves_from_zero(runs, "lr", "learning rate", x_axis)
    figure.axes[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    return figure


def percentages(runs: Sequence[RunMetrics], column: str, ylabel: str, x_axis: XAxis) -> Figure:
    """A share, of each run, in percent."""
    figure = curves_from_zero(runs, column, ylabel, x_axis)
    figure.axes[0].yaxis.set_major_formatter(PercentFormatter(1))
    return figure


def curves_from_zero(runs: Sequence[RunMetrics], column: str, ylabel: str, x_axis: XAxis) -> Figure:
    """A metric of each run, on an axis that begins at zero."""
    figure = curves(runs, column, ylabel, x_axis, False)
    axes = figure.axes[0]
    axes.set_yscale("linear")
    _from_zero(axes)
    return figure


def cumulative_counts(runs: Sequence[RunMetrics], column: str, ylabel: str, x_axis: XAxis) -> Figure:
    """A count that only grows, as a step function."""
    figure, axes = new_axes(x_axis.label, ylabel)
    drawn = []
    for number, run in enumerate(runs):
        x, y = run.points(column, x_axis.column)
        if not len(y):
            continue
        drawn.append(y)
        axes.step(x_axis.of(x), y, where="post", **_line_style(runs, number))
    _finish(axes, runs, drawn, x_axis, scale=False)
    axes.yaxis.set_major_locator(MaxNLocator("auto", integer=True))
    _from_zero(axes)
    return figure


def loss_by_timestep(runs: Sequence[RunMetrics]) -> Figure:
    """The loss of each run by timestep: of training over its newest lines, dashed of validation."""
    figure, axes = new_axes("timestep (% of all; noise increases →)", "loss per concept")
    drawn = []
    for number, run in enumerate(runs):
        for table, share, suffix in (
            (run.loss_by_timestep, RECENT, ""),
            (run.validation_loss_by_timestep, 0.0, ", validation"),
        ):
            if table is None:
                continue
            losses = recent_loss_by_timestep(table, share)
            centers = (np.arange(len(losses)) + 0.5) * 100 / len(losses)
            style = _line_style(runs, number)
            style["label"] = run.name + suffix if len(runs) > 1 else suffix.strip(", ") or "training"
            if suffix:
                style |= {"linestyle": (0, (2, 2)), "fillstyle": "none"}
            axes.plot(centers, losses, marker="o", markersize=5, **style)
            drawn.append(losses)
    axes.set_xlim(0, 100)
    axes.xaxis.set_major_formatter(PercentFormatter(100, decimals=0))
    log_axis(axes, np.concatenate(drawn))
    if len(drawn) > 1 or len(runs) > 1:
        axes.legend()
    return figure


def loss_by_timestep_over_training(run: RunMetrics, x_axis: XAxis) -> Figure:
    """The loss in each bucket of timesteps over training, from little noise (light) to much (dark)."""
    figure, axes = new_axes(x_axis.label, "loss per concept")
    table = run.loss_by_timestep
    assert table is not None
    x = x_axis.of(run.columns[x_axis.column])
    tones = sequential_colours(table.shape[1])
    for bucket, tone in enumerate(tones):
        known = np.isfinite(table[:, bucket]) & np.isfinite(x)
        low, high = (round(100 * edge / table.shape[1]) for edge in (bucket, bucket + 1))
        marker = "o" if known.sum() == 1 else None  # a line of one point could not be seen
        axes.plot(x[known], table[known, bucket], color=tone, marker=marker, linewidth=1.5, label=f"{low}–{high}%")
    log_axis(axes, table)
    _format_steps(axes, x_axis)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], title="timesteps", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def recent_loss_by_timestep(table: np.ndarray, share: float) -> np.ndarray:
    """The mean loss in each bucket of timesteps over the newest lines; NaN where unknown.

    Args:
        table: [lines, buckets].
        share: of the lines that have such losses; of them always the newest.

    Returns:
        [buckets].
    """
    lines = table[np.isfinite(table).any(axis=1)]
    newest = lines[-max(1, round(share * len(lines))) :]
    known = np.isfinite(newest)
    sums, numbers = np.where(known, newest, 0).sum(axis=0), known.sum(axis=0)
    return np.divide(sums, numbers, out=np.full(len(sums), np.nan), where=numbers > 0)


def moving_average(values: np.ndarray, width: int) -> np.ndarray:
    """The mean of `width` (odd) neighbours around each value, of fewer at the ends."""
    kernel = np.ones(width)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def _curve(axes: Axes, x: np.ndarray, y: np.ndarray, style: dict[str, Any], smooth: bool) -> None:
    if smooth and len(y) >= MANY:
        axes.plot(x, y, color=style["color"], linewidth=0.8, alpha=0.3)
        axes.plot(x, moving_average(y, 2 * (len(y) // 100) + 1), **style)
    else:
        axes.plot(x, y, marker="o" if len(y) == 1 else "", **style)


def _finish(
    axes: Axes, runs: Sequence[RunMetrics], drawn: Sequence[np.ndarray], x_axis: XAxis, scale: bool = True
) -> None:
    if scale:
        log_axis(axes, np.concatenate(drawn))
    _format_steps(axes, x_axis)
    if len(runs) > 1:
        axes.legend()


def _format_steps(axes: Axes, x_axis: XAxis) -> None:
    if x_axis.column == "step":
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _line_style(runs: Sequence[RunMetrics], number: int) -> dict[str, Any]:
    """Of a run's line: a colour, and beyond the colours dashes; of several the first is the widest.

    Runs that differ in engine or processes alone have one curve: the wider line is seen beneath the narrower.
    """
    count = len(COLOURS["light"])
    return {
        "color": colour(number % count),
        "linestyle": DASHES[number // count % len(DASHES)],
        "linewidth": 1.8 if len(runs) == 1 else max(1.3, 3.4 - 0.9 * number),
        "label": runs[number].name,
    }


def _from_zero(axes: Axes) -> None:
    """Let the vertical axis begin at zero, and end a little above the highest line."""
    top = float(axes.dataLim.y1)
    axes.set_ylim(0, 1.05 * top if top > 0 else 1)
