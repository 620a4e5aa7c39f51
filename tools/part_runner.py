"""Runs the parts of a check: each in a process of its own, with its own time limit, its output in a file.

Where the limit is passed, the file ends with the stacks of all threads, and the part, with whatever it has started, is
ended.
"""

import faulthandler
import json
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path

STACKS = 2.0  # seconds before a part's limit at which it writes the stacks of its threads
GRACE = 3.0  # seconds that what a part has started has to end once the part has; torch's compile workers need some
TAIL = 12  # lines of a failed part's output that are shown


@dataclass(frozen=True)
class CheckResult:
    """One thing that was checked."""

    what: str
    right: str
    seen: str
    ok: bool


Check = Callable[[], Iterator[CheckResult]]
"""Runs in the folder that parts share."""


@dataclass(frozen=True)
class Part:
    """A part by name; the first ones make what later ones use."""

    check: Check
    limit: float  # seconds


def run_parts(parts: Mapping[str, Part], folder: Path, preload: Sequence[str] = ()) -> int:
    """Run parts one after the other, print what each saw, then the table; the exit code.

    Args:
        parts: by name.
        folder: where they work; each part's output is `NAME.txt` in it.
        preload: modules that the processes find imported.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *preload])
    rows = []
    for name, part in parts.items():
        began = time.monotonic()
        for seen in _run_part(context, part, folder, folder / f"{name}.txt"):
            rows.append((name, seen))
            print(json.dumps({"part": name, **asdict(seen), "s": round(time.monotonic() - began, 1)}), flush=True)
    _print_table(rows)
    return 0 if all(seen.ok for _, seen in rows) else 1


def _run_part(context: ForkServerContext, part: Part, folder: Path, output: Path) -> Iterator[CheckResult]:
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(part.check, part.limit, folder, output, sender))
    process.start()
    sender.close()
    deadline = time.monotonic() + part.limit
    ended = False
    while not ended and receiver.poll(max(0.0, deadline - time.monotonic())):
        try:
            seen = receiver.recv()
        except EOFError:
            seen = None
        ended = seen is None
        if seen is not None:
            yield seen
    process.join(max(0.5, deadline - time.monotonic()) if ended else 0)
    if process.exitcode is None:
        yield CheckResult(
            "ends in time", f"within {part.limit:.0f} s", "still running: stacks are in its output", ok=False
        )
    elif process.exitcode:
        yield CheckResult("ends well", "exit code 0", _last_lines(output, process.exitcode), ok=False)
    left = _end_session(process.pid)
    process.join()
    if process.exitcode == 0 and left:
        yield CheckResult("leaves no process behind", "none", f"{left} ended", ok=False)


def _work(check: Check, limit: float, folder: Path, output: Path, sender: Connection) -> None:
    """In the part's process: a session of its own, output to the file, stacks before the limit is passed."""
    os.setsid()
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    for standard in (1, 2):
        os.dup2(file, standard)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    faulthandler.enable()
    faulthandler.dump_traceback_later(max(0.5, limit - STACKS))
    os.chdir(folder)
    try:
        for seen in check():
            print(seen, flush=True)
            sender.send(seen)
    except BaseException:  # noqa: BLE001  the end of a process
        traceback.print_exc()
        raise SystemExit(1) from None
    finally:
        sender.send(None)


def _last_lines(output: Path, code: int) -> str:
    lines = output.read_text(errors="replace").splitlines() if output.exists() else []
    return f"exit code {code}: " + " | ".join(line.strip() for line in lines[-TAIL:] if line.strip())


def _end_session(session: int | None) -> int:
    """End a part's process and what it has started; how many of those had not ended by themselves in `GRACE`."""
    assert session is not None
    deadline = time.monotonic() + GRACE
    while (others := _others(session)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for process in (session, *others):
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return len(others)


def _others(session: int) -> list[int]:
    """The processes of a session but its first one."""
    processes = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal())
    return [process for process in processes if process != session and _session(process) == session]


def _session(process: int) -> int | None:
    """The session of a process that is alive; none: it has ended."""
    try:
        state, _, _, session = (Path("/proc") / str(process) / "stat").read_text().rpartition(")")[2].split()[:4]
    except OSError:
        return None
    return None if state == "Z" else int(session)


def _print_table(rows: Sequence[tuple[str, CheckResult]]) -> None:
    cells = [("part", "what", "right", "seen", "")]
    cells += [(name, seen.what, seen.right, seen.seen[:80], "ok" if seen.ok else "FAILED") for name, seen in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(5)]
    print()
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
