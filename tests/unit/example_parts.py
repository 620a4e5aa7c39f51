"""Parts for the runner of `tools.check_gpu`: that end well, badly, late, or leave something behind."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tools.part_runner import CheckResult, Part, run_parts


def fine() -> Iterator[CheckResult]:
    print("said")
    yield CheckResult("a file", "there", "there", ok=True)
    yield CheckResult("its folder", "the shared one", Path.cwd().name, ok=True)


def wrong() -> Iterator[CheckResult]:
    yield CheckResult("a number", "1", "2", ok=False)


def raising() -> Iterator[CheckResult]:
    yield CheckResult("the first", "1", "1", ok=True)
    raise ValueError("no second")


def hanging() -> Iterator[CheckResult]:
    subprocess.Popen(["sleep", "300"])
    Path("hanging").write_text(str(os.getpid()))
    time.sleep(300)
    yield CheckResult("never", "", "", ok=True)


def leaving() -> Iterator[CheckResult]:
    left = subprocess.Popen(["sleep", "300"], start_new_session=False)
    yield CheckResult("a process", "started", str(left.pid), ok=True)


if __name__ == "__main__":
    checks = (fine, wrong, raising, hanging, leaving)
    sys.exit(run_parts({check.__name__: Part(check, 4.0) for check in checks}, Path(sys.argv[1])))
