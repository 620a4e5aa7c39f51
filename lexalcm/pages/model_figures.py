"""The figures of a model's size: where its parameters are, and what training holds of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lexalcm.pages.model_parts import ModuleGroup, count_text, size_text
from lexalcm.pages.style import colour, new_axes, theme_colour

BAR = 0.33  # inches


def parameters(groups: Sequence[ModuleGroup]) -> Figure:
    """Parameters of each kind of module, a colour for each part."""
    figure, axes = new_axes("parameters", "module", (5.6, 1.2 + BAR * len(groups)))
    order = list(dict.fromkeys(group.part for group in groups))
    places = np.arange(len(groups))[::-1]
    for number, part in enumerate(order):
        mine = [place for place, group in zip(places, groups, strict=True) if group.part == part]
        values = [group.parameters for group in groups if group.part == part]
        axes.barh(mine, values, color=colour(number), height=0.7, label=part)
    _name(axes, places, [group.name for group in groups], [group.parameters for group in groups], count_text)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count_text(value)))
    if len(order) > 1:
        axes.legend(loc="lower right")
    _room(axes, max(group.parameters for group in groups))
    return figure


def training_memory(counts: Mapping[str, int], bytes_each: Mapping[str, int]) -> Figure:
    """Memory that training needs for the parameters of each part.

    Args:
        counts: parameters of each part.
        bytes_each: bytes of a parameter, by purpose.
    """
    figure, axes = new_axes("memory of weights, gradients and optimizer", "part", (5.6, 1.7 + 0.45 * len(counts)))
    places = np.arange(len(counts))[::-1]
    numbers = np.array(list(counts.values()), dtype=float)
    left = np.zeros(len(counts))
    for number, (name, size) in enumerate(bytes_each.items()):
        axes.barh(places, size * numbers, left=left, color=colour(number), height=0.6, label=f"{name}, {size} bytes")
        left += size * numbers
    _name(axes, places, list(counts), left.tolist(), size_text)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: size_text(value) if value else "0"))
    axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1), ncols=2)
    _room(axes, float(left.max()))
    return figure


def _name(
    axes: Axes, places: np.ndarray, names: Sequence[str], ends: Sequence[float], text: Callable[[float], str]
) -> None:
    """Name the bars at their left, and write at their ends how long they are."""
    axes.set_yticks(places, names)
    axes.grid(axis="y", visible=False)
    style: dict[str, Any] = {
        "textcoords": "offset points",
        "va": "center",
        "color": theme_colour("muted"),
        "fontsize": 10,
    }
    for place, end in zip(places, ends, strict=True):
        axes.annotate(text(end), (end, place), xytext=(4, 0), **style)


def _room(axes: Axes, longest: float) -> None:
    """Space for the number at the end of the longest bar."""
    axes.set_xlim(0, 1.22 * longest)
    axes.xaxis.set_major_locator(MaxNLocator(4))
