"""The runner of `tools.check_gpu`: parts that end well, badly, late, or leave something behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.gpu_parts import PARTS

ROOT = Path(__file__).parents[2]
Lines = tuple[Path, list[dict[str, object]], str, int]
"""The folder, what was seen, all that was printed, the exit code."""


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Lines:
    folder = tmp_path_factory.mktemp("parts")
    result = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("example_parts.py")), str(folder)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    seen = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    return folder, seen, result.stdout, result.returncode


def of(part: str, lines: Lines) -> list[tuple[object, object]]:
    return [(line["what"], line["ok"]) for line in lines[1] if line["part"] == part]


def test_a_part_runs_in_the_shared_folder_and_its_output_is_kept(lines: Lines) -> None:
    assert of("fine", lines) == [("a file", True), ("its folder", True)]
    assert "said" in (lines[0] / "fine.txt").read_text()


def test_what_is_wrong_fails_the_whole(lines: Lines) -> None:
    assert of("wrong", lines) == [("a number", False)]
    assert lines[3] == 1


def test_an_error_is_a_line_and_its_traceback_is_kept(lines: Lines) -> None:
    assert of("raising", lines) == [("the first", True), ("ends well", False)]
    assert "ValueError: no second" in (lines[0] / "raising.txt").read_text()
    assert "no second" in lines[2]


def is_alive(process: int) -> bool:
    try:
        return (Path("/proc") / str(process) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_part_that_hangs_writes_its_stacks_and_is_ended_with_what_it_started(lines: Lines) -> None:
    assert of("hanging", lines) == [("ends in time", False)]
    assert "in hanging" in (lines[0] / "hanging.txt").read_text()
    assert not is_alive(int((lines[0] / "hanging").read_text()))


def test_a_process_that_is_left_behind_is_ended_and_told(lines: Lines) -> None:
    assert of("leaving", lines) == [("a process", True), ("leaves no process behind", False)]
    (left,) = (line["seen"] for line in lines[1] if line["what"] == "a process")
    assert not is_alive(int(str(left)))


def test_the_table_stands_at_the_end(lines: Lines) -> None:
    table = lines[2].rpartition("}\n")[2].split("\n")
    assert table[1].split() == ["part", "what", "right", "seen"]
    assert sum(line.endswith("FAILED") for line in table) == 4


def test_all_parts_together_have_time_to_end() -> None:
    assert next(iter(PARTS)) == "typed"
    assert all(0 < part.limit <= 150 for part in PARTS.values())


def test_an_unknown_part_is_refused() -> None:
    command = [sys.executable, "-m", "tools.check_gpu", "engine"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "no part engine: there are typed, " in result.stderr
