"""`lcm infer` in a terminal: the denoising line, alternatives side by side, turns with Ctrl-C, Ctrl-D and a history."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from text_model_folder import make_text_model

LCM = Path(sys.executable).with_name("lcm")
PATIENCE = 120.0
CONTROLS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


class Terminal:
    """A command in a terminal, 90 columns wide."""

    def __init__(self, folder: Path, *arguments: object) -> None:
        self.ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 90, 0, 0))
        known = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
        self.process = subprocess.Popen(
            [LCM, *map(str, arguments)],
            cwd=folder,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that Ctrl-C reaches it
            env=known | {"TERM": "xterm-256color", "XDG_STATE_HOME": str(folder / "state"), "OMP_NUM_THREADS": "1"},
        )
        os.close(theirs)
        self.shown = ""

    def read_until(self, text: str) -> str:
        """Read until a text is shown; gives what was shown since the last time."""
        ends, since = time.monotonic() + PATIENCE, len(self.shown)
        while text not in CONTROLS.sub("", self.shown[since:]):
            assert time.monotonic() < ends, self.shown
            if not select.select([self.ours], [], [], 0.1)[0]:
                assert self.process.poll() is None, self.shown
                continue
            try:
                self.shown += os.read(self.ours, 65536).decode(errors="replace")
            except OSError:  # it has ended
                break
        return CONTROLS.sub("", self.shown[since:])

    def read_until_prompt(self) -> str:
        """Read until the next line can be typed: readline takes keys, Ctrl-C and Ctrl-D only once it waits for them."""
        shown = self.read_until("> ")
        time.sleep(0.3)
        return shown

    def type(self, text: str) -> None:
        os.write(self.ours, text.encode())

    def wait(self) -> int:
        self.read_until("\x00")  # to its end
        os.close(self.ours)
        return self.process.wait(PATIENCE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("terminal")
    make_text_model(folder / "model", stop_similarity=1, repetition=1)
    return folder


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., Terminal]]:
    """Starts commands in terminals of their own; none outlives its test."""
    started: list[Terminal] = []

    def begin(*arguments: object) -> Terminal:
        started.append(Terminal(folder, *arguments))
        return started[-1]

    yield begin
    for terminal in started:
        terminal.process.kill()


def test_taking_turns(folder: Path, start: Callable[..., Terminal]) -> None:
    """A text that would be a million sentences long is stopped; the next turn is as if nothing had been."""
    line = ("infer", "--model", "model", "-i", "-n", 1_000_000, "--steps", 100)
    terminal = start(*line)
    terminal.read_until_prompt()
    terminal.type("Peace is near.\n")
    shown = terminal.read_until("sentence 3, step")
    assert "sentence 1, step" in shown
    terminal.type("\x03")
    assert "stopped" in terminal.read_until_prompt()
    terminal.type("half a line")
    terminal.read_until("half a line")
    time.sleep(0.3)  # as for the prompt
    terminal.type("\x03")
    terminal.read_until_prompt()
    terminal.type("/set max-sentences 1\n")
    assert "max-sentences is 1" in terminal.read_until_prompt()
    terminal.type("The wind blew.\n")
    terminal.read_until_prompt()
    terminal.type("/save text.json\n")
    assert "sentences" in terminal.read_until_prompt()
    terminal.type("\x04")
    assert terminal.wait() == 0
    assert '"text": "The wind blew."' in (folder / "text.json").read_text()
    history = (folder / "state/lexalcm/infer_history").read_text().splitlines()
    assert history[-4:] == ["Peace is near.", "/set max-sentences 1", "The wind blew.", "/save text.json"]


def test_alternatives_stand_side_by_side(start: Callable[..., Terminal]) -> None:
    terminal = start("infer", "Peace.", "--model", "model", "--samples", 2, "-n", 2)
    assert terminal.wait() == 0
    lines = CONTROLS.sub("", terminal.shown).splitlines()
    assert any("seed 0" in line and "seed 1" in line for line in lines)
    assert max(len(line) for line in lines if "seed 0 " in line or "stopped: length " in line) <= 90
