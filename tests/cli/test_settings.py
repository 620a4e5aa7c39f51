"""`lcm settings` lists what can be set."""

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any


def test_all_of_a_training_in_eighty_columns(lcm: Callable[..., Any]) -> None:
    result = lcm("settings")
    assert result.code == 0
    assert max(map(len, result.out.splitlines())) <= 80
    assert "\n  train.lr = 0.001\n      number above 0\n      The learning rate at its highest" in result.out
    assert "model.num_layers" not in result.out
    assert "lcm settings model" in result.err


def test_a_part_of_them(lcm: Callable[..., Any]) -> None:
    names = [line.split()[0] for line in lcm("settings", "train.checkpoint").out.splitlines() if " = " in line]
    assert names == [f"train.checkpoint.{key}" for key in ("every", "keep", "keep_every", "background")]
    assert [one["name"] for one in json.loads(lcm("settings", "train.lr", "--json").out)] == ["train.lr"]
    of_sets = [one["name"] for one in json.loads(lcm("settings", "data.sets", "--json").out)]
    assert of_sets[:2] == ["data.sets", "data.sets[].path"]
    of_models = [one["name"] for one in json.loads(lcm("settings", "model", "--json").out)]
    assert {"model", "model.num_layers", "model.diffusion.schedule"} <= set(of_models)
    assert "train.lr" not in of_models


def test_a_name_that_nothing_has(lcm: Callable[..., Any]) -> None:
    result = lcm("settings", "train.lrr")
    assert (result.code, result.err) == (2, "lcm: there is no setting train.lrr: did you mean train.lr?\n")


def test_the_list_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['lcm', 'settings']\n"
        "from lexalcm.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'numpy', 'pyarrow') if name in sys.modules], file=sys.stderr)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr.endswith("\n[]\n")
