"""An architecture diagram: what a concept passes through, bottom to top.

Of a model that denoises, the loop of denoising is drawn, around its only tower or around the last; of any other model,
the towers one over the other.

Coordinates are inches of the figure, origin at the bottom left.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from lexalcm.model.config import ModelConfig
from lexalcm.pages.model_parts import ModuleGroup, count_text
from lexalcm.pages.style import DPI, colour, theme_colour

WIDTH = 5.6
SMALL = 0.4  # height of a plain box
LAYER = 0.34  # of a group inside a tower
GAP = 0.28
HEAD = 0.62  # of a tower's title and size
INNER = (  # bottom to top; others above
    "self-attention",
    "self-projection",
    "cross-attention",
    "feed-forward",
    "modulator",
)


@dataclass(frozen=True)
class Box:
    """Where something was drawn."""

    left: float
    bottom: float
    width: float
    height: float

    @property
    def top(self) -> tuple[float, float]:
        """Middle of the upper edge."""
        return self.left + self.width / 2, self.bottom + self.height

    @property
    def foot(self) -> tuple[float, float]:
        """Middle of the lower edge."""
        return self.left + self.width / 2, self.bottom

    @property
    def middle(self) -> float:
        """Height of its middle."""
        return self.bottom + self.height / 2


@dataclass(frozen=True)
class Tower:
    """Layers of one kind.

    Attributes:
        title: for display.
        layers: how many.
        inner: the groups of a layer, bottom to top, with the parameters of all layers.
    """

    title: str
    layers: int
    inner: Sequence[tuple[str, int]]


def diagram(config: ModelConfig, groups: Sequence[ModuleGroup]) -> Figure:
    """Draw a model.

    Args:
        config: its sizes.
        groups: see `module_groups`.
    """
    towers = _towers(groups)
    heights = [HEAD + LAYER * len(tower.inner) for tower in towers]
    if config.diffusion is None:
        layout, plain, height = _without_noise, 5, sum(heights) + GAP * (len(towers) - 1)
    elif len(towers) == 1:
        layout, plain, height = _denoising_beside, 4, heights[0]
    else:
        layout, plain, height = _denoising_above, 5, max(heights)
    height += 0.2 + plain * (SMALL + GAP)
    figure = Figure(figsize=(WIDTH, height), dpi=DPI)
    axes = figure.subplots()
    axes.set_axis_off()
    layout(axes, config, towers)
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(0, height)
    return figure


def _without_noise(axes: Axes, config: ModelConfig, towers: Sequence[Tower]) -> None:
    column = _Column(axes, 1.3, 3.0, 0.1)
    column.plain("concepts so far", theme_colour("muted"))
    column.plain("normalizer", theme_colour("muted"))
    column.plain(f"input projection, {config.dim} → {config.width}", colour(0))
    for number, tower in enumerate(towers):
        column.tower(tower, config, colour(number))
    column.plain(f"output projection, {config.width} → {config.dim}", colour(0))
    column.plain("the next concept", theme_colour("text"))


def _denoising_beside(axes: Axes, config: ModelConfig, towers: Sequence[Tower]) -> None:
    """Clean and noisy concepts side by side through one tower."""
    clean = _Column(axes, 0.1, 1.7, 0.1)
    clean.plain("concepts so far", theme_colour("muted"))
    noisy = _Column(axes, 1.95, 1.7, 0.1)
    source = noisy.plain("a noisy concept", colour(1))
    column = _Column(axes, 0.1, 3.55, 0.1 + SMALL + GAP)
    projection = column.plain(f"input projection, {config.dim} → {config.width}", colour(0))
    for box in (clean.last, noisy.last):
        _arrow(axes, box.top, (box.top[0], projection.bottom))
    _timestep(axes, projection, 3.95, 1.2)
    column.tower(towers[0], config, colour(0))
    column.plain(f"output projection, {config.width} → {config.dim}", colour(0))
    goal = column.plain("the next concept", theme_colour("text"))
    _back(axes, goal, source, 5.4)


def _denoising_above(axes: Axes, config: ModelConfig, towers: Sequence[Tower]) -> None:
    """The first tower's output for the clean concepts goes into the second, which denoises."""
    first, second = towers[0], towers[-1]
    width = 2.3
    left = _Column(axes, 0.1, width, 0.1)
    left.plain("concepts so far", theme_colour("muted"))
    left.plain("normalizer", theme_colour("muted"))
    left.plain(f"input, {config.dim} → {config.width}", colour(0))
    contexts = left.tower(first, config, colour(0))
    right = _Column(axes, 3.0, width, 0.1)
    source = right.plain("a noisy concept", colour(1))
    right.skip()
    right.plain(f"input, {config.dim} → {config.width}", colour(1))
    tower = right.tower(second, config, colour(1))
    right.plain(f"output, {config.width} → {config.dim}", colour(1))
    goal = right.plain("the next concept", theme_colour("text"))
    goal_piece = next((place for place, (name, _) in enumerate(second.inner) if name == "cross-attention"), 0)
    cross = tower.bottom + 0.08 + LAYER * (goal_piece + 0.5)
    start = (contexts.left + contexts.width, min(cross, contexts.middle + contexts.height / 2 - 0.1))
    _arrow(axes, start, (tower.left + 0.08, cross))
    _timestep(axes, tower, 0.1, width, above=True)
    _back(axes, goal, source, 5.48)


class _Column:
    """Boxes one over the other, joined by arrows."""

    def __init__(self, axes: Axes, left: float, width: float, bottom: float) -> None:
        self.axes, self.left, self.width, self._next = axes, left, width, bottom
        self.last = Box(left, bottom, width, 0)
        self._first = True

    def plain(self, text: str, edge: str) -> Box:
        box = self._place(SMALL, edge)
        self.axes.text(*_center(box), text, ha="center", va="center", fontsize=11)
        return box

    def skip(self) -> None:
        """Leave the place of a plain box empty, an arrow through it."""
        self._next += SMALL + GAP

    def tower(self, tower: Tower, config: ModelConfig, edge: str) -> Box:
        box = self._place(HEAD + LAYER * len(tower.inner), edge)
        center = box.left + box.width / 2
        head = box.bottom + box.height
        self.axes.text(center, head - 0.2, tower.title, ha="center", va="center", fontsize=11.5, fontweight="bold")
        size = f"{tower.layers} layer{'s' if tower.layers > 1 else ''}, {config.width} wide"
        self.axes.text(center, head - 0.42, size, ha="center", va="center", fontsize=10, color=theme_colour("muted"))
        for number, (name, count) in enumerate(tower.inner):
            low = box.bottom + 0.08 + LAYER * number
            _frame(self.axes, Box(box.left + 0.1, low, box.width - 0.2, LAYER - 0.07), edge, 0.25)
            middle = low + (LAYER - 0.07) / 2
            self.axes.text(box.left + 0.18, middle, name, ha="left", va="center", fontsize=10)
            self.axes.text(
                box.left + box.width - 0.18,
                middle,
                count_text(count),
                ha="right",
                va="center",
                fontsize=10,
            )
        return box

    def _place(self, height: float, edge: str) -> Box:
        box = Box(self.left, self._next, self.width, height)
        _frame(self.axes, box, edge, 0.1)
        if not self._first:
            _arrow(self.axes, self.last.top, box.foot)
        self.last, self._first, self._next = box, False, box.bottom + height + GAP
        return box


def _towers(groups: Sequence[ModuleGroup]) -> list[Tower]:
    towers = []
    for part in dict.fromkeys(group.part for group in groups if group.layers):
        found = {group.name: group for group in groups if group.part == part and group.layers}
        order = [name for name in INNER if name in found]
        order += [name for name in found if name not in (*INNER, "norms")]
        layers = max(group.layers for group in found.values())
        title = part.replace("_", " ").capitalize()
        towers.append(Tower(title, layers, [(name, found[name].parameters) for name in order]))
    return towers


def _timestep(axes: Axes, goal: Box, left: float, width: float, above: bool = False) -> None:
    """The timestep's embedding beside or, for want of room, above the other column; an arrow leads to its goal."""
    bottom = goal.bottom + goal.height - SMALL - 0.05 if above else goal.bottom
    box = Box(left, bottom, width, SMALL)
    _frame(axes, box, colour(3), 0.1)
    axes.text(*_center(box), "timestep", ha="center", va="center", fontsize=11)
    if left < goal.left:
        _arrow(axes, (left + width, box.middle), (goal.left, box.middle))
    else:
        _arrow(axes, (left, box.middle), (goal.left + goal.width, box.middle))


def _back(axes: Axes, goal: Box, source: Box, x: float) -> None:
    """The denoising loop: the prediction, with less noise, goes in again."""
    right = goal.left + goal.width, goal.middle
    axes.plot(
        [right[0], x, x], [right[1], right[1], source.middle], color=theme_colour("muted"), linewidth=1.2, linestyle=":"
    )
    _arrow(axes, (x, source.middle), (source.left + source.width, source.middle), dotted=True)


def _center(box: Box) -> tuple[float, float]:
    return box.left + box.width / 2, box.middle


def _frame(axes: Axes, box: Box, edge: str, strength: float) -> None:
    for face, alpha in ((edge, strength), ("none", 1.0)):
        axes.add_patch(
            FancyBboxPatch(
                (box.left + 0.05, box.bottom + 0.05),
                box.width - 0.1,
                max(box.height - 0.1, 0.01),
                boxstyle="round,pad=0.05,rounding_size=0.07",
                facecolor=face,
                edgecolor="none" if face != "none" else edge,
                alpha=alpha,
                linewidth=1.2,
            )
        )


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], dotted: bool = False) -> None:
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=11,
            color=theme_colour("muted"),
            linewidth=1.2,
            linestyle=":" if dotted else "-",
            shrinkA=0,
            shrinkB=0,
        )
    )
