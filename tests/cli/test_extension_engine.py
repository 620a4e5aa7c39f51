"""An engine of another package, the documentation's example, from its installation to runs and plans."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training_workspace import CHECKPOINT_EVERY, STEPS, curve, final_weights, make_workspace

ROOT = Path(__file__).parents[2]
Lcm = Callable[..., Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable[..., Any]) -> Path:
    return make_workspace(tmp_path_factory.mktemp("made"), make_dataset)


@pytest.fixture
def site(install: Callable[..., Path]) -> Path:
    return install("timed_engine", "engines", timed="TimedEngine")


@pytest.fixture
def train(made: Path, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lcm: Lcm) -> Lcm:
    """Runs `lcm train` in a fresh copy of the workspace, with the engine's package installed."""
    shutil.copytree(made, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return lambda *options: lcm("train", "--config", "config.yaml", *options)


def test_it_trains_and_goes_on_from_a_checkpoint(train: Lcm) -> None:
    begun = train("--engine", "timed", "--name", "timed", "--steps", CHECKPOINT_EVERY)
    assert begun.code == 0, begun.err
    resumed = train("--engine", "timed", "--name", "timed")
    assert resumed.code == 0, resumed.err
    assert f"resuming from step {CHECKPOINT_EVERY}" in resumed.err
    log = Path("runs/timed/logs/rank_00000.log").read_text()
    assert f"engine timed in fp32, from step {CHECKPOINT_EVERY}" in log
    updates = re.findall(r"(\d+) updates in \d+\.\d{3} s", log)
    assert [int(number) for number in updates] == [CHECKPOINT_EVERY, STEPS - CHECKPOINT_EVERY]
    assert [step for step, *_ in curve(Path("runs/timed"))] == list(range(1, STEPS + 1))


def test_its_numbers_are_those_of_single(train: Lcm) -> None:
    for engine in ("single", "timed"):
        assert train("--engine", engine, "--name", engine).code == 0
    assert curve(Path("runs/single")) == curve(Path("runs/timed"))
    single, timed = (final_weights(Path("runs", name)) for name in ("single", "timed"))
    assert single.keys() == timed.keys()
    assert all((single[name] == timed[name]).all() for name in single)


def test_the_help_names_it(site: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{ROOT}", "COLUMNS": "200"}
    line = [sys.executable, "-m", "lexalcm", "train", "--help"]
    shown = subprocess.run(line, capture_output=True, text=True, check=True, env=environment).stdout
    assert "auto, single, ddp, fsdp, deepspeed, timed." in " ".join(shown.split())


def test_a_plan_lists_what_it_takes(train: Lcm) -> None:
    """As much as `single`, and for one process alone."""

    def estimates(gpus: int) -> dict[tuple[str, str], dict[str, Any]]:
        answer = json.loads(train("--plan", "--gpus", gpus, "--gpu-memory", "12GB", "--json").out)
        assert answer["best"] == ["single" if gpus == 1 else "ddp", "none"]
        return {(one.pop("engine"), one["checkpointing"]): one for one in answer["estimates"]}

    of_one, of_two = estimates(1), estimates(2)
    for checkpointing in ("none", "full"):
        assert of_one["timed", checkpointing] == of_one["single", checkpointing]
    assert not [engine for engine, _ in of_two if engine in ("single", "timed")]
    assert "timed" in train("--plan").out


def test_a_misspelt_name_is_answered_with_it(train: Lcm) -> None:
    for wrong, right in (("timd", "timed"), ("singel", "single")):
        result = train("--engine", wrong)
        assert (result.code, result.err) == (
            2,
            f"lcm: train.engine: unknown engine '{wrong}': did you mean {right}?\n",
        )


def test_it_is_gone_with_its_package(train: Lcm, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert train("--engine", "timed").code == 0
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(site)])
    for engine, where in (("timed", ""), ("single", " (in runs/base/config.yaml)")):
        gone = train("--engine", engine, "--steps", STEPS + 1)
        assert gone.code == 2
        assert gone.err.startswith("lcm: train.engine: unknown engine 'timed': known are auto, single, ddp, ")
        assert gone.err.endswith(f"{where}\n")


def test_a_package_that_cannot_be_imported_is_named(train: Lcm, site: Path) -> None:
    (site / "timed_engine.py").write_text("import no_such_module\n")
    broken = train("--engine", "timed")
    assert broken.code == 2
    assert (
        "the engine timed of the package timed_engine cannot be loaded: No module named 'no_such_module'" in broken.err
    )


def test_the_documentation_shows_the_example() -> None:
    example = (ROOT / "tests/extensions/timed_engine.py").read_text(encoding="utf-8")
    assert f"```python\n{example}```" in (ROOT / "docs/extending.md").read_text(encoding="utf-8")
