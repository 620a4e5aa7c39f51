"""The figures of a generated concept: each takes trajectories through denoising and gives a Matplotlib figure."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lexalcm.pages.generation_trace import Trace, Trajectory
from lexalcm.pages.style import DPI, colour, new_axes, readable_on, sequential_colours, theme_colour

STEP = "denoising step (noise decreases →)"
NUMBERED = 13
"""Up to this number of sentences, each cell of the matrix has its value written in it."""


def distances(trace: Trace) -> Figure:
    """Squared distance to the true concept after each step; each sample faint, their mean strong."""
    figure, axes = new_axes(STEP, "squared L2 to the true concept")
    for number, trajectory in enumerate(trace.trajectories):
        _sample_curves(axes, trajectory.squared_l2, number, trajectory.name)
    for value, label, dash in (
        (trace.squared_l2_of_mean, "mean of all concepts", (0, (4, 3))),
        (trace.squared_l2_of_last, "last concept repeated", (0, (1, 2))),
    ):
        axes.axhline(value, color=theme_colour("muted"), linewidth=1.2, linestyle=dash, label=label)
    axes.set_ylim(0, None)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    return figure


def cosines(trajectories: Sequence[Trajectory]) -> Figure:
    """Cosine similarity with the true concept after each step."""
    figure, axes = new_axes(STEP, "cosine similarity with the true concept")
    for number, trajectory in enumerate(trajectories):
        _sample_curves(axes, trajectory.cosine, number, trajectory.name)
    axes.legend()
    return figure


def trajectory_plane(trajectories: Sequence[Trajectory]) -> Figure:
    """Trajectories in the plane of projection on, and residual from, the line from the mean to the true concept."""
    figure, axes = new_axes("projection (mean: 0, true concept: 1)", "residual norm (same unit)")
    for number, trajectory in enumerate(trajectories):
        for sample in range(trajectory.projection.shape[1]):
            axes.plot(
                trajectory.projection[:, sample],
                trajectory.residual[:, sample],
                color=colour(number),
                linewidth=0.8,
                alpha=0.35,
            )
        projection, residual = trajectory.projection.mean(axis=1), trajectory.residual.mean(axis=1)
        axes.plot(projection, residual, color=colour(number), marker="o", markersize=3.5, label=trajectory.name)
        axes.plot(projection[-1], residual[-1], "o", color=colour(number), markersize=8)
    axes.plot(0, 0, "s", color=theme_colour("muted"), markersize=8)
    axes.plot(1, 0, "*", color=colour(2), markersize=15)
    style = {"textcoords": "offset points", "color": theme_colour("muted"), "fontsize": 10}
    axes.annotate("mean", (0, 0), xytext=(9, 4), **style)  # type: ignore[arg-type]
    axes.annotate("true concept", (1, 0), xytext=(-9, 4), ha="right", **style)  # type: ignore[arg-type]
    axes.set_ylim(-0.05 * axes.get_ylim()[1], None)
    axes.legend()
    return figure


def similarity_matrix(cosines: np.ndarray, names: Sequence[str], blocks: Sequence[int]) -> Figure:
    """Cosine similarities of all pairs of sentences.

    Args:
        cosines: [n, n].
        names: of the sentences, short.
        blocks: numbers of sentences of the prompt, the truth and the model.
    """
    figure = Figure(figsize=(5.6, 4.5), dpi=DPI)
    axes, bar_axes = figure.subplots(1, 2, width_ratios=[24, 1])
    axes.set_xlabel("sentence")
    axes.set_ylabel("sentence")
    tones = LinearSegmentedColormap.from_list("tones", [to_rgb(theme_colour("paper")), *sequential_colours(9)])
    low = min(0.0, float(cosines.min()))
    image = axes.imshow(cosines, cmap=tones, vmin=low, vmax=1, aspect="auto")
    places = np.arange(len(names))
    axes.set_xticks(places, names)
    axes.set_yticks(places, names)
    axes.grid(False)
    for edge in np.cumsum(blocks)[:-1] - 0.5:
        axes.axhline(edge, color=theme_colour("text"), linewidth=1)
        axes.axvline(edge, color=theme_colour("text"), linewidth=1)
    if len(names) <= NUMBERED:
        for (row, column), value in np.ndenumerate(cosines):
            tone = readable_on(tones((value - low) / (1 - low)))
            shown = f"{round(float(value), 2) + 0.0:.2f}"  # + 0.0: no -0.00
            axes.text(column, row, shown, ha="center", va="center", fontsize=8, color=tone)
    figure.colorbar(image, cax=bar_axes, label="cosine similarity").outline.set_linewidth(0)
    return figure


def _sample_curves(axes: Axes, values_SN: np.ndarray, number: int, label: str) -> None:
    steps = np.arange(1, len(values_SN) + 1)
    if values_SN.shape[1] > 1:
        axes.plot(steps, values_SN, color=colour(number), linewidth=0.8, alpha=0.35)
    axes.plot(steps, values_SN.mean(axis=1), color=colour(number), marker="o", markersize=4, label=label)
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
