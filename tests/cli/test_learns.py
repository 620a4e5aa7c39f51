"""It learns: on held-out documents of the packaged text both architectures beat all baselines.

Fewer steps than by default, so that the test ends in about two minutes; the README quotes a full run.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def sample_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("learns"))
    yield Path.cwd()
    os.chdir(before)


@pytest.mark.parametrize(("preset", "steps"), [("base-tiny", 150), ("two-tower-tiny", 200)])
def test_held_out_documents_are_better_predicted_than_by_the_baselines(
    lcm: Callable, sample_folder: Path, preset: str, steps: int
) -> None:
    assert lcm("data", "sample").code == 0
    assert lcm("bootstrap", "--preset", preset, "--out", f"models/{preset}").code == 0
    assert lcm("train", "--model", f"models/{preset}", "--steps", steps, "--engine", "single").code == 0
    evaluation = json.loads(lcm("evaluate", f"runs/{preset}", "--json").out)
    assert {difference["baseline"] for difference in evaluation["differences"]} == {
        "repeat the last concept",
        "the training mean",
        "the nearest training continuation",
    }
    for difference in evaluation["differences"]:
        assert difference["scores"]["all"]["contrastive_accuracy"]["low"] > 0  # 95% interval over documents
