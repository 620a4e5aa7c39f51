"""How figures look: one calm style, drawn for light and for dark pages.

Sizes are chosen for a phone: a figure 5.6 inches wide with 11 point letters, shown 340 pixels wide, has letters of
about 9 pixels. No text of the data enters a figure, so that no font for Japanese is needed to draw one. Figures are
made without pyplot: no window system, no global state, no backend changed under the caller.
"""

import base64
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

Theme = Literal["light", "dark"]

SIZE = (5.6, 3.5)  # inches
DPI = 200

COLOURS: dict[Theme, list[str]] = {
    "light": ["#2f6fb0", "#d9722e", "#2e8b68", "#8a5fb3", "#b8912b", "#6f7782"],
    "dark": ["#74b0ea", "#f2a065", "#6bc9a3", "#bd9be0", "#e0c068", "#a3acb8"],
}
INK: dict[Theme, dict[str, str]] = {
    "light": {"paper": "#ffffff", "text": "#2b3138", "muted": "#6a727c", "grid": "#e6e8eb"},
    "dark": {"paper": "#1d2127", "text": "#dfe3e8", "muted": "#9aa3ad", "grid": "#333a43"},
}


@dataclass(frozen=True)
class Picture:
    """One figure as PNG, for light and for dark pages."""

    name: str
    light: bytes
    dark: bytes

    @property
    def light_uri(self) -> str:
        """For `src`: the picture itself, no file needed."""
        return _data_uri(self.light)

    @property
    def dark_uri(self) -> str:
        """The same for dark pages."""
        return _data_uri(self.dark)


def draw(name: str, figure: Callable[..., Figure], *args: Any) -> Picture:
    """Draw a figure in both themes."""
    return Picture(name, _png("light", figure, *args), _png("dark", figure, *args))


def new_axes(xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    """An empty figure in the current theme, its axes named."""
    figure = Figure(figsize=SIZE, dpi=DPI)
    axes = figure.subplots()
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    return figure, axes


def colour(number: int) -> str:
    """The theme's colour of a series; the last one serves all further series."""
    colours = mpl.rcParams["axes.prop_cycle"].by_key()["color"]
    return colours[min(number, len(colours) - 1)]


@contextmanager
def theme(name: Theme) -> Iterator[None]:
    """Draw in this theme inside the block."""
    ink = INK[name]
    with mpl.rc_context(
        {
            "font.family": "DejaVu Sans",  # comes with matplotlib
            "font.size": 11,
            "axes.labelsize": 11,
            "xtick.labelsize": 10,
            "ytick.labelsize": 10,
            "legend.fontsize": 10,
            "figure.facecolor": ink["paper"],
            "savefig.facecolor": ink["paper"],
            "axes.facecolor": ink["paper"],
            "text.color": ink["text"],
            "axes.labelcolor": ink["muted"],
            "xtick.color": ink["muted"],
            "ytick.color": ink["muted"],
            "axes.edgecolor": ink["grid"],
            "axes.linewidth": 1.0,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.spines.left": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": ink["grid"],
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


def _png(name: Theme, figure: Callable[..., Figure], *args: Any) -> bytes:
    buffer = io.BytesIO()
    with theme(name):
        drawn = figure(*args)
        ConstrainedLayoutEngine().execute(drawn)  # as the figure's own it would run twice, half of the whole time
        drawn.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
