"""Every file of configs/ trains: scaled down to a tiny model, it gives the loss curve of plain PyTorch."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from training_workspace import CHECKPOINT_EVERY, ROOT, STEPS, curve, largest_difference, rewind

from lexalcm.config import load_settings
from lexalcm.model.presets import preset_names
from lexalcm.train.memory.choice import plan_run_memory
from lexalcm.train.settings import RunConfig

CONFIGS = ROOT / "configs"
RECIPES = sorted(CONFIGS.glob("*.yaml"))
OFFLOADED = ("zero2_offload", "zero3_offload")
SAME = 1e-4  # relative: float32 rounding over the steps of a run
SCALED = ("model", "name", "data.path", "data.row_length", "data.micro_batch", "data.global_batch", "train.steps")
"""What a recipe says of sizes, which a test replaces by its own; everything else is the recipe's."""


def flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def scaled_down(recipe: Path) -> list[str]:
    settings = dict(flat(yaml.safe_load(recipe.read_text())))
    if "deepspeed" in settings:
        settings["deepspeed"] = ROOT / settings["deepspeed"]
    return [f"{key}={value}" for key, value in settings.items() if key not in SCALED]


def processes_of(recipe: Path) -> int:
    return 1 if "--gpus 1 " in recipe.read_text() else 2


@pytest.fixture(scope="module")
def runs(workspace: Path, launch: Callable) -> Path:
    offload = {name: [f"deepspeed={CONFIGS}/{name}.json"] for name in OFFLOADED}
    recipes = {recipe.stem: scaled_down(recipe) for recipe in RECIPES}
    alone = [recipe.stem for recipe in RECIPES if processes_of(recipe) == 1]
    launch(
        1,
        [
            {"name": "plain", "set": []},
            {"name": "zero2_offload", "set": offload["zero2_offload"]},
            *({"name": name, "set": recipes[name]} for name in alone),
        ],
    )
    folder = workspace / "runs"
    rewind(folder / "zero2_offload", folder / "zero2_offload-then-zero3_offload", CHECKPOINT_EVERY)
    launch(
        2,
        [
            {"name": "zero3_offload", "set": offload["zero3_offload"]},
            {"name": "zero2_offload-then-zero3_offload", "set": offload["zero3_offload"]},
            *({"name": name, "set": settings} for name, settings in recipes.items() if name not in alone),
        ],
    )
    return folder


@pytest.mark.parametrize("name", ["zero2_offload", "zero3_offload", "zero2_offload-then-zero3_offload"])
def test_offloading_gives_the_curve_of_plain_pytorch(runs: Path, name: str) -> None:
    """Weights and moments leave the CPU's memory for a checkpoint and come back into it, too."""
    assert largest_difference(runs / "plain", runs / name) < SAME


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_a_recipe_trains(runs: Path, recipe: Path) -> None:
    losses = [loss for _, loss, _ in curve(runs / recipe.stem)]
    assert len(losses) >= 1
    assert (runs / recipe.stem / "model/model.safetensors").is_file()
    settings = yaml.safe_load((runs / recipe.stem / "config.yaml").read_text())
    assert settings["train"]["steps"] == STEPS
    assert settings["train"]["lr"] == yaml.safe_load(recipe.read_text())["train"]["lr"]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_a_recipes_table_is_what_the_plan_says(recipe: Path) -> None:
    comment = [line.lstrip("# ") for line in recipe.read_text().splitlines() if line.startswith("#")]
    words = " ".join(comment).split()
    gpus, memory, model = (words[words.index(option) + 1] for option in ("--gpus", "--gpu-memory", "--preset"))
    assert model in preset_names()
    config = load_settings(RunConfig, recipe, [f"model={model}"])
    planned = {(one.engine, one.checkpointing): one for one in plan_run_memory(config, int(gpus), memory).estimates}
    header = next(line.split() for line in comment if line.startswith("engine "))
    table = [line.split() for line in comment if line.startswith(("single ", "zero", "fsdp", "ddp "))]
    assert table
    for row in table:
        cells = dict(zip(header, row, strict=True))
        one = planned[cells["engine"], cells["ckpt"]]
        assert one.fits
        assert float(cells["total"]) == pytest.approx(one.total / 2**30, abs=0.1)
        assert int(cells["rows"]) == one.largest_micro_batch


def is_compiled(op: str) -> bool:
    from torch.utils.cpp_extension import get_default_build_root

    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR", get_default_build_root()))
    return any(root.glob(f"**/{op}/{op}.so"))


@pytest.mark.parametrize("op", ["stand-in", "async_io"])
def test_nvme_gives_the_weights_of_plain_pytorch(op: str, tmp_path: Path) -> None:
    """Weights and moments are swapped out, trained, read for a checkpoint, and restored from one."""
    if op == "async_io" and not is_compiled(op):
        pytest.skip(
            "DeepSpeed has not compiled async_io here: it needs libaio-dev, g++, and minutes at its first start"
        )
    command = [sys.executable, str(Path(__file__).with_name("nvme_worker.py")), str(tmp_path), op]
    process = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout.splitlines()[-1])
    assert result["swapped_bytes"] > 4 * result["parameters"]
    assert max(result["trained"]) < 1e-3
    assert max(result["restored"]) < 1e-6
