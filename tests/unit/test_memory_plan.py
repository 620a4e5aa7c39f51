"""What `lcm train --plan` says, against what real steps allocate and against the arithmetic of sharding."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from allocated_memory import DIM, LENGTH, allocated_at_most, batch

from lexalcm.config import load_settings
from lexalcm.distributed.world import World
from lexalcm.errors import ConfigError, UserError
from lexalcm.model.config import ModelConfig
from lexalcm.model.create import create_model
from lexalcm.model.layers.transformer import TransformerLayer
from lexalcm.model.presets import preset
from lexalcm.objective import create_objective
from lexalcm.train.engines import choose
from lexalcm.train.engines.choose import EngineChoice, Limits, agreed_engine, choose_engine, start_engine
from lexalcm.train.engines.protocol import Setup
from lexalcm.train.engines.single import SingleEngine
from lexalcm.train.memory.choice import choose_by_memory, options_of, plan_run_memory, read_size, warn_by_memory
from lexalcm.train.memory.compiled import can_partition
from lexalcm.train.memory.plan import MemoryEstimate, plan_memory, usable
from lexalcm.train.settings import RunConfig

GIB = 2**30
SMALL = {
    "base": ModelConfig(architecture="base", dim=DIM, width=96, num_heads=4, ffn_dim=192, num_layers=5),
    "one-tower": ModelConfig(architecture="one-tower", dim=DIM, width=96, num_heads=4, ffn_dim=256, num_layers=3),
    "two-tower": ModelConfig(
        architecture="two-tower", dim=DIM, width=96, num_heads=4, ffn_dim=256, num_layers=4, context_layers=3
    ),
}


def two_steps(config: RunConfig, model: ModelConfig, precision: str, device: torch.device) -> None:
    torch.manual_seed(0)
    choice = EngineChoice(SingleEngine, Setup(precision, "single"))
    engine = start_engine(choice, create_objective(create_model(model, 0)), config.train, device)
    for _ in range(2):
        for left in reversed(range(config.data.global_batch)):
            engine.accumulate(batch(config.data.micro_batch), 1.0, last=left == 0)
        engine.update(1e-3)


def settings(*overrides: str) -> RunConfig:
    return load_settings(RunConfig, None, [f"data.row_length={LENGTH}", *overrides])


def estimate(
    config: RunConfig, model: ModelConfig, engine: str, *, processes: int = 1, **options: str
) -> MemoryEstimate:
    plan = plan_memory(
        config,
        model,
        processes=processes,
        precision=options.get("precision", "fp32"),
        device_type=options.get("device_type", "cpu"),
        engines=(engine,),
        checkpointing=(config.train.activation_checkpointing,),
    )
    return plan.estimates[0]


@pytest.mark.parametrize(
    ("architecture", "precision", "overrides"),
    [
        ("base", "fp32", ["data.micro_batch=8", "data.global_batch=2"]),
        ("base", "fp32", ["data.micro_batch=1", "train.ema.decay=0.9"]),
        ("one-tower", "fp32", ["data.micro_batch=8", "train.activation_checkpointing=full"]),
        ("one-tower", "bf16", ["data.micro_batch=6", "data.global_batch=2"]),
        ("two-tower", "fp32", ["data.micro_batch=8"]),
        ("two-tower", "fp32", ["data.micro_batch=2", "train.optimizer=adafactor"]),
        ("two-tower", "fp32", ["data.micro_batch=16", "data.global_batch=2", "train.activation_checkpointing=every-2"]),
        ("two-tower", "bf16", ["data.micro_batch=8", "train.activation_checkpointing=full", "data.global_batch=2"]),
    ],
)
def test_the_plan_is_within_a_tenth_of_what_steps_allocate(
    architecture: str, precision: str, overrides: list[str]
) -> None:
    config, model = settings(*overrides), SMALL[architecture]
    planned = estimate(config, model, "single", precision=precision).total
    measured = allocated_at_most(lambda: two_steps(config, model, precision, torch.device("cpu")))
    assert planned == pytest.approx(measured, rel=0.1)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("checkpointing", ["none", "full"])
@pytest.mark.parametrize("name", ["base-small", "one-tower-small", "two-tower-small"])
def test_the_plan_is_within_a_tenth_of_a_gpus_peak(name: str, checkpointing: str, precision: str) -> None:
    overrides = ["data.micro_batch=64", "data.global_batch=2", f"train.activation_checkpointing={checkpointing}"]
    config, model = settings(*overrides), preset(name, DIM)
    device = torch.device("cuda")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    two_steps(config, model, precision, device)
    measured = torch.cuda.max_memory_allocated() - before
    planned = estimate(config, model, "single", precision=precision, device_type="cuda").total
    assert planned == pytest.approx(measured, rel=0.1)


def test_recomputing_is_planned_without_asking_the_gpu_for_its_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a GPU is in use, checkpointing keeps its generator's state; the traced tensors are on none."""

    def refuse(*_: object) -> None:
        raise RuntimeError("asked")

    monkeypatch.setattr(torch.cuda, "_initialized", True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", refuse)
    model = SMALL["two-tower"].model_copy(update={"ffn_dim": 200})  # traced by no other test
    planned = {
        checkpointing: estimate(
            settings(f"train.activation_checkpointing={checkpointing}", "data.micro_batch=64"),
            model,
            "single",
            device_type="cuda",
        ).activations
        for checkpointing in ("none", "full")
    }
    assert 0 < planned["full"] < planned["none"]


def test_shards_are_equal_parts() -> None:
    """ZeRO's table (arXiv 1910.02054, figure 1) for AdamW, and FSDP's, in bytes a parameter."""
    config, model, processes = settings(), SMALL["two-tower"], 4
    count = sum(parameter.numel() for parameter in create_model(model, 0).parameters())
    share = count / processes
    expected = {  # weights, gradients, optimizer
        "ddp": (4 * count, 4 * count, 8 * count),
        "zero1": (2 * count, 2 * count, 12 * share),
        "zero2": (2 * count, 2 * share, 12 * share),
        "zero3": (2 * share, 2 * share, 12 * share),
        "fsdp": (4 * share, 4 * share, 8 * share),
        "zero2_offload": (2 * count, 0, 0),
        "zero3_offload": (0, 0, 0),
        "zero3_nvme": (0, 0, 0),
        "fsdp_offload": (0, 0, 0),
    }
    for engine, parts in expected.items():
        got = estimate(config, model, engine, processes=processes, precision="bf16")
        assert (got.weights, got.gradients, got.optimizer) == pytest.approx(parts, abs=16), engine
        assert got.total == sum((got.weights, got.gradients, got.optimizer, got.average, got.activations, got.buffers))
    offloaded = estimate(config, model, "zero3_offload", processes=processes, precision="bf16")
    assert offloaded.cpu == pytest.approx((2 + 12 + 4) * share, abs=32)  # weights, optimizer, float32 gradients
    assert estimate(config, model, "fsdp_offload", processes=processes).cpu == pytest.approx(16 * share, abs=32)
    on_disk = estimate(config, model, "zero3_nvme", processes=processes, precision="bf16")
    assert on_disk.nvme == pytest.approx((2 + 12 + 4) * share, abs=32)


def test_frozen_parameters_have_no_gradient_and_no_state() -> None:
    model = SMALL["two-tower"]
    trained = sum(p.numel() for name, p in create_model(model, 0).named_parameters() if name.startswith("denoiser."))
    got = estimate(settings("train.freeze=[contextualizer.*]", "train.ema.decay=0.9"), model, "single")
    assert (got.gradients, got.optimizer, got.average) == (4 * trained, 8 * trained, 4 * trained)


@pytest.mark.parametrize(
    ("optimizer", "bytes_a_matrix_number"),
    [("adamw", 8), ("muon", 4), ("adamw8bit", 2 + 2 * 4 / 256), ("adafactor", 0)],
)
def test_optimizers_differ_in_their_state(optimizer: str, bytes_a_matrix_number: float) -> None:
    model = preset("base-small", 512)
    got = estimate(settings(f"train.optimizer={optimizer}"), model, "single")
    assert got.optimizer == pytest.approx(bytes_a_matrix_number * got.weights / 4, rel=0.05, abs=0.1 * got.weights)


def test_the_largest_micro_batch_fits_and_one_row_more_does_not() -> None:
    config, model, memory = settings(), SMALL["two-tower"], int(1.1 * GIB)

    def total(rows: int) -> int:
        return estimate(
            settings(f"data.micro_batch={rows}"), model, "zero2", precision="bf16", device_type="cuda"
        ).total

    plan = plan_memory(
        config, model, processes=1, precision="bf16", memory=memory, engines=("zero2",), checkpointing=("none",)
    )
    largest = plan.estimates[0].largest_micro_batch
    assert largest is not None
    # Self-projections are one matrix from 2 x width positions on: a little more memory than the line says.
    assert total(int(largest * 0.95)) <= usable(memory) <= total(int(largest * 1.05))


def test_what_needs_the_fewest_tricks_is_recommended() -> None:
    def best(model: str, gpus: int, memory: str, *overrides: str) -> tuple[str, str] | None:
        found = plan_run_memory(load_settings(RunConfig, None, [f"model={model}", *overrides]), gpus, memory).best
        return None if found is None else (found.engine, found.checkpointing)

    assert best("two-tower-medium", 1, "12GB") == ("single", "none")
    assert best("two-tower-medium", 1, "12GB", "data.micro_batch=128") == ("single", "full")
    assert best("two-tower-7b", 8, "80GB") == ("zero1", "none")
    assert best("two-tower-7b", 8, "12GB")[0].endswith("offload")  # type: ignore[index]
    assert best("two-tower-7b", 1, "2GB", "data.micro_batch=512") is None


def test_a_7b_model_is_planned_without_its_memory() -> None:
    """The trace of a training step makes no tensor with numbers, whatever the sizes."""
    config = load_settings(RunConfig, None, ["model=two-tower-7b", "data.micro_batch=512"])
    assert allocated_at_most(lambda: plan_run_memory(config, 8, "80GB") and None) < 2**20


def test_recomputing_and_offloading_take_less() -> None:
    for name in ("base-1.6b", "one-tower-medium", "two-tower-7b"):
        plan = plan_run_memory(load_settings(RunConfig, None, [f"model={name}"]), 1, "80GB")
        assert plan.parameters > 0
        assert {one.checkpointing for one in plan.estimates} == {"none", "full"}
        for one in plan.estimates:
            assert 0 < one.total < 200 * plan.parameters + 8 * GIB
        by_name = {(one.engine, one.checkpointing): one.total for one in plan.estimates}
        assert by_name["zero2", "full"] <= by_name["zero2", "none"]
        assert by_name["zero3_offload", "full"] < by_name["zero2_offload", "full"] < by_name["zero2", "full"]


@pytest.mark.parametrize(
    ("text", "size"), [("12GB", 12 * GIB), ("80g", 80 * GIB), ("24576MiB", 24 * GIB), ("1.5 TB", 1536 * GIB)]
)
def test_sizes_of_memory(text: str, size: int) -> None:
    assert read_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "0GB", "12 apples", "-3GB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="write it like 12GB"):
        read_size(text)


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such model"):
        plan_run_memory(load_settings(RunConfig, None, [f"model={tmp_path / 'none'}"]))


def test_auto_takes_the_simplest_engine_that_fits() -> None:
    model = preset("two-tower-1.6b", 1024)
    auto = load_settings(RunConfig, None, ["data.global_batch=8"])

    def choose(gib: float | None, processes: int, *overrides: str) -> tuple[str, str | None, str]:
        """Engine, recomputing, note."""
        config = load_settings(RunConfig, None, ["data.global_batch=8", *overrides])
        memory = None if gib is None else int(gib * GIB)
        engine, note, checkpointing = choose_by_memory(config, model, processes, "bf16", memory)
        return engine, checkpointing, note or ""

    assert choose(None, 1) == choose(80, 1) == ("single", None, "")
    assert choose(None, 8) == choose(80, 8) == ("ddp", None, "")
    engine, checkpointing, note = choose(24, 8)
    assert (engine, checkpointing) == ("fsdp", None)
    assert re.match(r"ddp would take \d+\.\d GiB of a GPU's 24.0 GiB, so this run has engine fsdp, which takes ", note)
    assert choose(8, 8, "data.micro_batch=64")[:2] == ("fsdp", "full")
    engine, checkpointing, note = choose(4, 8, "data.micro_batch=64")
    assert (engine, checkpointing) == ("fsdp", "full")
    assert "may not fit" in note
    engine, checkpointing, note = choose(12, 1)
    assert (engine, checkpointing) == ("single", "full")
    assert "lcm train --plan" in note
    assert choose(12, 8, "train.optimizer=muon")[0] == "ddp"  # whose state cannot be sharded
    assert choose(24, 8, "train.fsdp.offload=true")[0] == "fsdp"
    assert "may not fit" in (warn_by_memory(auto, model, 1, "bf16", "zero2", 12 * GIB) or "")
    assert warn_by_memory(auto, model, 1, "bf16", "zero3_offload", 12 * GIB) is None


@pytest.mark.parametrize(("processes", "memory", "engine"), [(1, 12, "single"), (4, 5, "fsdp")])
def test_auto_recomputes_where_nothing_simpler_fits(processes: int, memory: int, engine: str) -> None:
    """What it takes fits by the plan, and what is simpler does not; a choice of the user's own stays where it fits."""
    model = preset("two-tower-medium", 1024)
    config = load_settings(RunConfig, None, ["data.micro_batch=64", "data.global_batch=8"])
    choice = choose_by_memory(config, model, processes, "bf16", memory * GIB)
    assert (choice.engine, choice.checkpointing) == (engine, "full")
    assert choice.note is not None
    assert "train.activation_checkpointing=full, which takes about" in choice.note
    plan = plan_memory(config, model, processes=processes, precision="bf16", memory=memory * GIB)
    fits = {(one.engine, one.checkpointing): one.fits for one in plan.estimates}
    assert fits[engine, "full"]
    assert not any(fits.get((name, "none")) for name in ("single", "ddp", "fsdp"))
    own = load_settings(RunConfig, None, ["data.micro_batch=64", "train.activation_checkpointing=full"])
    assert choose_by_memory(own, model, 1, "bf16", 12 * GIB) == ("single", None, None)


@pytest.mark.parametrize(
    ("processes", "memory", "rows", "advice"),
    [
        (1, 12, 16, "--deepspeed configs/zero2_offload.json would, with "),
        (8, 2, 16, "--deepspeed configs/zero3_offload.json --set train.activation_checkpointing=full would, with "),
        (1, 2, 256, "nor does anything else at this data.micro_batch: see lcm train --plan"),
    ],
)
def test_what_fits_only_with_offloading_is_said_with_the_setting(
    processes: int, memory: int, rows: int, advice: str
) -> None:
    """`auto` does not offload by itself: that costs a multiple of the time."""
    model = preset("two-tower-1.6b", 1024)
    config = load_settings(RunConfig, None, ["data.global_batch=16", f"data.micro_batch={rows}"])
    note = choose_by_memory(config, model, processes, "bf16", memory * GIB).note
    assert note is not None
    assert "\n" not in note
    assert advice in note
    plan = plan_memory(config, model, processes=processes, precision="bf16", memory=memory * GIB)
    assert all(one.cpu or one.nvme for one in plan.estimates if one.fits)
    if plan.best is not None:
        assert options_of(plan.best) in note
        assert f"{plan.best.cpu / GIB:.1f} GiB of the CPU's memory for each GPU" in note


@pytest.mark.parametrize("own", [Limits("bf16", 80 * GIB), Limits("bf16", 24 * GIB), Limits("fp32", 81 * GIB)])
def test_machines_with_different_gpus_agree_on_what_suits_all(monkeypatch: pytest.MonkeyPatch, own: Limits) -> None:
    class Mixed(World):
        def gather(self, value: Any) -> list[Any]:
            assert value == own
            return [Limits("bf16", 80 * GIB), Limits("bf16", 24 * GIB), Limits("fp32", 81 * GIB)]

    monkeypatch.setattr(choose, "limits_of", lambda device: own)
    config, model = load_settings(RunConfig, None, ["data.global_batch=3"]), preset("two-tower-1.6b", 1024)
    world = Mixed(size=3)
    choice = agreed_engine(choose_engine(config, world, model), config, world, model)
    assert (choice.engine.name, choice.setup.precision) == ("fsdp", "fp32")


def test_recomputing_that_was_chosen_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer's forward pass is made twice, once for its backward pass."""
    calls = []
    forward = TransformerLayer.forward
    monkeypatch.setattr(TransformerLayer, "forward", lambda *args: calls.append(args[0]) or forward(*args))
    objective, cpu = create_objective(create_model(SMALL["base"], 0)), torch.device("cpu")
    choice = EngineChoice(SingleEngine, Setup("fp32", "single"), checkpointing="full")
    engine = start_engine(choice, objective, settings().train, cpu)
    engine.accumulate(batch(1), 1.0, last=True)
    layers = list(objective.model.blocks())
    assert calls == [*layers, *reversed(layers)]


@pytest.mark.skipif(not can_partition(), reason="torch before 2.11 plans compiled layers as eager ones")
@pytest.mark.parametrize("name", ["base-tiny", "two-tower-1.6b"])
def test_the_table_of_presets_in_the_documentation(name: str) -> None:
    page = (Path(__file__).parents[2] / "docs/memory.md").read_text()
    (row,) = (line for line in page.splitlines() if line.startswith(f"| {name} |"))
    _, _, _, held, kept, checkpointed, *most, cpu, _ = (cell.strip() for cell in row.split("|"))
    config = load_settings(RunConfig, None, [f"model={name}", "data.micro_batch=8", "data.global_batch=64"])
    for memory, rows in zip(("12GB", "24GB", "80GB"), most, strict=True):
        planned = {(one.engine, one.checkpointing): one for one in plan_run_memory(config, 1, memory).estimates}
        cases = [("single", "none"), ("single", "full"), ("zero2_offload", "none")]
        assert rows == " / ".join(str(planned[case].largest_micro_batch or "-") for case in cases)
        single = planned["single", "none"]
        assert float(held) == pytest.approx((single.weights + single.gradients + single.optimizer) / GIB, abs=0.06)
        assert float(kept) == pytest.approx(single.activations / GIB, abs=0.006)
        assert float(checkpointed) == pytest.approx(planned["single", "full"].activations / GIB, abs=0.006)
        assert float(cpu) == pytest.approx(planned["zero2_offload", "none"].cpu / GIB, abs=0.06)
