"""What a run writes about itself: metrics, the step that ended it, samples of text, logs."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_workspace import add_codec, final_weights, make_workspace, rewind

from lexalcm.data.batches.loader import TrainingBatches, ValidationBatches
from lexalcm.data.batches.mixture import Mixture
from lexalcm.data.format.dataset import Dataset
from lexalcm.errors import MissingExtraError, ShardError, TrainingError
from lexalcm.model import load_model
from lexalcm.objective import create_objective
from lexalcm.train.monitor.run_monitor import NullDisplay
from lexalcm.train.run.main import read_run_config, train
from lexalcm.train.trainer import VALIDATION, seed_generators

SAMPLES = "train.samples.every=null"  # at validations; the workspace's settings have none


class Notes(NullDisplay):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable[..., Any]) -> Path:
    """The workspace, whose data set also has a codec that can write its sentences."""
    folder = make_workspace(tmp_path_factory.mktemp("watched"), make_dataset)
    add_codec([folder / "data", folder / "all-overflowing"], folder / "models/base")
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def run(name: str, *settings: str, display: NullDisplay | None = None) -> Path:
    settings = (f"name={name}", "train.checkpoint.every=100", *settings)
    return train(read_run_config(Path("config.yaml"), settings, "auto"), display=display).run


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_lines_have_what_can_be_known(here: Path) -> None:
    first, *_, last = lines(run("plain") / "metrics.jsonl")
    assert set(first) == {
        "step",
        "loss",
        "lr",
        "grad_norm",
        "concepts_per_s",
        "data_wait",
        "peak_memory_gb",
        "seconds",
        "skipped_steps",
        "skipped_documents",
        "loss_by_timestep",
    }
    assert set(last) - set(first) == {"validation_loss", "validation_loss_by_timestep"}
    assert 0 <= first["data_wait"] < 1
    assert first["peak_memory_gb"] > 0.1  # a process with torch in it
    assert len(first["loss_by_timestep"]) == 10


def test_mfu_is_known_where_the_peak_of_the_device_is(here: Path) -> None:
    settings = ["train.steps=2"]
    (one, _), (half, _) = (
        lines(run(f"peak{peak}", *settings, f"train.peak_tflops={peak}") / "metrics.jsonl") for peak in (1, 2)
    )
    assert one["mfu"] / one["concepts_per_s"] == pytest.approx(2 * half["mfu"] / half["concepts_per_s"])
    frozen = lines(run("frozen", *settings, "train.peak_tflops=1", "train.freeze=[contextualizer.*]") / "metrics.jsonl")
    assert "mfu" not in frozen[0]


def test_the_validation_loss_by_timestep_is_that_of_each_position(here: Path) -> None:
    folder = run("by-timestep", "train.steps=3", "train.ema.decay=null")
    objective = create_objective(load_model(folder))
    settings = read_run_config(Path("config.yaml"), [], "auto").data
    sums, counts = np.zeros(10), np.zeros(10)
    for batch in ValidationBatches(Mixture.open(settings), settings).iterate():
        seed_generators(VALIDATION, 0, batch.number)
        with torch.no_grad():
            loss = objective(**batch.to("cpu").inputs(objective.fields))
        for row, place in batch.targets.nonzero().tolist():
            sums[int(loss.timesteps[row, place]) // 10] += float(loss.per_target[row, place])
            counts[int(loss.timesteps[row, place]) // 10] += 1
    last = lines(folder / "metrics.jsonl")[-1]
    expected = [total / count if count else None for total, count in zip(sums, counts, strict=True)]
    assert last["validation_loss_by_timestep"] == pytest.approx(expected, rel=1e-5)
    assert last["validation_loss"] == pytest.approx(sums.sum() / counts.sum(), rel=1e-5)


def test_a_resumed_run_writes_the_lines_of_one_never_stopped(here: Path) -> None:
    """Also where a line gathers steps from before and after the stop."""
    settings = ["train.log_every=5", "train.validate_every=6", "train.checkpoint.every=3", SAMPLES]
    whole = run("whole", *settings)
    again = run(rewind(whole, here / "runs/again", 3).name, *settings)
    for file in ("metrics.jsonl", "samples.jsonl"):
        pairs = list(zip(lines(whole / file), lines(again / file), strict=True))
        assert len(pairs) >= 2
        for before, after in pairs:
            for measured in ("concepts_per_s", "data_wait", "peak_memory_gb", "seconds"):
                before.pop(measured, None)
                after.pop(measured, None)
            assert before == after


def test_too_many_bad_steps_leave_what_there_is_to_look_at(here: Path) -> None:
    """Ten in a row, where nobody says how many."""
    with pytest.raises(TrainingError, match=r"10 steps in a row.*; runs/hopeless/bad_step_00000010\.json has its docu"):
        run("hopeless", "data.path=all-overflowing", "train.steps=12")
    dump = json.loads(Path("runs/hopeless/bad_step_00000010.json").read_text())
    assert (dump["step"], dump["loss"], dump["processes"], dump["seed"]) == (10, "inf", 1, 0)
    assert dump["grad_norm"] == "nan"
    assert [(one["rank"], one["number"], one["loss"]) for one in dump["micro_batches"]] == [
        (0, 18, "inf"),
        (0, 19, "inf"),
    ]
    split = Dataset.open("all-overflowing").split("train")
    for micro_batch in dump["micro_batches"]:
        assert micro_batch["documents"]
        for one in micro_batch["documents"]:
            assert split.where(one["document"]) == f"{one['shard']} {one['key']}"
            assert (one["data"], one["split"]) == ("all-overflowing", "train")
            norms = np.linalg.norm(split.embeddings(one["document"]).astype(np.float64), axis=1)
            assert one["largest_norm"] == pytest.approx(norms.max())
    initial = load_file("models/base/model.safetensors")
    assert dump["weight_norms"].keys() == {name for name in initial if not name.startswith("normalizer.")}
    for name, norm in dump["weight_norms"].items():
        assert norm == pytest.approx(float(initial[name].norm()), rel=1e-5, abs=1e-12)
    log = Path("runs/hopeless/logs/rank_00000.log").read_text()
    assert "step 1 is skipped: loss inf, gradient norm nan" in log
    assert "lexalcm.errors.TrainingError: the loss or its gradient was not finite" in log


def test_what_there_is_to_look_at_cannot_be_written_or_read(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run still ends because of its steps, and says what it was."""

    def unreadable(*_: Any) -> None:
        raise ShardError("train-000000.tar is gone", "train-000000.tar")

    class Breaking(NullDisplay):
        def __init__(self, break_it: Callable[[], Any]) -> None:
            self.break_it = break_it

        def advance(self, metrics: Any) -> None:
            if metrics["step"] == 2:
                self.break_it()

    bad = ["data.path=all-overflowing", "train.max_bad_steps=2"]
    with pytest.raises(TrainingError, match=r"2 steps in a row.*; its details could not be written to runs/unw"):
        run("unwritable", *bad, display=Breaking(Path("runs/unwritable/bad_step_00000002.json").mkdir))
    break_it = partial(monkeypatch.setattr, TrainingBatches, "micro_batch", unreadable)
    with pytest.raises(TrainingError, match=r"2 steps in a row.*bad_step_00000002\.json has its documents"):
        run("unreadable", *bad, display=Breaking(break_it))
    dump = json.loads(Path("runs/unreadable/bad_step_00000002.json").read_text())
    assert [one["unreadable"] for one in dump["micro_batches"]] == ["train-000000.tar is gone"] * 2


def test_samples_are_written_and_change_nothing_else(here: Path) -> None:
    with_samples = run("with", SAMPLES, "train.samples.documents=2", "train.samples.sentences=2")
    without = run("without", "train.watch.every=0")
    assert [line["loss"] for line in lines(with_samples / "metrics.jsonl")] == [
        line["loss"] for line in lines(without / "metrics.jsonl")
    ]
    weights, others = final_weights(with_samples), final_weights(without)
    assert all(np.array_equal(weights[name], others[name]) for name in weights)
    assert not (without / "samples.jsonl").exists()
    samples = lines(with_samples / "samples.jsonl")
    assert [sample["step"] for sample in samples] == [3, 3, 6, 6]
    split = Dataset.open("data").split("validation")
    known = {f"data {split.where(i)}": split.document(i)["sentences"] for i in range(len(split))}
    for sample in samples:
        sentences = known[sample["document"]]
        assert sample["prompt"] == sentences[:2]
        assert sample["followed"] == sentences[2:4]
        assert len(sample["written"]) <= 2
        assert sample["stop"] in ("length", "end of text", "repetition")
    assert any(sample["written"] for sample in samples)


def test_samples_are_those_of_the_exported_model(here: Path) -> None:
    """The moving average's, after the last step."""
    from lexalcm.generate.text import TextModel

    folder = run("exported", SAMPLES, "train.validate_every=6")
    writer = TextModel.open(folder)
    for sample in lines(folder / "samples.jsonl"):
        options = writer.options(max_sentences=3)
        split = Dataset.open("data").split("validation")
        document = next(i for i in range(len(split)) if split.where(i) in sample["document"])
        prompt = writer.prompt(sample["prompt"], options, lang="eng_Latn")
        concepts = torch.from_numpy(split.embeddings(document)[:2].astype(np.float32))
        made = writer.write(type(prompt)(prompt.sentences, "eng_Latn", "eng_Latn", 0, concepts), options)
        assert [sentence.text for sentence in made] == sample["written"]


def test_without_a_codec_there_are_no_samples_and_one_note(here: Path) -> None:
    shutil.rmtree("data/codec")
    display = Notes()
    folder = run("no-codec", SAMPLES, display=display)
    assert not (folder / "samples.jsonl").exists()
    (note,) = display.notes
    assert note.startswith("no samples of text: ")
    assert note in (folder / "logs/rank_00000.log").read_text()


def test_a_model_cut_off_from_its_loss_is_noticed(here: Path) -> None:
    """Training with no gradient to speak of: a learning rate below what float32 can add to the weights."""
    display = Notes()
    settings = ["train.steps=20", "train.validate_every=10", "train.warmup_steps=0"]
    folder = run("cut-off", *settings, "train.lr=1e-3", "train.eps=1e10", display=display)
    alerts = [alert for line in lines(folder / "metrics.jsonl") for alert in line.get("alerts", [])]
    assert any(alert.startswith("weights moved by weight decay alone in 10 updates: ") for alert in alerts)
    assert all(f": {alert}" in "\n".join(display.notes) for alert in alerts)


def test_wandb_that_is_not_installed_is_named_with_its_extra(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(MissingExtraError, match=r"train\.wandb\.project needs wandb.*pip install 'lexalcm\[wandb\]'"):
        run("wandb", "train.wandb.project=lcm")
    assert not Path("runs/wandb").exists()


def test_a_resumed_run_is_the_same_run_of_wandb(here: Path) -> None:
    pytest.importorskip("wandb", reason="Weights & Biases is not installed (extra wandb)")
    settings = ["train.wandb.project=lcm", "train.wandb.mode=offline"]
    folder = run("wandb", "train.steps=3", "train.schedule=constant", *settings)
    kept = (folder / "wandb.json").read_text()
    run("wandb", "train.steps=6", "train.schedule=constant", *settings)
    assert (folder / "wandb.json").read_text() == kept
    offline = sorted(path.name for path in (folder / "wandb").glob("offline-run-*"))
    assert len(offline) == 2
    assert all(name.endswith(json.loads(kept)["id"]) for name in offline)
