"""The style of figures, for light and for dark pages.

Sizes are chosen for a phone: a figure 5.6 inches wide with 11 point letters, shown 340 pixels wide, has letters of
about 9 pixels. No text of the data enters a figure, so that no font for Japanese is needed to draw one; a name given
by the user does if the font has its letters (`is_drawable`). Letters of SVG files are outlines: they look the same
without the font. Figures are made without pyplot: no window system, no global state, no backend changed under the
caller.
"""

import base64
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import matplotlib as mpl
import matplotlib.colors
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, NullFormatter

Theme = Literal["light", "dark"]
Format = Literal["png", "svg"]

FONT = "DejaVu Sans"  # comes with matplotlib
SIZE = (5.6, 3.5)  # inches
DPI = 200

COLOURS: dict[Theme, list[str]] = {
    "light": ["#2f6fb0", "#d9722e", "#2e8b68", "#8a5fb3", "#b8912b", "#6f7782"],
    "dark": ["#74b0ea", "#f2a065", "#6bc9a3", "#bd9be0", "#e0c068", "#a3acb8"],
}
THEME_COLOURS: dict[Theme, dict[str, str]] = {
    "light": {"paper": "#ffffff", "text": "#2b3138", "muted": "#6a727c", "grid": "#e6e8eb"},
    "dark": {"paper": "#1d2127", "text": "#dfe3e8", "muted": "#9aa3ad", "grid": "#333a43"},
}


@dataclass(frozen=True)
class Picture:
    """One figure for light and for dark pages."""

    name: str
    format: Format
    width: int
    height: int
    axes: str
    """The labels of its axes, for those who cannot see it."""
    light: bytes
    dark: bytes

    @property
    def file(self) -> str:
        """Its file name."""
        return f"{self.name}.{self.format}"

    @property
    def light_uri(self) -> str:
        """As a data URI, for `src`."""
        return _data_uri(self.light, self.format)

    @property
    def dark_uri(self) -> str:
        """The same for dark pages."""
        return _data_uri(self.dark, self.format)


def draw(name: str, figure: Callable[..., Figure], *args: Any, format: Format = "png") -> Picture:
    """Draw a figure in both themes."""
    with theme("light"):
        drawn = figure(*args)
        ConstrainedLayoutEngine().execute(drawn)  # as the figure's own it would run twice, half of the whole time
        light = _save(drawn, format)
    with theme("dark"):
        other = figure(*args)
        for axes, model in zip(other.axes, drawn.axes, strict=True):  # the same letters: the same layout
            axes.set_position(model.get_position(original=True))
        dark = _save(other, format)
    width, height = (round(inches * DPI) for inches in drawn.get_size_inches())
    return Picture(name, format, width, height, _describe_axes(drawn), light, dark)


def new_axes(xlabel: str, ylabel: str, size: tuple[float, float] = SIZE) -> tuple[Figure, Axes]:
    """An empty figure in the current theme, its axes named; the size is in inches."""
    figure = Figure(figsize=size, dpi=DPI)
    axes = figure.subplots()
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    return figure, axes


def colour(number: int) -> str:
    """The theme's colour of a series; the last one serves all further series."""
    colours = mpl.rcParams["axes.prop_cycle"].by_key()["color"]
    return colours[min(number, len(colours) - 1)]


def theme_colour(name: str) -> str:
    """The theme's colour of `paper`, `text`, `muted` text or `grid`."""
    dark = mpl.rcParams["figure.facecolor"] == THEME_COLOURS["dark"]["paper"]
    return THEME_COLOURS["dark" if dark else "light"][name]


def sequential_colours(count: int) -> list[tuple[float, float, float]]:
    """A sequential colour scale of `count` colours for series with an order, the last one the strongest."""
    paper, strong = np.array(mpl.colors.to_rgb(theme_colour("paper"))), np.array(mpl.colors.to_rgb(colour(0)))
    text = np.array(mpl.colors.to_rgb(theme_colour("text")))
    ends = np.stack([0.7 * paper + 0.3 * strong, strong, 0.35 * strong + 0.65 * text])
    places = np.linspace(0, 2, count)
    red, green, blue = (np.interp(places, range(3), ends[:, channel]).tolist() for channel in range(3))
    return list(zip(red, green, blue, strict=True))


def readable_on(background: tuple[float, ...]) -> str:
    """The theme's colour of paper or text, whichever stands out more (WCAG 2.2) from a background, RGB in 0 ... 1."""

    def luminance(shade: Any) -> float:
        rgb = np.array(mpl.colors.to_rgb(shade))
        return float(np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722])

    def contrast(shade: str) -> float:
        one, other = luminance(shade) + 0.05, luminance(background[:3]) + 0.05
        return max(one, other) / min(one, other)

    return max(theme_colour("paper"), theme_colour("text"), key=contrast)


def log_axis(axes: Axes, values: np.ndarray) -> None:
    """Make the vertical axis logarithmic where values go over more than a factor of twenty, all of them positive."""
    finite = values[np.isfinite(values)]
    if len(finite) and finite.min() > 0 and finite.max() > 20 * finite.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())


def is_drawable(text: str) -> bool:
    """Whether the figures' font has all letters of a text."""
    return all(ord(letter) in _letters() for letter in text)


@lru_cache(maxsize=1)
def _letters() -> frozenset[int]:
    return frozenset(get_font(findfont(FONT)).get_charmap())


@contextmanager
def theme(name: Theme) -> Iterator[None]:
    """Draw in this theme inside the block."""
    colours = THEME_COLOURS[name]
    with mpl.rc_context(
        {
            "font.family": FONT,
            "text.parse_math": False,  # a run may have a dollar in its name
            "svg.fonttype": "path",
            "svg.hashsalt": "lexalcm",  # the same file each time
            "font.size": 11,
            "axes.labelsize": 11,
            "xtick.labelsize": 10,
            "ytick.labelsize": 10,
            "legend.fontsize": 10,
            "figure.facecolor": colours["paper"],
            "savefig.facecolor": colours["paper"],
            "axes.facecolor": colours["paper"],
            "text.color": colours["text"],
            "axes.labelcolor": colours["muted"],
            "xtick.color": colours["muted"],
            "ytick.color": colours["muted"],
            "axes.edgecolor": colours["grid"],
            "axes.linewidth": 1.0,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.spines.left": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": colours["grid"],
            "grid.linewidth": 0.8,
            "xtick.major.size": 0,
            "ytick.major.size": 0,
            "xtick.minor.size": 0,
            "ytick.minor.size": 0,
            "legend.frameon": False,
            "lines.linewidth": 1.8,
            "axes.prop_cycle": cycler(color=COLOURS[name]),
        }
    ):
        yield


def _save(figure: Figure, format: Format) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=format, metadata={"Software": None} if format == "png" else {"Date": None})
    return buffer.getvalue()


def _describe_axes(figure: Figure) -> str:
    named = [(axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes]
    return "; ".join(f"x axis: {x}, y axis: {y}" for x, y in named if x and y)


def _data_uri(picture: bytes, format: Format) -> str:
    kind = "image/png" if format == "png" else "image/svg+xml"
    return f"data:{kind};base64," + base64.b64encode(picture).decode("ascii")
