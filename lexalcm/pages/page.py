"""Reports: pictures as files, and one HTML page that needs nothing beside itself.

The page holds its pictures (base64) in a light and a dark version and chooses by the reader's setting; it loads no
script, no font and nothing from the network. The files beside it are the light pictures. A report is an iterable of
plans, drawn by `draw_cards`, and a template of its own that extends `page.html.j2`.
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
class Plan:
    """A picture to draw: its title, what it says in plain words, the function that draws it and what that takes."""

    name: str
    title: str
    caption: str
    figure: Callable[..., Figure]
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Card:
    """A picture with its title and what it says in plain words."""

    picture: Picture
    title: str
    caption: str


@dataclass(frozen=True)
class Fact:
    """A number at the top of the page."""

    value: str
    name: str


def draw_cards(plans: Sequence[Plan], format: Format = "png", progress: Progress = silent) -> list[Card]:
    """Draw pictures, in both themes."""
    cards = []
    with progress("drawing", "figures") as report:
        for done, plan in enumerate(plans):
            picture = draw(plan.name, plan.figure, *plan.arguments, format=format)
            cards.append(Card(picture, plan.title, plan.caption))
            report(done + 1, len(plans))
    return cards


def render_page(template: str, values: Mapping[str, Any]) -> str:
    """The HTML of a report.

    Args:
        template: a file of `templates/`.
        values: what it asks for; all want `title`, `command` (what made it), `facts` and `cards`.
    """
    return _environment().get_template(template).render(values, version=__version__)


def write_report(out: Path | str, page: str, cards: Sequence[Card], *, overwrite: bool) -> list[str]:
    """Write the page and the pictures into a new folder, whole or not at all; returns the files' names.

    Raises:
        UserError: see `lexalcm.io.atomic.check_output`.
    """
    with atomic_folder(out, overwrite=overwrite, marker=PAGE) as folder:
        (folder / PAGE).write_text(page, encoding="utf-8")
        for card in cards:
            (folder / card.picture.file).write_bytes(card.picture.light)
    return [PAGE, *(card.picture.file for card in cards)]


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("lexalcm.pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
