"""What a terminal, a pipe and a shell see of `lcm`."""

import fcntl
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from rich.cells import cell_len

LCM = Path(sys.executable).with_name("lcm")
MOVES = re.compile(rb"\x1b\[(?:\d+[AK]|\?25[lh]|2K)|\r(?!\n)")
"""Moving the cursor, erasing lines, hiding the cursor: what a progress bar does."""

STYLES = re.compile(r"\x1b\[[0-9;]*m")
JAPANESE = ["これは短い文です。", "これはとても長い文で、端末の幅には決して収まりきらないほど長く書かれています。"]


def in_terminal(width: int, *arguments: object, **environment: str) -> tuple[int, str]:
    """Run a command in a terminal so many columns wide: its exit code, and all that it shows."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    known = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR", "FORCE_COLOR")}
    process = subprocess.Popen(
        [LCM, *map(str, arguments)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=known | {"TERM": "xterm-256color"} | environment,
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            block = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not block:
            break
        shown += block
    os.close(ours)
    return process.wait(), shown.decode()


def piped(*arguments: object, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([LCM, *map(str, arguments)], capture_output=True, env=os.environ | environment, check=False)


@pytest.fixture(scope="module")
def japanese(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of Japanese text, and the line that made it."""
    folder = tmp_path_factory.mktemp("japanese")
    documents = [{"text": [f"{i}番目です。", *JAPANESE, f"{i}回目の終わりです。"]} for i in range(30)]
    lines = "".join(json.dumps(document, ensure_ascii=False) + "\n" for document in documents)
    (folder / "text.jsonl").write_text(lines, encoding="utf-8")
    line = ("data", "build", folder / "text.jsonl", "--lang", "ja", "--codec-option", "dim=4", "--out", folder / "set")
    done = piped(*line, FORCE_COLOR="1")
    assert done.returncode == 0, done.stderr.decode()
    assert not MOVES.search(done.stdout + done.stderr)  # colours as asked for, but nothing that moves
    return folder


def test_a_terminal_has_a_progress_bar_and_can_be_quiet(japanese: Path) -> None:
    line = ("data", "build", japanese / "text.jsonl", "--lang", "ja", "--codec-option", "dim=4", "--overwrite")
    code, shown = in_terminal(100, *line, "--out", japanese / "other")
    assert code == 0
    assert "segmenting" in shown
    assert MOVES.search(shown.encode())
    code, shown = in_terminal(100, *line, "--out", japanese / "other", "--quiet")
    assert code == 0
    assert not MOVES.search(shown.encode())
    assert "japanese0/other: 4 dimensions" in shown


@pytest.mark.parametrize("width", [60, 200])
def test_lines_fit_the_terminal_and_japanese_columns_align(japanese: Path, width: int) -> None:
    code, shown = in_terminal(width, "verify", "data", japanese / "set", NO_COLOR="1")
    assert code == 0
    rows = [STYLES.sub("", line).rstrip("\r") for line in shown.split("\n")]
    table = [row for row in rows if not MOVES.search(row.encode()) and str(japanese) not in row]
    assert any("1.000" in row for row in table)
    assert max(map(cell_len, table)) <= width
    starts = set()
    for row in table:
        for sentence in JAPANESE:
            for match in re.finditer(re.escape(sentence[:5]), row):
                starts.add(cell_len(row[: match.start()]))
    assert len(starts) == 2  # two columns, each begins in one place
    assert any("…" in row for row in table) == (width == 60)
    code, shown = in_terminal(width, "--help", NO_COLOR="1")
    assert max(cell_len(STYLES.sub("", row).rstrip("\r")) for row in shown.split("\n")) <= width


def test_no_color_is_respected(japanese: Path) -> None:
    colours = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9[0-7])\b")
    line = ("verify", "data", japanese / "set", "--quick")
    assert colours.search(in_terminal(80, *line)[1])
    assert not colours.search(in_terminal(80, *line, NO_COLOR="1")[1])
    assert not colours.search(in_terminal(80, "--help", NO_COLOR="1")[1])


def test_quiet_leaves_results_and_errors(lcm: Callable, japanese: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.jsonl"
    text.write_text('{"text": "..."}\n' + (japanese / "text.jsonl").read_text(encoding="utf-8"), encoding="utf-8")
    line = ("data", "build", text, "--lang", "ja", "--codec-option", "dim=4", "--out")
    usual = lcm(*line, tmp_path / "a")
    quiet = lcm("-q", *line, tmp_path / "b")
    assert "left out: 1 documents" in usual.err
    assert quiet.err == ""
    assert quiet.out.replace(str(tmp_path / "b"), str(tmp_path / "a")) == usual.out
    again = lcm(*line, tmp_path / "a", "-q")
    assert again.code == 2
    assert "exists" in again.err
    assert len(again.err.splitlines()) == 1


def test_verbose_says_what_took_how_long(lcm: Callable, japanese: Path, tmp_path: Path) -> None:
    line = ("data", "build", japanese / "text.jsonl", "--lang", "ja", "--codec-option", "dim=4")
    result = lcm(*line, "--out", tmp_path / "a", "-v")
    assert re.search(r"^segmenting: 120 sentences in \d+\.\d s$", result.err, re.MULTILINE)
    assert re.search(r"^embedding: 120 sentences in \d+\.\d s$", result.err, re.MULTILINE)
    assert re.search(r"^\d+\.\d s, peak memory \d+\.\d GiB$", result.err, re.MULTILINE)
    assert "in 0" not in lcm(*line, "--out", tmp_path / "b").err  # and the next command is its usual self


def test_a_reader_that_has_read_enough_is_no_failure() -> None:
    code = "echo ${PIPESTATUS[0]}"
    line = f"{LCM} bootstrap --help | true; {code}; {LCM} bootstrap --list | true; {code}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["0", "0"]
    assert done.stderr == ""


def in_shell(line: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of bash, with the path of `lcm` as $LCM."""
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, env=os.environ | {"LCM": str(LCM)} | environment, check=False
    )


@pytest.mark.parametrize("stderr", ["2>&-", "2>/dev/full", "2> >(exec true)", "2>&1 >/dev/null | true"])
@pytest.mark.parametrize(("command", "code"), [("bootstrap --list -v", "0"), ("data info nowhere", "2")])
def test_messages_that_nobody_gets_change_no_exit_code(stderr: str, command: str, code: str) -> None:
    done = in_shell(f"$LCM {command} {stderr}; echo ${{PIPESTATUS[0]}}")
    assert done.stdout.split()[-1:] == [code.encode()]
    assert done.stderr == b""


def test_results_that_cannot_be_written_are_a_failure_in_one_line() -> None:
    done = in_shell("$LCM bootstrap --list > /dev/full")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert b"No space left" in done.stderr


@pytest.mark.parametrize("columns", ["0", "00", "-5", "", "wide", "\u00b2"])
def test_a_width_that_is_none_counts_as_not_given(columns: str) -> None:
    narrow = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    usual = subprocess.run([LCM, "bootstrap", "--list"], capture_output=True, env=narrow, check=True)
    done = piped("bootstrap", "--list", COLUMNS=columns)
    assert (done.returncode, done.stdout) == (0, usual.stdout)
    assert b"base-tiny" in done.stdout


def test_text_that_the_output_cannot_carry_is_escaped(japanese: Path) -> None:
    done = piped("verify", "data", japanese / "set", PYTHONIOENCODING="latin-1")
    assert done.returncode == 0
    assert b"\\u3053\\u308c\\u306f" in done.stdout
    done = piped("bootstrap", "--list", "--json", PYTHONIOENCODING="latin-1")
    assert json.loads(done.stdout.decode("latin-1"))["base-tiny"] > 0


@pytest.mark.parametrize("forced", [{}, {"NO_COLOR": "1"}])
def test_json_has_no_colours_where_they_are_forced(japanese: Path, forced: dict[str, str]) -> None:
    for line in (
        ("verify", "data", japanese / "set", "--quick"),
        ("data", "info", japanese / "set"),
        ("bootstrap", "--list"),
        ("visualize", "schedule", "--out", japanese / "page", "--overwrite"),
    ):
        done = piped(*line, "--json", FORCE_COLOR="1", **forced)
        assert done.returncode == 0, done.stderr.decode()
        assert json.loads(done.stdout)
        assert b"\x1b" not in done.stdout


def test_names_are_shown_as_they_are(japanese: Path) -> None:
    models = japanese / "models"
    for name in ("a[v2]", "a[/b]", "a:smile:"):
        line = ("--data", japanese / "set", "--preset", "base-tiny", "--out", models / name)
        done = piped("bootstrap", *line)
        assert done.returncode == 0, done.stderr.decode()
        assert done.stderr.decode() == f"wrote {models / name}. Next: lcm train --model {models / name}\n"


def test_control_characters_in_names_are_shown_as_escapes() -> None:
    name = "no\x1b[2J\x1b]0;renamed\x07\x9b31m\u202e"
    for line in (("infer", "--model", name, "x"), ("data", "info", name), ("data", "build", name, "--out", "out")):
        for code, said in (
            in_terminal(200, *line),
            (lambda done: (done.returncode, done.stderr.decode()))(piped(*line)),
        ):
            assert code == 2
            assert "no\\x1b[2J" in said
            assert not set(said) & set("\x1b\x07\x9b\u202e")


def test_an_error_is_one_line_whatever_its_names(lcm: Callable) -> None:
    for line in (("infer", "--model", "two\nlines", "x"), ("data", "info", "two\nlines"), ("data", "--two\nlines")):
        result = lcm(*line)
        assert result.code == 2
        assert len(result.err.splitlines()) == 1
        assert "two\\" in result.err


def test_so_they_are_in_warnings(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One.\n\nTwo.\n")
    (tmp_path / "b\x1b[2J\u202e.bin").touch()
    done = piped("data", "build", tmp_path, "--codec-option", "dim=4", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr.decode()
    assert "b\\x1b[2J\\u202e.bin" in done.stderr.decode()
    assert not set(done.stderr.decode()) & set("\x1b\u202e")


def test_what_follows_two_dashes_is_no_option_of_ours(lcm: Callable) -> None:
    assert lcm("data", "info", "--", "-q").err.startswith("lcm: no data set in -q")


def test_version_says_what_bugs_depend_on(lcm: Callable) -> None:
    result = lcm("--version")
    lines = dict(line.split(" ", 1) for line in result.out.splitlines() if not line.startswith("codec"))
    assert result.code == 0
    assert lines["lexalcm"] == metadata.version("lexalcm")
    assert lines["Python"] == ".".join(map(str, sys.version_info[:3]))
    assert lines["torch"] == metadata.version("torch")
    built_for = subprocess.run(
        [sys.executable, "-c", "import torch; print(torch.version.cuda or 'none')"], capture_output=True, check=True
    )
    assert lines["CUDA"].split(",")[0].split(" ")[0] == built_for.stdout.decode().strip()
    assert lines["DeepSpeed"] in (_version("deepspeed"), "not installed")
    codecs = [line for line in result.out.splitlines() if line.startswith("codec")]
    assert f"codec lsa: lexalcm {metadata.version('lexalcm')}, scikit-learn {_version('scikit-learn')}" in codecs
    assert any(line.startswith("codec sonar-hf: ") for line in codecs)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def test_exit_codes_are_in_the_help(lcm: Callable) -> None:
    said = " ".join(lcm("--help").out.split())
    assert "Exit codes: 0 done; 1 failed while running, or lcm verify found errors; 2 invalid usage" in said


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_completes(shell: str, tmp_path: Path) -> None:
    """The script that `--show-completion` prints, loaded by the shell itself, finds commands and options."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    environment = os.environ | {"PATH": f"{LCM.parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}

    def run(script: str) -> str:
        done = subprocess.run([shell, "-c", script], capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    script = run("lcm --show-completion; true")  # true: a shell may become its last command, and is then not found
    (tmp_path / "script").write_text(script)
    assert "lcm" in script
    ask = {
        "bash": "source ./script; COMP_WORDS=(lcm data b); COMP_CWORD=2; _lcm_completion lcm; echo ${COMPREPLY[@]}",
        "zsh": "compdef() { :; }; source ./script; _TYPER_COMPLETE_ARGS='lcm data b' _LCM_COMPLETE=complete_zsh lcm",
        "fish": "source ./script; complete -C 'lcm data b'",
    }[shell]
    assert "build" in run(f"cd '{tmp_path}'; {ask}")


def test_the_completion_is_installed(tmp_path: Path) -> None:
    environment = os.environ | {"PATH": f"{LCM.parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    done = subprocess.run(
        ["bash", "-c", "lcm --install-completion; true"], capture_output=True, text=True, env=environment, check=True
    )
    assert "bash completion installed" in done.stdout
    assert "lcm" in (tmp_path / ".bashrc").read_text()
