"""The command lines of the documentation: found in its pages, and parsed without running them.

A fenced block that holds command lines says above itself what becomes of it in tests:

    <!-- test: GROUP -->         it is run, in the folder of the group, behind the group's blocks before it
    <!-- not run: REASON -->     it is only parsed: it needs a GPU, a cluster, a network
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from lexalcm.cli.app import GLOBAL_OPTIONS, app

ROOT = Path(__file__).parents[2]
SHELL = ("", "sh", "bash", "console", "shell")
MARK = re.compile(r"<!--\s*(test|not run):\s*(.*?)\s*-->")
STARTS = re.compile(r"\b(?:lcm|-m lexalcm)\s")
"""What every command line of ours has; other lines of a block are others' commands."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str
    group: str | None
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def has_commands(self) -> bool:
        """Whether someone who reads it would type it."""
        return self.language in SHELL and bool(commands(self.text))


def pages() -> list[Path]:
    """In the order in which they are read."""
    first = [ROOT / "README.md", ROOT / "docs" / "quickstart.md", ROOT / "docs" / "data.md"]
    return first + [page for page in sorted((ROOT / "docs").rglob("*.md")) if page not in first]


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page."""
    begin, language, gathered, mark = 0, "", [], None
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        fence = line.lstrip()
        if begin and fence.startswith("```"):
            group, reason = (mark[2] if mark and mark[1] == kind else None for kind in ("test", "not run"))
            yield Block(page, begin, language, "\n".join(gathered) + "\n", group, reason)
            begin, mark = 0, None
        elif fence.startswith("```"):
            begin, language, gathered = number, fence[3:].strip(), []
        elif begin:
            gathered.append(line)
        elif line.strip():
            mark = MARK.fullmatch(line.strip())


def all_blocks() -> list[Block]:
    return [block for page in pages() for block in blocks(page)]


def commands(text: str) -> list[list[str]]:
    """The arguments of every `lcm` in some shell lines; comments, other commands and variables left out."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        if not STARTS.search(line):
            continue
        try:
            words = shlex.split(line.removeprefix("$ "), comments=True)
        except ValueError:  # prose with an apostrophe
            continue
        for part in _split(words):
            arguments = _arguments(part)
            if arguments is not None:
                found.append(arguments)
    return found


def _split(words: list[str]) -> Iterator[list[str]]:
    """The commands of a line with pipes and the like."""
    part: list[str] = []
    for word in [*words, ";"]:
        if word in ("|", "||", "&&", ";", "&", ">", ">>", "<", "2>&1"):
            yield part
            part = []
        elif word.endswith(";"):
            yield [*part, word[:-1]]
            part = []
        else:
            part.append(word)


def _arguments(words: list[str]) -> list[str] | None:
    """Behind `lcm` or `-m lexalcm`, wherever a launcher has put it; None where there is neither."""
    for place, word in enumerate(words):
        if Path(word).name == "lcm" and not word.startswith("-"):
            rest = words[place + 1 :]
        elif word in ("-m", "--module") and words[place + 1 : place + 2] == ["lexalcm"]:
            rest = words[place + 2 :]
        else:
            continue
        return [argument for argument in rest if not argument.startswith(("$", "{"))]
    return None


def command_of(arguments: list[str]) -> tuple[Any, Any, list[str]]:
    """The command that a line names, its context, and the words that are left for it.

    Raises:
        UsageError: no such command, or a wrong option of a group before it.
    """
    command: Any = typer.main.get_command(app)
    context = command.make_context("lcm", list(arguments))
    while hasattr(command, "resolve_command"):
        name, command, rest = command.resolve_command(
            context, [*getattr(context, "_protected_args", ()), *context.args]
        )
        if not hasattr(command, "resolve_command"):
            return command, context, rest
        context = command.make_context(name, rest, parent=context)
    return command, context, []


def parse(arguments: list[str]) -> dict[str, Any]:
    """Parse a line as `lcm` would, without running anything.

    Raises:
        UsageError: as the user would see it.
    """
    arguments = [word for word in arguments if word not in GLOBAL_OPTIONS]
    if arguments and arguments[0] in options_of([]):
        return {}
    command, parent, rest = command_of(arguments)
    return command.make_context(command.name, rest, parent=parent).params


def options_of(arguments: list[str]) -> set[str]:
    """The options that the command of a line has; those of `lcm` itself for an empty line."""
    command: Any = typer.main.get_command(app)
    for word in arguments:
        command = getattr(command, "commands", {}).get(word, command)
    parameters = command.get_params(typer.Context(command))
    return {name for parameter in parameters for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
