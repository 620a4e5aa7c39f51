"""Trains under configs/zero3_nvme.json and under plain PyTorch, and prints how far they are apart.

Arguments: a folder for what is swapped out, and `async_io` for DeepSpeed's own reading and writing, which must have
been compiled, or `stand-in` for Python's in its place.
"""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from lexalcm.config import load_settings
from lexalcm.data.batches.batch import Batch
from lexalcm.distributed.world import World
from lexalcm.model.config import ModelConfig
from lexalcm.model.create import create_model
from lexalcm.objective import create_objective
from lexalcm.train.engines.choose import choose_engine, start_engine
from lexalcm.train.engines.deepspeed import import_deepspeed
from lexalcm.train.engines.protocol import Engine
from lexalcm.train.settings import RunConfig

CPU = torch.device("cpu")
FILE = Path(__file__).parents[2] / "configs/zero3_nvme.json"
MODEL = ModelConfig(architecture="base", dim=8, width=528, num_heads=4, ffn_dim=520, num_layers=1)
"""Six matrices of more than 1 MiB each, one more than there are buffers: what is smaller, DeepSpeed does not swap."""


def batch(number: int) -> Batch:
    generator = torch.Generator().manual_seed(number)
    positions = torch.arange(16).expand(2, 16).contiguous()
    ones = torch.ones(2, 16, dtype=torch.bool)
    return Batch(torch.randn(2, 16, 8, generator=generator), torch.zeros_like(positions), positions, ones, number)


def start(*overrides: str) -> Engine:
    config = load_settings(RunConfig, None, ["data.micro_batch=2", "data.global_batch=2", *overrides])
    choice = choose_engine(config, World(), MODEL)
    return start_engine(choice, create_objective(create_model(MODEL, 0)), config.train, CPU)


def train(engine: Engine) -> tuple[list[Tensor], list[Tensor]]:
    for step in range(3):
        for left in (1, 0):
            torch.manual_seed(2 * step + left)
            engine.accumulate(batch(2 * step + left), 0.01, last=left == 0)
        assert engine.update(1e-3).applied
    return state_of(engine)


def state_of(engine: Engine) -> tuple[list[Tensor], list[Tensor]]:
    weights, moments = ([gather(0).clone() for gather in of.values()] for of in (engine.weights(), engine.state()))
    return weights, moments


def difference(names: list[str], some: list[Tensor], others: list[Tensor]) -> float:
    """The largest difference, relative to the largest number of its tensor.

    The bias of an attention's keys has no gradient; what AdamW makes of its rounding errors is left out.
    """
    return max(
        ((one - other).abs().max() / one.abs().max().clamp(min=1e-12)).item()
        for name, one, other in zip(names, some, others, strict=True)
        if "k_proj.bias" not in name
    )


folder, op = sys.argv[1:]
os.environ.update({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"})  # as a launcher says
import_deepspeed(CPU)
if op == "stand-in":
    import nvme_stand_in  # noqa: F401
weights, state = train(start("train.engine=single"))
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
engine = start(f"deepspeed={FILE}", f"train.nvme_path={folder}")
swapped = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
trained = train(engine)
names, moments = list(engine.shapes), list(engine.state_layout)
doubled = {name: 2 * weight for name, weight in zip(names, weights, strict=True)}
tripled = {name: 3 * moment for name, moment in zip(moments, state, strict=True)}
engine.restore(doubled.__getitem__, tripled.__getitem__, None, updates=3)
restored = state_of(engine)
engine.close()
result = {
    "swapped_bytes": swapped,
    "parameters": sum(weight.numel() for weight in weights),
    "trained": [difference(names, weights, trained[0]), difference(moments, state, trained[1])],
    "restored": [
        difference(names, list(doubled.values()), restored[0]),
        difference(moments, list(tripled.values()), restored[1]),
    ],
}
print(json.dumps(result))
