"""`lcm settings`: what can be set, to what, and what it means."""

import dataclasses
import textwrap
from typing import TYPE_CHECKING, Annotated

import typer

from lexalcm.cli.console import err, out, print_json
from lexalcm.errors import ConfigError, nearest

if TYPE_CHECKING:
    from lexalcm.settings_list import Section

WIDTH = 80


def settings(
    name: Annotated[str, typer.Argument(help="A setting, or the first part of several: train.checkpoint, model.")] = "",
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the page docs/settings.md.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """List settings with their types, defaults and meanings.

    Without a name, those of lcm train; a default can be copied after --set. A
    name that ends in [] stands for each entry of a list.

    \b
    Examples:
      lcm settings                     # all of lcm train
      lcm settings train.checkpoint
      lcm settings model               # also those of lcm bootstrap
      lcm settings generation          # and of lcm infer and evaluate
      lcm settings | grep every
    """
    from lexalcm.settings_list import LISTED, listed, page

    if markdown:
        out.print(page())
        return
    chosen = [
        section for first in LISTED if first in ("", name.partition(".")[0]) for section in _within(listed(first), name)
    ]
    if not chosen:
        known = [setting.name for section in listed("") for setting in section.settings]
        raise ConfigError(f"there is no setting {name}{nearest(name, known)}")
    if as_json:
        print_json([dataclasses.asdict(setting) for section in chosen for setting in section.settings])
        return
    for section in chosen:
        _print(section)
    if not name:
        err.print("settings of lcm bootstrap --set: lcm settings model; of generation: lcm settings generation")


def _within(sections: "list[Section]", name: str) -> "list[Section]":
    """What of sections has a name, or a name that it begins; sections that nothing is left of are left out."""
    if not name:
        return sections
    kept = []
    for section in sections:
        inside = tuple(one for one in section.settings if f"{one.name}.".startswith((f"{name}.", f"{name}[")))
        if inside:
            kept.append(dataclasses.replace(section, settings=inside))
    return kept


def _print(section: "Section") -> None:
    out.print(textwrap.fill(f"{section.name + ': ' if section.name else ''}{section.meaning}", WIDTH))
    for setting in section.settings:
        default = "must be given" if setting.default is None else f"= {setting.default}"
        out.print(f"\n  {setting.name} {default}", style="bold")
        for line in (setting.type, setting.meaning):
            out.print(textwrap.fill(line, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6))
    out.print()
