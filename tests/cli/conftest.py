import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

from lexalcm.cli import app


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def lcm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Runs a command line in this process: `lcm("verify", "env")`; a traceback fails the test."""

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["lcm", *map(str, arguments)])
        code = 0
        try:
            app.main()
        except SystemExit as end:
            code = end.code or 0
        return Result(code, *capsys.readouterr())

    return run
