"""One process of two: for each engine, the most bytes of tensors at a time in two steps, beside what the plan says.

memory_worker.py JOBS.json OUT.json     jobs are lists of settings; the first process writes the answers
"""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from allocated_memory import DIM, LENGTH, allocated_at_most, batch

from lexalcm.config import load_settings
from lexalcm.distributed.world import find_world, joined
from lexalcm.model.config import ModelConfig
from lexalcm.model.create import create_model
from lexalcm.objective import create_objective
from lexalcm.train.engines.choose import choose_engine, start_engine
from lexalcm.train.engines.protocol import Engine
from lexalcm.train.memory.plan import plan_memory
from lexalcm.train.settings import RunConfig

MODEL = ModelConfig(  # so large that DeepSpeed's smallest buckets hardly count
    architecture="two-tower", dim=DIM, width=256, num_heads=4, ffn_dim=768, num_layers=6, context_layers=4
)


def measure(overrides: list[str]) -> tuple[str, int, int]:
    config = load_settings(RunConfig, None, [f"data.row_length={LENGTH}", *overrides])
    world = find_world()
    choice = choose_engine(config, world, MODEL)
    name = choice.setup.layout
    with joined(world, process_group=choice.engine.needs_process_group, timeout=120):
        engines: list[Engine] = []

        def two_steps() -> None:
            engines.append(start_engine(choice, create_objective(create_model(MODEL, 0)), config.train, world.device))
            for _ in range(2):
                for left in reversed(range(config.data.global_batch // world.size)):
                    engines[0].accumulate(batch(config.data.micro_batch), 1.0, last=left == 0)
                engines[0].update(1e-3)

        most = torch.tensor([allocated_at_most(two_steps)])
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
        engines.pop().close()
    plan = plan_memory(
        config,
        MODEL,
        processes=world.size,
        precision=choice.setup.precision,
        device_type="cpu",
        engines=(name,),
        checkpointing=(config.train.activation_checkpointing,),
    )
    return name, plan.estimates[0].total, int(most)


answers = []
for job in json.loads(Path(sys.argv[1]).read_text()):
    os.environ["MASTER_PORT"] = str(job["port"])
    answers.append([job["name"], *measure(job["set"])])
if find_world().is_main:
    Path(sys.argv[2]).write_text(json.dumps(answers))
