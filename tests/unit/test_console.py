"""Text from data and names on its way to a terminal, a pipe and a program."""

import io
import json
import re
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from lexalcm.cli import console
from lexalcm.cli.console import json_text

ATTACKS = [
    "\x1b]0;renamed\x07",
    "\x1b[2J",
    "\x1b]8;;http://example.org\x1b\\link",
    "\x9b31m",
    "\x9d0;renamed\x9c",
    "\u202eabc",
    "\u2066abc\u2069",
    "\x7f",
    "[bold]",
    "[/x]",
    "[link=http://example.org]",
    "a[v2]",
    ":smile:",
    "\udc83",
]
STYLES = re.compile(r"\x1b\[[0-9;]*m")
TEXTS = st.lists(st.sampled_from(ATTACKS) | st.text(max_size=8), max_size=6).map("".join)


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def shown(stream: io.StringIO, *printed: object, stderr: bool = False, width: int = 60) -> str:
    """What one of our consoles writes of something."""
    screen = console._TextConsole(stderr=stderr)
    screen.file, screen.width = stream, width
    for one in printed:
        screen.print(one)
    return stream.getvalue()


def may_be_shown(text: str) -> bool:
    overrides = {chr(number) for number in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}
    return all(
        one in "\n\t" or (unicodedata.category(one) not in ("Cc", "Cs") and one not in overrides) for one in text
    )


@given(text=TEXTS)
def test_no_control_character_reaches_a_terminal(text: str) -> None:
    table = Table(text, title=text, caption=text)
    table.add_column(Text(text, style="bold"), footer=text)
    table.add_row(text, Text(text, style="dim"))
    written = shown(Terminal(), text, Text(text, style="red"), table)
    assert may_be_shown(STYLES.sub("", written))


@given(text=TEXTS)
def test_nor_a_message_in_a_log(text: str) -> None:
    assert may_be_shown(shown(io.StringIO(), text, stderr=True))


@pytest.mark.parametrize("name", ["models/a[v2]", "models/a[/b]", "[bold]x", "[/]", "\\[x]", "a:smile:b", "[link=x]y"])
def test_names_are_printed_as_they_are(name: str) -> None:
    assert shown(io.StringIO(), name) == name + "\n"
    assert shown(io.StringIO(), name, stderr=True) == name + "\n"
    table = Table(name)
    table.add_row(name)
    assert shown(io.StringIO(), table).count(name) == 2


def test_escapes_say_which_character_it_was() -> None:
    assert shown(Terminal(), "a\x1b[2Jb\x9bc\u202ed") == "a\\x1b[2Jb\\x9bc\\u202ed\n"


def test_a_pipe_gets_the_text_as_it_is() -> None:
    text = "a\x1b[2J\u202eb\x07\tc\x9b"
    assert shown(io.StringIO(), text) == text + "\n"


def test_columns_align_beside_escapes() -> None:
    table = Table("one", "two")
    for text in ("\x1b]0;renamed", "plain", "\u202e\u202e\u202e" * 20):
        table.add_row(text, Text(text, style="bold"))
    rows = STYLES.sub("", shown(Terminal(), table, width=40)).splitlines()
    assert {cell_len(row) for row in rows} == {max(map(cell_len, rows))}
    assert max(map(cell_len, rows)) <= 40


@given(text=TEXTS)
def test_json_is_the_text_without_what_a_terminal_obeys(text: str) -> None:
    written = json_text({"text": text, text: 1}, indent=2)
    assert may_be_shown(written)
    again = json.loads(written)
    halves = re.compile("[\ud800-\udfff]")
    if not halves.search(text):
        assert again["text"] == text


def test_json_on_a_stream_of_another_encoding_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1", errors="backslashreplace")
    monkeypatch.setattr(sys, "stdout", stream)
    console.print_json({"text": "é 港 😀"})
    assert json.loads(stream.buffer.getvalue().decode("latin-1")) == {"text": "é 港 😀"}
