"""`lcm ...` as the owner of two GPUs types it, with GPUs that are pretended: see `pretended_gpu.py`."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pretended_gpu import PretendedLcm, pretended_lcm
from training_workspace import curve, largest_difference

GPUS = [f"cuda:{number} (NVIDIA H100 80GB HBM3" for number in range(2)]
# Others are walked with one GPU, in tests/cli/test_pretended_training.py.
ENGINES = {
    **{name: ["--engine", name] for name in ("ddp", "fsdp")},
    "fsdp-offload": ["--engine", "fsdp", "--set", "train.fsdp.offload=true"],
    **{name: ["--deepspeed", f"configs/{name}.json"] for name in ("zero2", "zero3", "zero3_offload")},
}
SAME = 1e-4  # relative: float32 rounding over the steps of a run
STEPS = 3
SMALL = [
    *("--data", "data/lsa", "--model", "models/lsa-two-tower", "--set", "data.row_length=32"),
    *("--set", "data.global_batch=2", "--set", "train.schedule=constant", "--set", "train.warmup_steps=1"),
    *("--set", "train.log_every=1", "--set", "train.samples.every=0", "--steps", str(STEPS)),
]


@pytest.fixture(scope="module")
def lcm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PretendedLcm]:
    with pretended_lcm(tmp_path_factory.mktemp("work")) as made:
        yield made


@pytest.fixture(scope="module")
def without_gpu(lcm: PretendedLcm) -> Path:
    """The run of the same training on the CPU, in one process."""
    lcm.well("train", *SMALL, "--name", "without-gpu", gpus=0)
    return lcm.folder / "runs/without-gpu"


def is_on_both(run: Path) -> bool:
    """Whether each process of a run had a GPU of its own."""
    logs = [(run / f"logs/rank_{rank:05d}.log").read_text() for rank in range(2)]
    return all(gpu in log for gpu, log in zip(GPUS, logs, strict=True))


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_gives_the_curve_of_the_cpu(lcm: PretendedLcm, without_gpu: Path, engine: str) -> None:
    line = ["train", *SMALL, *ENGINES[engine], "--set", "train.precision=fp32", "--name", engine]
    lcm.well(*line, gpus=2, processes=2)
    run = lcm.folder / "runs" / engine
    assert is_on_both(run)
    assert largest_difference(without_gpu, run) < SAME


def test_nproc_starts_a_process_on_each(lcm: PretendedLcm) -> None:
    """In bf16, each process one that has to import everything."""
    lcm.well("train", "--nproc", 2, *SMALL, "--name", "nproc", gpus=2)
    run = lcm.folder / "runs/nproc"
    assert is_on_both(run)
    assert "engine ddp in bf16, from step 0" in (run / "logs/rank_00001.log").read_text()
    assert curve(run)[-1][0] == STEPS


@pytest.mark.parametrize("recipe", ["node_8gpu", "multinode"])
def test_a_recipe_trains(lcm: PretendedLcm, recipe: str) -> None:
    line = ["train", "--config", f"configs/{recipe}.yaml", *SMALL, "--set", "data.micro_batch=2", "--name", recipe]
    lcm.well(*line, gpus=2, processes=2)
    run = lcm.folder / "runs" / recipe
    assert is_on_both(run)
    assert curve(run)[-1][0] == STEPS
    assert (run / "model/model.safetensors").is_file()


def test_two_gpus_with_little_memory_share_the_model(lcm: PretendedLcm, without_gpu: Path) -> None:
    line = ["train", *SMALL, "--name", "little", "--set", "train.precision=fp32"]
    told = lcm.well(*line, gpus=2, processes=2, memory=0.751)
    assert "so this run has engine fsdp" in " ".join(told.split())
    assert largest_difference(without_gpu, lcm.folder / "runs/little") < SAME


def test_a_run_of_one_gpu_goes_on_with_two(lcm: PretendedLcm, without_gpu: Path) -> None:
    line = ["train", *SMALL, "--set", "train.precision=fp32", "--name", "grown"]
    lcm.well(*line, "--steps", 1)
    lcm.well(*line, *ENGINES["zero3"], gpus=2, processes=2)
    run = lcm.folder / "runs/grown"
    assert is_on_both(run)
    assert [loss for _, loss, _ in curve(run)] == pytest.approx([loss for _, loss, _ in curve(without_gpu)], rel=SAME)


def test_a_dry_run_and_an_evaluation_in_two_processes(lcm: PretendedLcm) -> None:
    told = lcm.well("train", *SMALL, "--dry-run", "--json", gpus=2, processes=2)
    report = json.JSONDecoder().raw_decode(told, told.index("{"))[0]
    assert (report["engine"], report["processes"], report["precision"]) == ("ddp", 2, "bf16")
    line = ["evaluate", "models/lsa-two-tower", "--data", "data/lsa", "--limit", 4, "--resamples", 100]
    lcm.well(*line, "--out", "two.json", gpus=2, processes=2)
    lcm.well(*line, "--out", "one.json", gpus=0)
    two, one = (json.loads((lcm.folder / name).read_text())["rows"] for name in ("two.json", "one.json"))
    assert two[0]["kind"] == "model"
    assert [row["scores"] for row in two] == [row["scores"] for row in one]
