"""Time saving a checkpoint, by engine and number of processes.

    python -m tools.bench_checkpoint
    python -m tools.bench_checkpoint --processes 4 --engines fsdp zero3 --folder /mnt/disk

The model is a two-tower of 111M parameters after one update of AdamW: 1.3 GB of checkpoint. For each engine there is a
line of JSON: the seconds of each save, the first one included; and of each process, by rank, the least processor time
of a save, which other work on the machine changes little, what a save wrote to a disk (GB, by the system's count, 0 for
/dev/shm), and by how much its memory grew at most meanwhile (GB).
"""

import argparse
import json
import multiprocessing
import os
import re
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

from lexalcm.config import load_settings
from lexalcm.data.batches.loader import Batch
from lexalcm.distributed.world import World, find_world, joined
from lexalcm.model.config import ModelConfig
from lexalcm.model.create import create_model
from lexalcm.model.presets import PUBLISHED_DIM
from lexalcm.objective import create_objective
from lexalcm.train.checkpoint.format import TrainState
from lexalcm.train.checkpoint.manager import CheckpointManager
from lexalcm.train.checkpoint.settings import CheckpointSettings
from lexalcm.train.engines.choose import choose_engine, start_engine
from lexalcm.train.settings import RunConfig

MODEL = ModelConfig(
    architecture="two-tower",
    dim=PUBLISHED_DIM,
    width=768,
    num_heads=12,
    ffn_dim=2304,
    context_layers=3,
    num_layers=6,
)
ENGINES = {
    **{name: f"train.engine={name}" for name in ("single", "ddp", "fsdp")},
    **{f"zero{stage}": f"deepspeed={Path(__file__).parents[1]}/configs/zero{stage}.json" for stage in range(4)},
}


def main() -> int:
    """Measure, print; the exit code."""
    parser = argparse.ArgumentParser(description="Time saving a checkpoint.")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=["ddp", "fsdp", "zero2", "zero3"])
    parser.add_argument("--saves", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: the folder you are in")
    arguments = parser.parse_args()
    for engine in arguments.engines:
        with tempfile.TemporaryDirectory(dir=arguments.folder or Path.cwd()) as folder:
            print(json.dumps(_in_processes(engine, arguments.processes, arguments.saves, Path(folder))), flush=True)
    return 0


def _in_processes(engine: str, processes: int, saves: int, folder: Path) -> dict[str, Any]:
    spawning = multiprocessing.get_context("spawn")
    found = spawning.SimpleQueue()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    workers = []
    for rank in range(processes):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_PORT": port}
        place["OMP_NUM_THREADS"] = 1
        workers.append(spawning.Process(target=_work, args=(place, engine, saves, folder, found)))
        workers[-1].start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        sys.exit(1)
    return found.get()


def _work(place: dict[str, Any], engine: str, saves: int, folder: Path, found: "SimpleQueue[dict[str, Any]]") -> None:
    """One process; the first one puts what all have found."""
    os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR="127.0.0.1")
    world = find_world()
    config = load_settings(RunConfig, None, [ENGINES[engine], f"data.global_batch={2 * world.size}"])
    choice = choose_engine(config, world, MODEL)
    with joined(world, process_group=choice.engine.needs_process_group, timeout=600):
        training = start_engine(choice, create_objective(create_model(MODEL, 0)), config.train, world.device)
        training.accumulate(_batch(world.rank), 1.0, last=True)
        training.update(1e-3)
        settings = CheckpointSettings(keep=1)
        manager = CheckpointManager(folder / "checkpoints", training, settings, world, lambda note: print(note))
        seconds, processor, grown, written = [], [], [], []
        for step in range(1, saves + 1):
            world.barrier()
            began, computed = time.perf_counter(), time.process_time()
            memory, wrote = _growth(lambda step=step: manager.save(TrainState(step=step), required=True))  # type: ignore[misc]
            processor.append(time.process_time() - computed)
            world.barrier()
            seconds.append(round(time.perf_counter() - began, 2))
            grown.append(memory)
            written.append(wrote)
        of_all = world.gather((min(processor), max(grown), max(written)))
        if world.is_main:
            found.put(_line(engine, world, seconds, of_all))
        manager.close()
        training.close()


def _line(engine: str, world: World, seconds: list[float], of_all: list[tuple[float, int, int]]) -> dict[str, Any]:
    return {
        "engine": engine,
        "processes": world.size,
        "seconds": seconds,
        "processor_seconds": [round(processor, 2) for processor, _, _ in of_all],
        "written_gb": [round(written / 1e9, 3) for _, _, written in of_all],
        "memory_growth_gb": [round(grown / 1e9, 3) for _, grown, _ in of_all],
    }


def _growth(work: Callable[[], None]) -> tuple[int, int]:
    """The most bytes by which this process's memory grows during work, and the bytes it writes to disks."""
    Path("/proc/self/clear_refs").write_text("5")  # the most so far is what is held now
    before, wrote = _number("status", "VmHWM"), _number("io", "\nwrite_bytes")
    work()
    return 1024 * (_number("status", "VmHWM") - before), _number("io", "\nwrite_bytes") - wrote


def _number(file: str, name: str) -> int:
    found = re.search(rf"{name}:\s*(\d+)", Path("/proc/self", file).read_text())
    assert found is not None
    return int(found[1])


def _batch(rank: int) -> Batch:
    import torch

    generator = torch.Generator().manual_seed(rank)
    positions = torch.arange(8).expand(2, 8).contiguous()
    embeddings = torch.randn(2, 8, MODEL.dim, generator=generator)
    return Batch(embeddings, torch.zeros_like(positions), positions, torch.ones(2, 8, dtype=torch.bool), rank)


if __name__ == "__main__":
    sys.exit(main())
