"""Reports: pictures as files, and one HTML page that is self-contained.

The page holds its pictures (base64) in a light and a dark version and chooses by the reader's setting; it loads no
script, no font and nothing from the network. The files beside it are the light pictures. A report is a sequence of
`FigureSpec`s, drawn by `draw_figures`, and a template of its own that extends `page.html.j2`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from lexalcm import __version__
from lexalcm.io.atomic import atomic_folder
from lexalcm.io.progress import Progress, silent
from lexalcm.pages.style import Format, Picture, draw

PAGE = "index.html"


@dataclass(frozen=True)
class FigureSpec:
    """A figure to draw: file name, title, caption, the function that draws it and its arguments."""

    name: str
    title: str
    caption: str
    figure: Callable[..., Figure]
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class CaptionedFigure:
    """A drawn figure with its title and caption."""

    picture: Picture
    title: str
    caption: str


@dataclass(frozen=True)
class Fact:
    """A number at the top of the page."""

    value: str
    name: str


def draw_figures(
    specs: Sequence[FigureSpec], format: Format = "png", progress: Progress = silent
) -> list[CaptionedFigure]:
    """Draw figures, in both themes."""
    drawn = []
    with progress("drawing", "figures") as report:
        for done, spec in enumerate(specs):
            picture = draw(spec.name, spec.figure, *spec.arguments, format=format)
            drawn.append(CaptionedFigure(picture, spec.title, spec.caption))
            report(done + 1, len(specs))
    return drawn


def render_page(template: str, values: Mapping[str, Any]) -> str:
    """The HTML of a report.

    Args:
        template: a file of `templates/`.
        values: what it asks for; all want `title`, `command` (what made it), `facts` and `figures`.
    """
    return _environment().get_template(template).render(values, version=__version__)


def write_report(out: Path | str, page: str, figures: Sequence[CaptionedFigure], *, overwrite: bool) -> list[str]:
    """Write the page and the pictures into a new folder, atomically; returns the files' names.

    Raises:
        UserError: see `lexalcm.io.atomic.check_output`.
    """
    with atomic_folder(out, overwrite=overwrite, marker=PAGE) as folder:
        (folder / PAGE).write_text(page, encoding="utf-8")
        for figure in figures:
            (folder / figure.picture.file).write_bytes(figure.picture.light)
    return [PAGE, *(figure.picture.file for figure in figures)]


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("lexalcm.pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
