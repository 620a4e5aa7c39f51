"""Is the loss curve a function of settings and seed alone? One training under every engine, compared step by step.

    python -m tools.check_curve                 # about two minutes on two cores
    python -m tools.check_curve --steps 100 --keep /tmp/curves

A small two-tower model learns a made-up data set in float32 for 30 steps, with dropout, random timesteps, noise and
dropped conditions: on one process with two micro-batches a step, and on two processes with one each, under each engine,
with and without activation checkpointing. The table shows the largest difference of loss and of final weights from the
first run, relative to the largest loss and to the largest number of the same parameter; the last line is one JSON
object; the exit code is 1 where a difference exceeds 1e-4.

The biases of attention's keys stand in a column of their own and fail nothing. Such a bias adds the same to all scores
of a query, up to a rotation that for its slow components is none, so that its gradient is rounding errors, and AdamW
makes steps of full size even of those.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

TOLERANCE = 1e-4
DIM = 16
ROOT = Path(__file__).parents[1]
REFERENCE = "single"
FULL = "train.activation_checkpointing=full"
KEY_BIAS = "attention.k_proj.bias"

SETTINGS = """
data: {path: data, row_length: 32, micro_batch: 2, global_batch: 2}
train:
  precision: fp32
  lr: 0.003
  warmup_steps: 5
  log_every: 1
  validate_every: 10
  samples: {every: 0}
  checkpoint: {every: 1000}
"""


def runs() -> dict[int, dict[str, list[str]]]:
    """The runs by number of processes: their names and settings."""
    stages = {f"zero{stage}": [f"deepspeed={ROOT}/configs/zero{stage}.json"] for stage in range(4)}
    engines = {"ddp": ["train.engine=ddp"], "fsdp": ["train.engine=fsdp"], **stages}
    two = {f"{name} x2": settings for name, settings in engines.items()}
    two |= {f"{name} x2, recomputed": [*engines[name], FULL] for name in ("fsdp", "zero3")}
    return {1: {REFERENCE: [], "single, recomputed": [FULL]}, 2: two}


def main() -> int:
    """Run, compare, print; the exit code."""
    parser = argparse.ArgumentParser(description="Compare the loss curves of all engines.")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--keep", type=Path, help="keep the runs in this folder")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.worker)
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        prepare(folder)
        for processes, named in runs().items():
            start(folder, processes, named, arguments.steps)
        line = compare(folder)
    print(json.dumps(line))
    return 0 if line["passed"] else 1


def prepare(folder: Path) -> None:
    """Write the data set, the model and the settings."""
    from lexalcm.codec.base import CodecRecord
    from lexalcm.data.format.dataset import Dataset
    from lexalcm.data.format.manifest import Manifest, write_manifest
    from lexalcm.data.format.shards import ShardWriter
    from lexalcm.data.normalizer.fit import NormalizerSettings, fit_on_documents, save_normalizer
    from lexalcm.model.config import ModelConfig
    from lexalcm.model.create import create_model

    generator = np.random.default_rng(0)
    codec = CodecRecord(name="lsa", dim=DIM, fingerprint="0" * 64)
    data = folder / "data"
    data.mkdir()
    records = {}
    for split, documents in {"train": 60, "validation": 6}.items():
        writer = ShardWriter(data, split, "float32", 2**20)
        for number in range(documents):
            embeddings = generator.normal(size=(generator.integers(3, 31), DIM)).cumsum(0).astype(np.float32)
            sentences = [f"Sentence {place}." for place in range(len(embeddings))]
            document = {"id": f"{split}-{number}", "lang": "eng_Latn", "title": "", "sentences": sentences}
            writer.add(document | {"metadata": {}}, embeddings)
        records[split] = writer.close()
    write_manifest(data, Manifest(codec=codec, dtype="float32", normalizer=NormalizerSettings(), splits=records))
    stats = fit_on_documents(Dataset.open(data).split("train"), NormalizerSettings())
    save_normalizer(data, stats)
    config = ModelConfig(
        architecture="two-tower",
        dim=DIM,
        width=36,
        num_heads=3,
        ffn_dim=70,
        num_layers=3,
        context_layers=2,
        codec=codec,
    )
    model = create_model(config, seed=0)
    model.normalizer.set_statistics(stats)
    model.save_pretrained(folder / "models/base")
    (folder / "config.yaml").write_text(SETTINGS)


def start(folder: Path, processes: int, named: dict[str, list[str]], steps: int) -> None:
    """Make the runs one after the other, all in the same processes, which import everything once."""
    jobs = [
        {"port": free_port(), "settings": [f"name={name}", f"train.steps={steps}", "data.end_of_text=false", *settings]}
        for name, settings in named.items()
    ]
    file = folder / f"jobs-{processes}.json"
    file.write_text(json.dumps(jobs))
    command = [sys.executable, "-m", "tools.check_curve", "--worker", str(file.resolve())]
    inherited = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    inherited["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    places = [
        {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1"}
        for rank in range(processes)
    ]
    workers = [subprocess.Popen(command, cwd=folder, env=inherited | place) for place in places]
    codes = [worker.wait() for worker in workers]
    if any(codes):
        raise SystemExit("a process failed: see above")


def work(file: Path) -> None:
    """Make the runs of a file, as one process of a world."""
    from lexalcm.train.run.main import read_run_config, train

    for job in json.loads(file.read_text()):
        os.environ["MASTER_PORT"] = str(job["port"])
        train(read_run_config(Path("config.yaml"), job["settings"], "auto"))


def compare(folder: Path) -> dict[str, object]:
    """Print each run's differences from the reference; the line to print last."""
    reference = folder / "runs" / REFERENCE
    found: dict[str, dict[str, float]] = {}
    print(f"largest relative difference from {REFERENCE}:")
    print(f"{'':24} {'loss':>10} {'weights':>10} {'key biases':>11}")
    for named in runs().values():
        for name in named:
            if name != REFERENCE:
                loss, weights, key_biases = differences(reference, folder / "runs" / name)
                found[name] = {"loss": loss, "weights": weights}
                print(f"{name:24} {loss:10.1e} {weights:10.1e} {key_biases:11.1e}")
    largest = max(value for named in found.values() for value in named.values())
    return {"runs": found, "largest": largest, "tolerance": TOLERANCE, "passed": largest <= TOLERANCE}


def differences(run: Path, other: Path) -> tuple[float, float, float]:
    """The largest relative differences of two runs.

    Returns:
        of a loss, of training or validation; of an exported weight; of a bias of attention's keys.
    """
    lines, other_lines = (read_metrics(folder) for folder in (run, other))
    if [line["step"] for line in lines] != [line["step"] for line in other_lines]:
        raise SystemExit(f"{other} has other steps than {run}")
    loss = max(
        relative([line[key] for line in lines if key in line], [line[key] for line in other_lines if key in line])
        for key in ("loss", "validation_loss")
    )
    weights, other_weights = (load_file(folder / "model/model.safetensors") for folder in (run, other))
    if weights.keys() != other_weights.keys():
        raise SystemExit(f"{other} has other weights than {run}")
    found = {name: relative(weights[name], other_weights[name]) for name in weights}
    return (
        loss,
        max(value for name, value in found.items() if not name.endswith(KEY_BIAS)),
        max(value for name, value in found.items() if name.endswith(KEY_BIAS)),
    )


def relative(values: Sequence[float] | np.ndarray, others: Sequence[float] | np.ndarray) -> float:
    """The largest difference of two arrays, relative to the largest number of the first."""
    if np.array_equal(values, others):  # also where both are infinite, as a normalizer's bounds may be
        return 0.0
    return float(np.abs(np.asarray(values) - np.asarray(others)).max() / np.abs(values).max())


def read_metrics(run: Path) -> list[dict[str, float]]:
    """The lines of a run's metrics."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def free_port() -> int:
    """A port of this machine that nobody listens to."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main())
