"""The command itself: quick to answer, mistakes in one line."""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lexalcm.cli.app import main

LCM = Path(sys.executable).with_name("lcm")
HEAVY = ("torch", "pandas", "sklearn", "matplotlib", "pyarrow", "deepspeed", "numpy")


@pytest.mark.parametrize("command", [[], ["infer"], ["evaluate"], ["data", "build"]], ids=" ".join)
def test_help_imports_nothing_heavy(command: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['lcm', *{command!r}, '--help']\n"
        "from lexalcm.cli.app import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[-1] == "[]"


def test_help_answers_at_once() -> None:
    """Under half a second: the best of five, because the machine may be busy with other things."""
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        subprocess.run([LCM, "--help"], capture_output=True, check=True)
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 0.5


COMMANDS = [
    "bootstrap",
    "train",
    "infer",
    "evaluate",
    "data sample",
    "data build",
    "data normalize",
    "data info",
    "verify data",
    "verify model",
    "verify env",
    "visualize data",
    "visualize run",
    "visualize generation",
    "visualize schedule",
    "visualize model",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_examples(lcm: Callable, command: str) -> None:
    result = lcm(*command.split(), "--help")
    assert result.code == 0
    assert "Examples:" in result.out
    assert f"lcm {command}" in result.out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("trian", "No such command 'trian'. Did you mean 'train'?"),
        ("bootstrap --sed 1", "--sed"),
        ("bootstrap --seed one", "Invalid value for '--seed'"),
        ("infer", "nothing to continue: give a text"),
        ("infer hello --steps 0", "Invalid value for '--steps'"),
    ],
)
def test_a_wrong_line_is_answered_in_one_line(lcm: Callable, line: str, message: str) -> None:
    result = lcm(*line.split())
    assert result.code == 2
    assert message in result.err
    assert len(result.err.splitlines()) == 1
    assert result.out == ""


def test_ctrl_c_is_said_in_one_line(lcm: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lexalcm.verify.env.verify_env", interrupted)
    result = lcm("verify", "env")
    assert (result.code, result.out, result.err) == (130, "", "lcm: interrupted\n")


@pytest.mark.parametrize("line", ["", "data", "verify", "visualize"])
def test_a_group_without_a_command_shows_its_help_alone(lcm: Callable, line: str) -> None:
    result = lcm(*line.split())
    assert result.code == 2
    assert "Commands" in result.out
    assert result.err == ""


def test_closed_standard_input_is_an_empty_one(tmp_path: Path) -> None:
    line = f"exec {LCM} infer - <&-"
    result = subprocess.run(["sh", "-c", line], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "lcm: no trained model in runs/: run lcm train first\n"


def test_debug_shows_the_traceback_wherever_it_stands(tmp_path: Path) -> None:
    for line in (["--debug", "verify", "model", "nowhere"], ["verify", "model", "nowhere", "--debug"]):
        result = subprocess.run([LCM, *line], capture_output=True, text=True, cwd=tmp_path, check=False)
        assert "Traceback" in result.stderr
    quiet = subprocess.run(
        [LCM, "verify", "model", "nowhere"], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert quiet.returncode == 2
    assert quiet.stderr.count("\n") == 1


def test_no_space_left_in_a_rust_library_is_one_line(
    lcm: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors import SafetensorError

    from lexalcm.data.sources import sample

    def full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(sample, "build_sample", full)
    result = lcm("data", "sample", "--out", tmp_path / "x")
    assert result.code == 2
    assert result.err == "lcm: No space left on device: free some space, or choose another place for the output\n"


def test_no_space_left_is_one_line(lcm: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    from lexalcm.data.sources import sample

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "shard"))

    monkeypatch.setattr(sample, "build_sample", full)
    result = lcm("data", "sample", "--out", tmp_path / "x")
    assert result.code == 2
    assert result.err == f"lcm: No space left on device: {tmp_path / 'shard'}\n"


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (OSError(36, "File name too long", "長" * 300), 2, "File name too long: " + "長" * 98 + "..."),
        (OSError(40, "Too many levels of symbolic links", "a/b"), 2, "Too many levels of symbolic links: a/b"),
        (NotADirectoryError(20, "Not a directory", b"a/b"), 2, "Not a directory: a/b"),
        (OSError(5, "Input/output error"), 2, "Input/output error"),
        (shutil.Error([("a/b", "c/d", "[Errno 13] Permission denied: 'a/b'")]), 2, "Permission denied: a/b"),
        (shutil.Error([("a/b", "c/d", "[Errno 28] No space left on device")]), 2, "No space left on device: a/b"),
        (shutil.Error("cannot move\na folder"), 2, "cannot move a folder"),
        (MemoryError(), 1, "out of memory: choose smaller sizes, or a machine with more memory"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 4000 bytes."),
            1,
            "out of memory: choose smaller sizes, or a machine with more memory",
        ),
    ],
)
def test_what_the_system_says_is_one_line(
    lcm: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, says: str
) -> None:
    from lexalcm.data.sources import sample

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(sample, "build_sample", fail)
    result = lcm("data", "sample", "--out", tmp_path / "x")
    assert (result.code, result.err) == (code, f"lcm: {says}\n")


@pytest.mark.parametrize(
    "line",
    [
        ["data", "build", "TEXT", "--out", "x"],
        ["verify", "model", "TEXT"],
        ["verify", "data", "TEXT"],
        ["train", "--resume", "TEXT"],
        ["infer", "--model", "TEXT", "Hello."],
    ],
    ids=" ".join,
)
def test_a_text_where_a_path_is_expected_is_one_line(lcm: Callable, line: list[str]) -> None:
    result = lcm(*("The sun rises over the hills. " * 20 if word == "TEXT" else word for word in line))
    assert result.code == 2
    assert result.err.startswith("lcm: ")
    assert result.err.count("\n") == 1
    assert "File name too long" in result.err


def test_an_exception_that_nobody_foresaw_is_one_line_and_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("of the\ninside")

    monkeypatch.setattr("lexalcm.verify.env.verify_env", fail)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["lcm", "verify", "env"])
    with pytest.raises(SystemExit) as end:
        main()
    [line] = capsys.readouterr().err.splitlines()
    [file] = tmp_path.iterdir()
    assert end.value.code == 1
    assert line.startswith("lcm: unexpected KeyError: ")
    assert str(file) in line
    text = file.read_text()
    assert text.startswith("lcm verify env\nlexalcm ")
    assert "Traceback" in text
    assert 'raise KeyError("of the\\ninside")' in text
    assert file.stat().st_mode & 0o077 == 0
