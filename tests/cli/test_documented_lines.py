"""Every `lcm ...` in the documentation, in helps and in launch scripts is a line that `lcm` understands."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from documented import ROOT, Block, all_blocks, commands, options_of, pages, parse

from lexalcm.cli.app import GLOBAL_OPTIONS, UsageError, app
from lexalcm.config import load_settings
from lexalcm.model.config import ModelConfig
from lexalcm.train.settings import RunConfig

SPAN = re.compile(r"`(lcm [^`]+)`")
SCRIPTS = sorted(path for folder in ("launch", "configs") for path in (ROOT / folder).rglob("*") if path.is_file())


def check(line: list[str]) -> None:
    """Parse a line, and what it sets."""
    values = parse(line)
    settings = values.get("overrides") or []
    if line[0] == "train":
        load_settings(RunConfig, overrides=[one for one in settings if "NVME" not in one])
    for one in settings if line[0] == "bootstrap" else ():
        assert one.split("=")[0].split(".")[1] in ModelConfig.model_fields, one


def complaints(lines: list[list[str]]) -> list[str]:
    found = []
    for line in lines:
        try:
            check(line)
        except Exception as error:  # noqa: BLE001  all that is wrong is told together
            found.append(f"lcm {' '.join(line)}: {getattr(error, 'message', error)}")
    return found


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_lines_of_pages_are_understood(page: Path) -> None:
    mine = [block for block in all_blocks() if block.page == page and block.has_commands]
    assert complaints([line for block in mine for line in commands(block.text)]) == []


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_lines_within_sentences_name_commands_and_options_that_there_are(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for span in SPAN.findall(text.replace("\n", " ")):
        for line in commands(span):
            given = {word.split("=")[0] for word in line if re.match(r"--?[a-z]", word)}
            assert given - GLOBAL_OPTIONS <= options_of([word for word in line if word not in given]), span


def subcommands(command: Any, path: str = "lcm") -> Iterator[tuple[str, Any]]:
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from subcommands(inner, f"{path} {name}")


@pytest.mark.parametrize(("path", "command"), list(subcommands(typer.main.get_command(app))), ids=lambda x: str(x)[:40])
def test_examples_of_helps_are_understood(path: str, command: Any) -> None:
    lines = [line for line in commands(command.help or "") if line]
    assert complaints(lines) == []


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_lines_of_launch_scripts_and_configs_are_understood(path: Path) -> None:
    text = re.sub(r"\n#| \([a-z].*", lambda found: found[0][:1], path.read_text(encoding="utf-8"))
    lines = [line for line in commands(text) if re.fullmatch(r"[a-z]+", " ".join(line[:1])) and len(line) > 2]
    assert complaints(lines) == []


@pytest.mark.parametrize("block", [b for b in all_blocks() if b.has_commands], ids=str)
def test_every_block_of_commands_is_run_or_says_why_not(block: Block) -> None:
    assert (block.group is None) != (block.reason is None), (
        f"{block}: write <!-- test: GROUP --> or <!-- not run: REASON --> above it (see tests/cli/documented.py)"
    )


@pytest.mark.parametrize("line", [["trian"], ["train", "--no-such"], ["data", "bild"], ["infer", "x", "--steps", "a"]])
def test_a_wrong_line_is_found(line: list[str]) -> None:
    with pytest.raises(UsageError):
        parse(line)


def test_pages_are_linked_with_what_there_is() -> None:
    """Every relative link, and every heading that one leads to, is there."""
    for page in pages():
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text) + re.findall(r'src(?:set)?="([^"]+)"', text):
            name, _, anchor = target.partition("#")
            other = (page.parent / name).resolve() if name else page
            assert other.exists(), f"{page.name}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.+)$", other.read_text(encoding="utf-8"), re.MULTILINE)
                known = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
                assert anchor in known, f"{page.name}: {target}"


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    listed = {(ROOT / "docs" / target).resolve() for target in re.findall(r"\]\(([^)#\s]+\.md)", index)}
    assert {page for page in pages() if page.parent != ROOT and page.name != "README.md"} <= listed
