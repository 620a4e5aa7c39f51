"""A chart of one metric by position: a line with its interval for each predictor."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from lexalcm.evaluate.report.report import Estimate
from lexalcm.pages.style import colour, new_axes

MANY = 8
"""Above this number of positions their names are slanted, so that they do not overlap."""


@dataclass(frozen=True)
class Line:
    """A predictor's numbers, one a position; None where there is none."""

    colour: int
    estimates: Sequence[Estimate | None]


def metric_by_position(
    lines: Sequence[Line], positions: Sequence[str], xlabel: str, ylabel: str, scale: float
) -> Figure:
    """Draw lines over positions, whose names are evenly spaced; numbers are multiplied by `scale`."""
    figure, axes = new_axes(xlabel, ylabel)
    for line in lines:
        known = [(x, one) for x, one in enumerate(line.estimates) if one is not None]
        axes.plot([x for x, _ in known], [scale * one.value for _, one in known], "o-", ms=4, color=colour(line.colour))
        band = [(x, one.low, one.high) for x, one in known if one.low is not None and one.high is not None]
        if len(band) > 1:
            x, low, high = np.array(band).T
            axes.fill_between(x, scale * low, scale * high, color=colour(line.colour), alpha=0.13, linewidth=0)
    axes.set_xticks(range(len(positions)), positions)
    if len(positions) > MANY:
        axes.tick_params("x", labelrotation=45)
    axes.set_xlim(-0.5, len(positions) - 0.5)
    axes.grid(axis="x", visible=False)
    return figure
