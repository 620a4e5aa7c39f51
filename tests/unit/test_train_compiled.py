"""Compiled layers: when they are, how often, and what the plan says that they keep."""

from functools import partial
from pathlib import Path

import pytest
import torch
from allocated_memory import DIM, LENGTH, allocated_at_most, batch

from lexalcm.config import load_settings
from lexalcm.model.config import ModelConfig
from lexalcm.model.create import create_model
from lexalcm.model.presets import preset
from lexalcm.objective import create_objective
from lexalcm.train import layers
from lexalcm.train.engines.choose import EngineChoice, start_engine
from lexalcm.train.engines.protocol import Setup
from lexalcm.train.engines.single import SingleEngine
from lexalcm.train.layers import compiles
from lexalcm.train.memory import activations as memory_activations
from lexalcm.train.memory.compiled import can_partition
from lexalcm.train.memory.plan import plan_memory
from lexalcm.train.settings import RunConfig, TrainSettings

CPU, GPU = torch.device("cpu"), torch.device("cuda")
WIDE = {
    "base": ModelConfig(architecture="base", dim=DIM, width=96, num_heads=4, ffn_dim=192, num_layers=3),
    "one-tower": ModelConfig(architecture="one-tower", dim=DIM, width=96, num_heads=4, ffn_dim=192, num_layers=3),
    "two-tower": ModelConfig(
        architecture="two-tower", dim=DIM, width=96, num_heads=4, ffn_dim=192, num_layers=3, context_layers=2
    ),
}


def test_auto_compiles_large_models_on_a_gpu_with_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny, small = preset("two-tower-tiny", 1024), preset("two-tower-small", 1024)
    monkeypatch.setattr(layers, "can_compile", lambda device: device.type == "cuda")
    assert [compiles(TrainSettings(), model, GPU) for model in (tiny, small)] == [False, True]
    assert not compiles(TrainSettings(), small, CPU)
    assert compiles(TrainSettings(compile=True), tiny, CPU)
    assert not compiles(TrainSettings(compile=False), small, GPU)
    monkeypatch.setattr(layers, "can_compile", lambda device: False)
    assert not compiles(TrainSettings(), small, GPU)


@pytest.mark.parametrize(("architecture", "kinds"), [("base", 1), ("one-tower", 1), ("two-tower", 2)])
def test_a_run_compiles_each_kind_of_layer_twice(
    architecture: str, kinds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once for steps and once for validations; torch gives up compiling a layer at the eighth."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    settings = load_settings(RunConfig, None, ["train.ema.decay=0.9"]).train
    choice = EngineChoice(SingleEngine, Setup("fp32", "single"), compiled=True)
    engine = start_engine(choice, create_objective(create_model(WIDE[architecture], 0)), settings, CPU)
    for _ in range(2):
        for _ in range(2):
            engine.accumulate(batch(2), 1.0, last=False)
            engine.accumulate(batch(2), 1.0, last=True)
            engine.update(1e-3)
        engine.loss(batch(2))
        with engine.average.in_place():
            [gather(0) for gather in engine.weights().values()]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2 * kinds
    assert torch._dynamo.config.recompile_limit / 2 > 2


def test_a_torch_that_cannot_tell_is_planned_as_if_it_did_not_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    def activations(compiled: bool) -> int:
        config = load_settings(RunConfig, None, [f"train.compile={compiled}", "data.micro_batch=16"])
        plan = plan_memory(config, WIDE["base"], processes=1, precision="bf16", checkpointing=("none",))
        return next(one.activations for one in plan.estimates if one.engine == "single")

    eager = activations(False)
    monkeypatch.setattr(memory_activations, "can_partition", lambda: False)
    assert activations(True) == eager


@pytest.mark.skipif(not can_partition(), reason="torch before 2.11 does not tell what compiled layers keep")
@pytest.mark.parametrize("architecture", list(WIDE))
@pytest.mark.parametrize("checkpointing", ["none", "full"])
def test_the_plan_of_compiled_layers_is_within_a_tenth_of_what_steps_allocate(
    architecture: str, checkpointing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against torch's own compiler, but for the code that it generates: what its graphs hand on is allocated here."""
    rows = 16
    config = load_settings(
        RunConfig,
        None,
        [
            f"data.row_length={LENGTH}",
            f"data.micro_batch={rows}",
            "data.global_batch=2",
            "train.compile=true",
            f"train.activation_checkpointing={checkpointing}",
        ],
    )
    model = WIDE[architecture].model_copy(update={"num_layers": 8})
    plan = plan_memory(
        config,
        model,
        processes=1,
        precision="fp32",
        device_type="cpu",
        engines=("single",),
        checkpointing=(checkpointing,),
    )
    (planned,) = plan.estimates
    assert planned.compiled
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager_decomp_partition"))

    def two_steps() -> None:
        setup = Setup("fp32", "single")
        choice = EngineChoice(SingleEngine, setup, checkpointing=checkpointing, compiled=True)
        engine = start_engine(choice, create_objective(create_model(model, 0)), config.train, CPU)
        for _ in range(2):
            engine.accumulate(batch(rows), 1.0, last=False)
            engine.accumulate(batch(rows), 1.0, last=True)
            engine.update(1e-3)

    assert planned.total == pytest.approx(allocated_at_most(two_steps), rel=0.1)


def test_stage_3_of_zero_is_planned_without_compiling() -> None:
    config = load_settings(RunConfig, None, ["model=two-tower-small", "train.compile=true"])
    plan = plan_memory(config, preset("two-tower-small", 1024), processes=1, precision="bf16", checkpointing=("none",))
    assert {one.engine: one.compiled for one in plan.estimates}["zero2"]
    assert not any(one.compiled for one in plan.estimates if one.engine.startswith("zero3"))


def test_the_documentation_says_from_which_size_on() -> None:
    page = (Path(__file__).parents[2] / "docs/gpu.md").read_text()
    assert f"{layers.COMPILED_FROM // 10**6} million parameters" in page
