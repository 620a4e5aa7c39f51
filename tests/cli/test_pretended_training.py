"""`lcm train` as the owner of a GPU types it, with a GPU that is pretended: see `pretended_gpu.py`."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pretended_gpu import ARCHITECTURES, PretendedLcm, pretended_lcm
from training_workspace import curve, largest_difference

GPU = "cuda:0 (NVIDIA H100 80GB HBM3"
CONFIGS = Path(__file__).parents[2] / "configs"
ENGINES = {
    **{name: ["--engine", name] for name in ("single", "ddp", "fsdp", "deepspeed")},
    "fsdp-offload": ["--engine", "fsdp", "--set", "train.fsdp.offload=true"],
    **{file.stem: ["--deepspeed", f"configs/{file.name}"] for file in sorted(CONFIGS.glob("*.json"))},
}
ENGINES["zero3_nvme"] += ["--set", "train.nvme_path=nvme"]
SAME = 1e-4  # relative: float32 rounding over the steps of a run
NEAR = 0.02  # bf16's
STEPS = 4
SMALL = [
    *("--data", "data/lsa", "--model", "models/lsa-two-tower", "--set", "data.row_length=32"),
    *("--set", "train.schedule=constant", "--set", "train.warmup_steps=1", "--set", "train.log_every=1"),
    *("--set", "train.samples.every=0", "--set", f"train.validate_every={STEPS // 2}"),
]


@pytest.fixture(scope="module")
def lcm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PretendedLcm]:
    with pretended_lcm(tmp_path_factory.mktemp("work")) as made:
        yield made


@pytest.fixture(scope="module")
def without_gpu(lcm: PretendedLcm) -> Path:
    """The run of the same training on the CPU."""
    lcm.well("train", *SMALL, "--steps", STEPS, "--name", "without-gpu", gpus=0)
    return lcm.folder / "runs/without-gpu"


def log(run: Path) -> str:
    return (run / "logs/rank_00000.log").read_text()


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_gives_the_curve_of_the_cpu_and_goes_on(lcm: PretendedLcm, without_gpu: Path, engine: str) -> None:
    line = ["train", *SMALL, *ENGINES[engine], "--set", "train.precision=fp32", "--name", engine]
    lcm.well(*line, "--steps", STEPS // 2)
    lcm.well(*line, "--steps", STEPS)
    run = lcm.folder / "runs" / engine
    name = line[line.index("--engine") + 1] if "--engine" in line else "deepspeed"
    for start in (0, STEPS // 2):
        assert f"engine {name} in fp32, from step {start}" in log(run)
    assert log(run).count(GPU) == 2
    assert largest_difference(without_gpu, run) < SAME


def is_near(run: Path, other: Path) -> bool:
    """Whether losses are apart by no more than bf16 or another order of sums makes them."""
    pairs = [[x for line in curve(one) for x in line if x is not None] for one in (run, other)]
    return pairs[0] == pytest.approx(pairs[1], rel=NEAR)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_without_a_word_more_a_model_trains_in_bf16(lcm: PretendedLcm, architecture: str) -> None:
    line = ["train", "--data", "data/lsa", "--model", f"models/lsa-{architecture}", "--set", "train.log_every=1"]
    lcm.well(*line, "--steps", 1, places=True)
    lcm.well(*line, "--steps", 2, places=True)
    lcm.well(*line, "--steps", 2, "--name", f"{architecture}-without-gpu", gpus=0)
    run = lcm.folder / f"runs/lsa-{architecture}"
    assert log(run).count(GPU) == 2
    assert "engine single in bf16, from step 1" in log(run)
    last, other = (curve(one)[-1] for one in (run, lcm.folder / f"runs/{architecture}-without-gpu"))
    assert last == pytest.approx(other, rel=NEAR)


@pytest.mark.parametrize("recipe", ["single_h100", "rtx4070ti_12gb"])
def test_a_recipe_trains(lcm: PretendedLcm, recipe: str) -> None:
    scaled = ["--set", "data.row_length=32", "--set", "data.micro_batch=2", "--set", "data.global_batch=2"]
    line = ["train", "--config", f"configs/{recipe}.yaml", "--data", "data/lsa", "--model", "models/lsa-two-tower"]
    lcm.well(*line, *scaled, "--steps", 2, "--name", recipe, memory=12)
    run = lcm.folder / "runs" / recipe
    assert GPU in log(run)
    assert "in bf16, from step 0" in log(run)
    assert curve(run)[-1][0] == 2
    assert (run / "model/model.safetensors").is_file()


@pytest.mark.parametrize("optimizer", ["adafactor", "muon"])
def test_another_optimizer(lcm: PretendedLcm, optimizer: str) -> None:
    line = ["train", *SMALL, "--steps", STEPS, "--set", f"train.optimizer={optimizer}"]
    lcm.well(*line, "--name", optimizer, places=True)
    lcm.well(*line, "--name", f"{optimizer}-without-gpu", gpus=0)
    run, other = (lcm.folder / "runs" / name for name in (optimizer, f"{optimizer}-without-gpu"))
    assert GPU in log(run)
    assert is_near(run, other)


def test_what_goes_on_beside_the_steps(lcm: PretendedLcm, without_gpu: Path) -> None:
    """Loader processes, whose batches are pinned; a moving average; saving in the background; samples of its text."""
    line = ["train", *SMALL, "--steps", STEPS, "--set", "data.num_workers=2", "--set", "train.ema.decay=0.5"]
    line += [
        "--set",
        "train.checkpoint.background=true",
        "--set",
        "train.samples.every=2",
        "--set",
        "train.watch.every=1",
    ]
    lcm.well(*line, "--name", "beside", places=True)
    run = lcm.folder / "runs/beside"
    assert GPU in log(run)
    assert is_near(run, without_gpu)
    assert (run / "samples.jsonl").read_text().count("\n") > 0
    assert (run / f"checkpoints/step_{STEPS:08d}/ema.safetensors").is_file()


def test_a_gpu_with_little_memory_recomputes_layers(lcm: PretendedLcm, without_gpu: Path) -> None:
    told = lcm.well(
        "train", *SMALL, "--steps", STEPS, "--name", "little", "--set", "train.precision=fp32", memory=0.751
    )
    assert "so this run has train.activation_checkpointing=full" in " ".join(told.split())
    assert largest_difference(without_gpu, lcm.folder / "runs/little") < SAME


@pytest.mark.parametrize("options", [ENGINES["single"], ENGINES["zero2"]], ids=["single", "zero2"])
def test_a_dry_run(lcm: PretendedLcm, options: list[str]) -> None:
    line = ["train", "--data", "data/lsa", "--model", "models/lsa-two-tower", *options, "--dry-run", "--json"]
    told = lcm.well(*line, places=options == ENGINES["single"])
    report = json.loads(told[told.index("{") :])
    assert report["device"] == "cuda:0"
    assert report["precision"] == "bf16"
    assert report["loss"] > 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_plan_is_of_the_gpus_that_are_there(lcm: PretendedLcm, architecture: str) -> None:
    line = ["train", "--plan", "--model", f"models/lsa-{architecture}", "--json"]
    told = lcm.well(*line, gpus=2, memory=12)
    plan = json.loads(told[told.index("{") :])
    assert (plan["processes"], plan["limit"], plan["precision"]) == (2, 12 * 2**30, "bf16")
    assert {one["engine"] for one in plan["estimates"]} >= {"ddp", "fsdp", "zero2", "zero3_nvme"}
    assert plan["best"] == ["ddp", "none"]


def test_more_processes_than_gpus(lcm: PretendedLcm) -> None:
    result = lcm("train", *SMALL, "--set", "data.global_batch=2", "--name", "two", gpus=1, processes=2)
    assert result.code == 2
    assert "2 processes were started on this machine, and 1 GPU is visible to each" in " ".join(result.output.split())
