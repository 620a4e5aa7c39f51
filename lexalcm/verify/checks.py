"""Results of checks, and their table."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.table import Table
from rich.text import Text

Status = Literal["ok", "note", "problem"]

STYLES: dict[Status, str] = {"ok": "green", "note": "yellow", "problem": "bold red"}


@dataclass(frozen=True)
class Check:
    """The result of one check. A note is information only; a problem needs to be fixed."""

    name: str
    status: Status
    value: str
    advice: str = ""


def passed(checks: Iterable[Check]) -> bool:
    """Whether there is no problem among them."""
    return all(check.status != "problem" for check in checks)


def checks_table(checks: Iterable[Check], title: str) -> Table:
    """One row a check, with advice below what was found."""
    table = Table("", "check", title=Text(title), title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("found", overflow="fold")
    for check in checks:
        found = Text(check.value)
        if check.advice:
            found.append(f"\n{check.advice}", style=STYLES[check.status])
        table.add_row(Text(check.status, style=STYLES[check.status]), Text(check.name), found)
    return table
