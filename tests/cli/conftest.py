import importlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from lexalcm.cli import app

EXTENSIONS = Path(__file__).parents[1] / "extensions"


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def lcm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Runs a command line in this process: `lcm("verify", "env")`; an exception that nobody foresaw fails the test."""

    def fail(error: Exception) -> None:
        raise error

    monkeypatch.setattr(app, "report_unexpected_error", fail)

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["lcm", *map(str, arguments)])
        code = 0
        try:
            app.main()
        except SystemExit as end:
            code = end.code or 0
        return Result(code, *capsys.readouterr())

    return run


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Installs a package of one module from `tests/extensions`: the module and the metadata that pip writes.

    `install("norm_ratio", "metrics", norm_ratio="NORM_RATIO")` adds to the group `lexalcm.metrics`; returns the folder.
    """

    def install(module: str, group: str, **attributes: str) -> Path:
        site = tmp_path / f"site-{module}"
        about = site / f"{module}-1.0.dist-info"
        about.mkdir(parents=True)
        shutil.copy(EXTENSIONS / f"{module}.py", site)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        lines = [f"{name} = {module}:{attribute}\n" for name, attribute in attributes.items()]
        (about / "entry_points.txt").write_text(f"[lexalcm.{group}]\n{''.join(lines)}")
        monkeypatch.syspath_prepend(site)
        monkeypatch.delitem(sys.modules, module, raising=False)
        importlib.invalidate_caches()
        return site

    return install
