"""`lcm train --plan` from the command line."""

import json
from collections.abc import Callable

from lexalcm.model import count_parameters, preset

PLAN = ("train", "--plan", "--model", "base-small", "--gpu-memory", "12GB")


def test_the_plan_as_json_and_as_a_table(lcm: Callable) -> None:
    answer = json.loads(lcm(*PLAN, "--json", "--gpus", 2).out)
    assert answer["best"] == ["ddp", "none"]
    assert answer["limit"] == 12 * 2**30
    assert answer["parameters"] == sum(count_parameters(preset("base-small", 1024)).values())
    table = lcm(*PLAN).out
    assert "lcm train --engine single" in table
    for engine in ("single", "zero2", "fsdp", "zero3_nvme"):
        assert engine in table


def test_nothing_fits(lcm: Callable) -> None:
    result = lcm(*PLAN[:-1], "1GB", "--set", "data.micro_batch=4096")
    assert result.code == 0
    assert "nothing fits" in result.out


def test_options_that_belong_to_a_plan(lcm: Callable) -> None:
    assert lcm("train", "--gpus", 2).code == 2
    refused = lcm(*PLAN[:-1], "twelve")
    assert refused.code == 2
    assert "write it like 12GB" in refused.err
    assert lcm("train", "--plan", "--model", "nowhere").code == 2
