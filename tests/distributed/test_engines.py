"""The loss curve is a function of settings and seed: not of engine, ZeRO stage, processes, or a stop in between."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from exploding import exploding_contexts
from safetensors.numpy import load_file
from training_workspace import (
    CHECKPOINT_EVERY,
    STEPS,
    curve,
    final_weights,
    largest_difference,
    rewind,
    zero,
)

from lexalcm.data.batches.loader import TrainingBatches
from lexalcm.data.batches.mixture import Mixture
from lexalcm.data.build.one_process import build_from_paths
from lexalcm.data.build.settings import BuildSettings
from lexalcm.data.sources.corpus import Source, read_documents
from lexalcm.data.sources.sample import packaged_text
from lexalcm.errors import TrainingError
from lexalcm.model import ModelConfig, create_model, load_model
from lexalcm.objective import create_objective
from lexalcm.train.run.main import read_run_config, train
from lexalcm.train.trainer import TRAINING, seed_generators

STAGES = (0, 1, 2, 3)
ENGINES = {
    **{engine: f"train.engine={engine}" for engine in ("ddp", "fsdp")},
    **{f"zero{stage}": zero(stage) for stage in STAGES},
}
HOPELESS = ["data.path=all-overflowing", "train.max_bad_steps=3"]
EXPLODING = ["train.max_bad_steps=2", "data.global_batch=4", "train.freeze=[denoiser.norm.weight]"]
SAME = 1e-4  # relative: float32 rounding over the steps of a run


@pytest.fixture(scope="module")
def text(workspace: Path) -> list[str]:
    """Settings of a training on a slice of the packaged text, with a small model."""
    with packaged_text() as path:
        documents = list(read_documents([Source(path, path.name)]))[::25]
    lines = [json.dumps({"id": one.id, "lang": one.lang, "text": one.text}) for one in documents]
    (workspace / "text.jsonl").write_text("\n".join(lines))
    settings = BuildSettings(codec_options={"dim": 32})
    dataset = build_from_paths([workspace / "text.jsonl"], workspace / "text", settings).dataset
    sizes = {"width": 48, "num_heads": 3, "ffn_dim": 80, "num_layers": 2, "context_layers": 1}
    config = ModelConfig(architecture="two-tower", dim=32, codec=dataset.manifest.codec, **sizes)
    model = create_model(config, seed=0)
    model.normalizer.set_statistics(dataset.normalizer())
    model.save_pretrained(workspace / "models/text")
    return ["data.path=text", "model=models/text", "data.row_length=64", "train.validate_every=1"]


@pytest.fixture(scope="module")
def runs(workspace: Path, text: list[str], launch: Callable) -> Path:
    """Runs of the same settings: `single`, `zero2x2` (stage 2, two processes), `zero3x2-then-zero0x1` and so on.

    Those on text are `text-single`, `text-zero2` (two processes) and so on.
    """
    launch(1, [{"name": "single", "set": []}, {"name": "text-single", "set": text}])
    folder = workspace / "runs"
    for name in ("single-then-zero3x2", "single-then-fsdpx2"):
        rewind(folder / "single", folder / name, CHECKPOINT_EVERY)
    launch(
        2,
        [
            *({"name": f"zero{s}x2", "set": [zero(s)]} for s in STAGES),
            *({"name": f"{engine}x2", "set": [f"train.engine={engine}"]} for engine in ("ddp", "fsdp")),
            {"name": "single-then-zero3x2", "set": [zero(3)]},
            {"name": "single-then-fsdpx2", "set": ["train.engine=fsdp"]},
            *({"name": f"overflow{s}x2", "set": [zero(s), "data.path=one-overflowing"]} for s in STAGES),
            {"name": "overflow-fsdpx2", "set": ["train.engine=fsdp", "data.path=one-overflowing"]},
            *({"name": f"text-{name}", "set": [*text, engine]} for name, engine in ENGINES.items()),
            *(
                {
                    "name": f"explodes-{name}",
                    "set": [*EXPLODING, engine],
                    "explodes": True,
                    "fails": "in 2 steps in a row",
                }
                for name, engine in ENGINES.items()
            ),
        ],
    )
    later = {
        "zero2x2-then-single": [],
        "zero3x2-then-zero0x1": [zero(0)],
        "zero0x2-then-zero2x1": [zero(2)],
        "zero1x2-then-zero3x1": [zero(3)],
        "fsdpx2-then-zero2x1": [zero(2)],
        "zero3x2-then-fsdpx1": ["train.engine=fsdp"],
    }
    for name in later:
        rewind(folder / name.partition("-")[0], folder / name, CHECKPOINT_EVERY)
    launch(1, [{"name": name, "set": settings} for name, settings in later.items()])
    return folder


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_gives_the_curve_of_single(runs: Path, stage: int) -> None:
    assert largest_difference(runs / "single", runs / f"zero{stage}x2") < SAME


@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_ddp_and_fsdp_give_the_curve_of_single(runs: Path, engine: str) -> None:
    assert largest_difference(runs / "single", runs / f"{engine}x2") < SAME


@pytest.mark.parametrize("engine", ENGINES)
def test_on_text_every_engine_reaches_the_validation_loss_of_single(runs: Path, engine: str) -> None:
    of_single, of_engine = ([line[2] for line in curve(runs / f"text-{name}")] for name in ("single", engine))
    assert len(of_single) == STEPS
    assert of_single[-1] < 0.99 * of_single[0]  # something is learnt
    assert of_engine == pytest.approx(of_single, rel=SAME)


@pytest.mark.parametrize(
    "name",
    [
        "single-then-zero3x2",
        "zero2x2-then-single",
        "zero3x2-then-zero0x1",
        "zero0x2-then-zero2x1",
        "zero1x2-then-zero3x1",
        "single-then-fsdpx2",
        "fsdpx2-then-zero2x1",
        "zero3x2-then-fsdpx1",
    ],
)
def test_a_run_goes_on_under_another_engine_and_number_of_processes(runs: Path, name: str) -> None:
    assert largest_difference(runs / "single", runs / name) < SAME
    assert [step for step, _, _ in curve(runs / name)] == list(range(1, STEPS + 1))


def test_a_step_that_overflows_is_skipped_and_counted(
    runs: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace)
    result = train(read_run_config(Path("config.yaml"), ["name=overflow", "data.path=one-overflowing"], "auto"))
    assert 1 <= result.skipped_steps < STEPS
    for name in ("overflow", "overflow-fsdpx2", *(f"overflow{stage}x2" for stage in STAGES)):
        lines = [json.loads(line) for line in (runs / name / "metrics.jsonl").read_text().splitlines()]
        assert lines[-1]["skipped_steps"] == result.skipped_steps
        assert [line["step"] for line in lines if line["loss"] is None] == [
            line["step"] for line in lines if line["grad_norm"] is None
        ]
        for name_of_weight, weight in final_weights(runs / name).items():
            assert name_of_weight.startswith("normalizer.") or np.isfinite(weight).all()


def test_too_many_bad_steps_in_a_row_stop_the_run(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    with pytest.raises(TrainingError, match=r"not finite in 3 steps in a row.*train\.lr.*lcm verify data"):
        train(read_run_config(Path("config.yaml"), ["name=hopeless-single", *HOPELESS], "auto"))


@pytest.fixture(scope="module")
def gradients(workspace: Path) -> dict[str, float]:
    """Norms of the exploding run's gradients in its second step, by torch alone."""
    config = read_run_config(workspace / "config.yaml", [f"data.path={workspace}/data", *EXPLODING[1:]], "auto")
    batches = TrainingBatches(Mixture.open(config.data), config.data, config.train.seed)
    model = load_model(workspace / "models/base").train()
    objective = create_objective(model)
    for number in range(4, 8):
        batch = batches.micro_batch(number)
        seed_generators(TRAINING, config.train.seed, number)
        (objective(**batch.tensors()).sum / batches.targets_in_step(1)).backward()
    return {name: float(p.grad.norm()) for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("engine", ["single", *ENGINES])
def test_the_step_that_ended_a_run_shows_where_gradients_cease_to_be_finite(
    runs: Path, workspace: Path, gradients: dict[str, float], monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    """With frozen weights too, and as many of gradients as of trained weights, over one process or two."""
    name = f"explodes-{engine}"
    if engine == "single":
        monkeypatch.chdir(workspace)
        with exploding_contexts(), pytest.raises(TrainingError):
            train(read_run_config(Path("config.yaml"), [f"name={name}", *EXPLODING], "auto"))
    dump = json.loads((runs / name / "bad_step_00000002.json").read_text())
    assert dump["weight_norms"].keys() - dump["grad_norms"].keys() == {"denoiser.norm.weight"}
    broken = {name for name, norm in dump["grad_norms"].items() if isinstance(norm, str)}
    assert broken == {name for name in gradients if name.startswith("contextualizer.")}
    largest = max(gradients.values())
    for name in gradients.keys() - broken - {"denoiser.norm.weight"}:
        assert dump["grad_norms"][name] == pytest.approx(gradients[name], rel=1e-4, abs=1e-6 * largest)
    assert dump["layers"]["contextualizer.layers.0"]["grad_norm"] in ("nan", "inf")
    inside = [gradients[name] for name in gradients if name.startswith("denoiser.layers.1.")]
    assert dump["layers"]["denoiser.layers.1"]["grad_norm"] == pytest.approx(float(np.linalg.norm(inside)), rel=1e-4)


def test_the_average_is_that_of_the_weights_after_each_step(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written out over the checkpoints of every step; a resumed run goes on with the same average."""
    monkeypatch.chdir(workspace)
    settings = ["train.checkpoint.every=1"]
    result = train(read_run_config(Path("config.yaml"), ["name=averaged", *settings], "auto"))
    steps = [result.run / f"checkpoints/step_{step:08d}" for step in range(1, STEPS + 1)]
    average = load_file(workspace / "models/base/model.safetensors")
    for number, step in enumerate(steps, start=1):
        decay = min(0.4, (1 + number) / (10 + number))
        weights = load_file(step / "weights.safetensors")
        average = {name: decay * average[name] + (1 - decay) * weights[name] for name in weights}
    exported = final_weights(result.run)
    for name, expected in average.items():
        np.testing.assert_allclose(exported[name], expected, rtol=1e-5, atol=1e-6)
    rewind(result.run, workspace / "runs/averaged-again", 2)
    again = train(read_run_config(Path("config.yaml"), ["name=averaged-again", *settings], "auto"))
    for name, weight in final_weights(again.run).items():
        np.testing.assert_array_equal(weight, exported[name])


def test_the_curve_is_one_of_training(runs: Path, workspace: Path) -> None:
    before = load_file(workspace / "models/base/model.safetensors")
    after = final_weights(runs / "single")
    moved = [name for name in after if not np.array_equal(before[name], after[name])]
    assert set(after) - set(moved) == {name for name in after if name.startswith("normalizer.")}
