"""A small data set and model to train on, and what tests ask of the runs."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from lexalcm.codec.base import CodecRecord
from lexalcm.codec.lsa.codec import LsaCodec
from lexalcm.data.format.dataset import Dataset
from lexalcm.model.config import ModelConfig
from lexalcm.model.create import create_model

ROOT = Path(__file__).parents[1]
DIM = 8
STEPS = 6
CHECKPOINT_EVERY = 3


def make_workspace(folder: Path, make_dataset: Callable[..., Any]) -> Path:
    """Fill a folder with data sets, a two-tower model with dropout, and settings that use them."""
    rng = np.random.default_rng(0)

    def documents(count: int) -> list[tuple[str, np.ndarray]]:
        return [("eng_Latn", rng.normal(size=(rng.integers(3, 21), DIM))) for _ in range(count)]

    train, validation = documents(24), documents(5)
    overflowing = ("eng_Latn", np.full((4, DIM), 1e20))  # its square is no float32
    dataset = make_dataset({"train": train, "validation": validation})
    for name, documents_of_it in (
        ("data", train),
        ("one-overflowing", [*train, overflowing]),
        ("all-overflowing", [overflowing] * 24),
    ):
        made = make_dataset({"train": documents_of_it, "validation": validation}, normalizer=dataset.normalizer())
        shutil.copytree(made.path, folder / name)
        save_file({"end_of_text": np.ones(DIM, np.float32)}, folder / name / "special_concepts.safetensors")
    codec = CodecRecord(name="lsa", dim=DIM, fingerprint="0" * 64)
    config = ModelConfig(
        architecture="two-tower",
        dim=DIM,
        width=18,
        num_heads=3,
        ffn_dim=31,
        num_layers=2,
        context_layers=1,
        codec=codec,
    )
    model = create_model(config, seed=0)
    model.normalizer.set_statistics(dataset.normalizer())
    model.save_pretrained(folder / "models/base")
    (folder / "config.yaml").write_text(
        f"""
        data: {{path: data, row_length: 16, micro_batch: 2, global_batch: 2}}
        train:
          steps: {STEPS}
          lr: 0.01
          clip_norm: 1.0
          warmup_steps: 2
          log_every: 1
          validate_every: 3
          ema: {{decay: 0.4}}
          checkpoint: {{every: {CHECKPOINT_EVERY}, keep: 10}}
          samples: {{every: 0}}
        """
    )
    return folder


def add_codec(datasets: Sequence[Path], model: Path) -> None:
    """Give data sets and a model a codec that can write the sentences of the first one's training split."""
    split = Dataset.open(datasets[0]).split("train")
    codec = LsaCodec.create([("eng_Latn", split.document(i)["sentences"]) for i in range(len(split))], dim=DIM)
    codec.save(datasets[0] / "codec")
    for file in (*(dataset / "dataset.json" for dataset in datasets), model / "config.json"):
        content = json.loads(file.read_text())
        content["codec"] = codec.record().model_dump(mode="json")
        file.write_text(json.dumps(content))


def zero(stage: int) -> str:
    """The setting that picks a ZeRO stage."""
    return f"deepspeed={ROOT}/configs/zero{stage}.json"


def curve(run: Path) -> list[tuple[int, float, float | None]]:
    """Step, loss and validation loss of each line of a run's metrics."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"], line.get("validation_loss")) for line in lines]


def final_weights(run: Path) -> dict[str, np.ndarray]:
    """The exported model's numbers, which are the weights' moving average."""
    return load_file(run / "model/model.safetensors")


def largest_difference(run: Path, other: Path) -> float:
    """Over losses and final weights of two runs: the largest difference, relative to the largest number of its kind.

    A bias is of one kind with its layer's weight: it begins at zero, and AdamW takes as large a step for a small
    gradient as for a large one, rounding errors included. The bias of a cross-attention key has no gradient (it adds
    the same to all scores of a query): what AdamW makes of its rounding errors is left out.
    """
    losses, others = curve(run), curve(other)
    assert [line[0] for line in losses] == [line[0] for line in others]
    pairs = [
        (np.array([line[column] for line in side if line[column] is not None]) for side in (losses, others))
        for column in (1, 2)
    ]
    differences = [float(np.abs(a - b).max() / np.abs(a).max()) for a, b in pairs]
    weights, other_weights = final_weights(run), final_weights(other)
    assert weights.keys() == other_weights.keys()
    for name, weight in weights.items():
        if name.startswith("normalizer."):
            assert np.array_equal(weight, other_weights[name])
        elif not name.endswith("cross_attention.k_proj.bias"):
            layer = weights.get(name.removesuffix("bias") + "weight", weight) if name.endswith(".bias") else weight
            largest = max(np.abs(weight).max(), np.abs(layer).max())
            differences.append(float(np.abs(weight - other_weights[name]).max() / largest))
    return max(differences)


def rewind(run: Path, copy: Path, step: int) -> Path:
    """A copy of a finished run as it was when only the checkpoint at `step` had been written."""
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "model")
    for checkpoint in (copy / "checkpoints").iterdir():
        if checkpoint.name != f"step_{step:08d}":
            shutil.rmtree(checkpoint)
    return copy
