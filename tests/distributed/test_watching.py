"""What several processes write about a run is what one process writes about it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from forked_runs import ForkServer
from training_workspace import add_codec, zero

# No gradient moves a weight when eps is so large: what is left is weight decay.
SETTINGS = [
    "data.path=speaking",
    "model=models/speaking",
    "train.steps=12",
    "train.validate_every=12",
    "train.log_every=5",
    "train.checkpoint.every=100",
    "train.eps=1e10",
    "train.warmup_steps=0",
    "train.samples.every=null",
    "train.peak_tflops=0.001",
]
ENGINES = {"fsdp": ["train.engine=fsdp"], "zero3": [zero(3)]}


@pytest.fixture(scope="module")
def runs(workspace: Path, forks: ForkServer) -> Path:
    """The same run in one process and in two; and one that ends because its steps are bad."""
    shutil.copytree(workspace / "data", workspace / "speaking")
    shutil.copytree(workspace / "models/base", workspace / "models/speaking")
    add_codec([workspace / "speaking"], workspace / "models/speaking")
    assert forks.train("watched-single", SETTINGS).wait() == [0]
    for name, engine in ENGINES.items():
        assert forks.train(f"watched-{name}", [*SETTINGS, *engine], 2).wait() == [0, 0]
    hopeless = forks.train("watched-hopeless", ["data.path=all-overflowing", "train.max_bad_steps=3", zero(2)], 2)
    assert hopeless.wait() == [1, 1]
    assert "runs/watched-hopeless/bad_step_00000003.json has its documents" in hopeless.output
    return workspace / "runs"


@pytest.fixture
def single(runs: Path) -> Path:
    return runs / "watched-single"


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("engine", ENGINES)
def test_metrics_alerts_and_samples_are_those_of_one_process(runs: Path, single: Path, engine: str) -> None:
    pairs = list(zip(lines(single / "metrics.jsonl"), lines(runs / f"watched-{engine}/metrics.jsonl"), strict=True))
    assert [line["step"] for line, _ in pairs] == [5, 10, 12]
    for one, two in pairs:
        assert one.keys() == two.keys()
        assert two["loss_by_timestep"] == pytest.approx(one["loss_by_timestep"], rel=1e-4)
        work = [line["mfu"] * processes / line["concepts_per_s"] for line, processes in ((one, 1), (two, 2))]
        assert work[1] == pytest.approx(work[0])  # operations for a concept
    last, same = pairs[-1]
    assert same["validation_loss_by_timestep"] == pytest.approx(last["validation_loss_by_timestep"], rel=1e-4)
    assert same["alerts"] == last["alerts"]
    assert "moved by weight decay alone in 12 updates: " in "".join(last["alerts"])
    samples = lines(single / "samples.jsonl")
    assert samples
    assert lines(runs / f"watched-{engine}/samples.jsonl") == samples


def test_each_process_has_a_log_and_the_main_one_has_the_metrics(runs: Path) -> None:
    folder = runs / "watched-fsdp/logs"
    assert sorted(path.name for path in folder.iterdir()) == ["rank_00000.log", "rank_00001.log"]
    main, other = (path.read_text() for path in sorted(folder.iterdir()))
    assert "process 0 of 2" in main
    assert "process 1 of 2" in other
    assert '"validation_loss"' in main
    assert '"validation_loss"' not in other


def test_the_step_that_ended_a_run_is_shown_as_each_process_saw_it(runs: Path) -> None:
    dump = json.loads((runs / "watched-hopeless/bad_step_00000003.json").read_text())
    assert dump["processes"] == 2
    assert [(one["number"], one["rank"], one["loss"]) for one in dump["micro_batches"]] == [
        (4, 0, "inf"),
        (5, 1, "inf"),
    ]
    assert all(one["documents"] and one["largest_norm"] > 1e20 for one in dump["micro_batches"])
    for rank in range(2):
        log = (runs / f"watched-hopeless/logs/rank_{rank:05d}.log").read_text()
        assert "step 3 is skipped" in log
        assert "TrainingError: the loss or its gradient was not finite" in log
