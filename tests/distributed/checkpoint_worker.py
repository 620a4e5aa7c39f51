"""One process of some: for each engine, a checkpoint beside what every process gathers whole by itself.

checkpoint_worker.py JOBS.json OUT.json     jobs have a name, a port and settings; the first process writes the answers
"""

import json
import os
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from allocated_memory import DIM, LENGTH, batch

from lexalcm.config import load_settings
from lexalcm.distributed.world import find_world, joined
from lexalcm.model.config import ModelConfig
from lexalcm.model.create import create_model
from lexalcm.objective import create_objective
from lexalcm.train.checkpoint.format import AVERAGE, OPTIMIZER, WEIGHTS, TrainState, stored_tensors
from lexalcm.train.checkpoint.manager import CheckpointManager
from lexalcm.train.checkpoint.settings import CheckpointSettings
from lexalcm.train.engines.choose import choose_engine, start_engine
from lexalcm.train.engines.protocol import Gather
from lexalcm.train.settings import RunConfig

MODEL = ModelConfig(  # whose sizes three processes cannot share evenly
    architecture="two-tower", dim=DIM, width=40, num_heads=4, ffn_dim=77, num_layers=2, context_layers=1
)


def whole(tensors: Mapping[str, Gather]) -> dict[str, torch.Tensor]:
    return {name: gather(None).cpu().clone() for name, gather in tensors.items()}


def save_and_compare(name: str, overrides: list[str]) -> dict[str, Any]:
    world = find_world()
    settings = ["train.ema.decay=0.9", f"data.global_batch={world.size}", f"data.row_length={LENGTH}", *overrides]
    config = load_settings(RunConfig, None, settings)
    choice = choose_engine(config, world, MODEL)
    folders = {background: Path(f"{name}-{background}/checkpoints") for background in (False, True)}
    with (
        joined(world, process_group=choice.engine.needs_process_group, timeout=120),
        closing(start_engine(choice, create_objective(create_model(MODEL, 0)), config.train, world.device)) as engine,
    ):
        for step in range(2):
            torch.manual_seed(step)
            engine.accumulate(batch(2), 0.01, last=True)
            engine.update(1e-2)
        expected = {WEIGHTS: whole(engine.weights()), OPTIMIZER: whole(engine.state())}
        with engine.average.in_place():
            expected[AVERAGE] = whole(engine.weights())
        for background, folder in folders.items():
            saving = CheckpointSettings(background=background)
            with closing(CheckpointManager(folder, engine, saving, world, print)) as manager:
                manager.save(TrainState(step=2), required=True)
    at_once, later = ({file.name: file for file in folder.glob("step_*/*")} for folder in folders.values())
    found = {kind: stored_tensors(folders[False] / "step_00000002", kind) for kind in expected}
    return {
        "files": {file.name: file.stat().st_size for file in at_once.values()},
        "names": all(found[kind].keys() == expected[kind].keys() for kind in expected),
        "numbers": all(
            torch.equal(found[kind][name], tensor) for kind in expected for name, tensor in expected[kind].items()
        ),
        "differ": not torch.equal(*(next(iter(expected[kind].values())) for kind in (WEIGHTS, AVERAGE))),
        "background": {name: file.read_bytes() for name, file in at_once.items()}
        == {name: file.read_bytes() for name, file in later.items()},
        "largest": max(tensor.nbytes for of_kind in expected.values() for tensor in of_kind.values()),
    }


answers = {}
for job in json.loads(Path(sys.argv[1]).read_text()):
    os.environ["MASTER_PORT"] = str(job["port"])
    answers[job["name"]] = save_and_compare(job["name"], job["set"])
if find_world().is_main:
    Path(sys.argv[2]).write_text(json.dumps(answers))
