import shutil
from importlib import metadata
from types import SimpleNamespace

import pytest
from rich.console import Console

from lexalcm import registry
from lexalcm.verify import env
from lexalcm.verify.checks import Check, checks_table, passed
from lexalcm.verify.env import verify_env


def by_name(checks):
    return {check.name: check for check in checks}


def test_this_machine_is_described(tmp_path):
    checks = by_name(verify_env(tmp_path))
    import torch

    assert torch.__version__ in checks["PyTorch"].value
    assert str(tmp_path) in checks["disk"].value
    assert checks["codec lsa"].status == "ok"
    assert checks["packages"].status == "ok"
    assert checks["TensorBoard"].value == metadata.version("tensorboard")


def test_what_is_not_fine_has_advice(tmp_path):
    assert all(check.advice for check in verify_env(tmp_path) if check.status != "ok")


@pytest.mark.parametrize(("free", "status"), [(2**28, "problem"), (5 * 2**30, "note"), (2**40, "ok")])
def test_free_disk_space_is_judged(tmp_path, monkeypatch, free, status):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    assert by_name(verify_env(tmp_path))["disk"].status == status


def test_missing_and_unfitting_packages_are_named(tmp_path, monkeypatch):
    real = metadata.version

    def version(name):
        if name == "zstandard":
            raise metadata.PackageNotFoundError(name)
        return "0.1" if name in ("numpy", "deepspeed") else real(name)

    monkeypatch.setattr(env.metadata, "version", version)
    checks = by_name(verify_env(tmp_path))
    assert checks["packages"].status == "problem"
    assert "zstandard is not installed" in checks["packages"].value
    assert "numpy 0.1 does not satisfy" in checks["packages"].value
    assert checks["extra deepspeed"].status == "note"
    assert "pip install 'lexalcm[deepspeed]'" in checks["extra deepspeed"].advice


def test_a_codec_that_does_not_load_is_a_problem_and_the_others_are_still_shown(tmp_path, monkeypatch):
    def fail():
        raise ImportError("no module named there")

    broken = SimpleNamespace(name="broken", load=fail, dist=SimpleNamespace(name="their-package", version="1"))
    real = registry.entry_points
    monkeypatch.setattr(registry, "entry_points", lambda group: [broken, *real(group=group)])
    checks = by_name(verify_env(tmp_path))
    assert checks["codec broken"].status == "problem"
    assert "no module named there" in checks["codec broken"].value
    assert checks["codec lsa"].status == "ok"


def test_only_problems_fail():
    assert passed([Check("a", "ok", ""), Check("b", "note", "", "advice")])
    assert not passed([Check("a", "ok", ""), Check("b", "problem", "", "advice")])


def test_table_shows_everything_at_any_width():
    check = Check("a[b]", "problem", "found [x] and /a/very/long/path/" + "x" * 60, "mend 日本語 it")
    for width in (30, 80):
        console = Console(width=width)
        with console.capture() as capture:
            console.print(checks_table([check], "title [y]"))
        shown = "".join(capture.get().split())
        for text in ("a[b]", "found", "[x]", "日本語", "title[y]"):
            assert text in shown
        assert shown.count("x") == 61
