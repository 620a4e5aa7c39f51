"""Time training steps: forward, backward, clipping by norm, AdamW.

    python -m tools.bench_train_step
    python -m tools.bench_train_step --device cuda --precision bf16 --compile --preset two-tower-1.6b --length 512

Without a preset it is a fixed two-tower model of 50M parameters. The last line is one JSON object: parameters, median
seconds a step, concepts a second, and the machine's own rate of matrix products in the same precision, measured before
and after each step. `concepts_per_gflop` is concepts a second over that rate in GFLOP/s, taken step by step and then
the median, so that it compares machines and times of the day. `mfu` is the share of that rate which the multiplications
that the design needs (`lexalcm.model.flops`) come to.
"""

import argparse
import json
import statistics
import sys
from itertools import pairwise

import torch

from lexalcm.errors import LexaError
from lexalcm.model.config import ModelConfig
from lexalcm.model.create import create_model
from lexalcm.model.flops import training_flops
from lexalcm.model.presets import PUBLISHED_DIM, preset
from lexalcm.objective import create_objective
from lexalcm.train.memory.allocator import keep_freed_memory
from tools.matrix_rate import matrix_rate, now

FIXED = ModelConfig(
    architecture="two-tower",
    dim=PUBLISHED_DIM,
    width=512,
    num_heads=8,
    ffn_dim=1536,
    context_layers=3,
    num_layers=6,
    dropout=0.1,
)
RATE_SIZE = {"cpu": 1024, "cuda": 8192}


def main() -> int:
    """Measure, print; the exit code."""
    parser = argparse.ArgumentParser(description="Time training steps of a model.")
    parser.add_argument("--preset", help="a preset of `lcm bootstrap --list`; default: a fixed model of 50M parameters")
    parser.add_argument("--rows", type=int, default=16, help="rows in a batch")
    parser.add_argument("--length", type=int, default=64, help="concepts in a row")
    parser.add_argument("--documents", type=int, default=1, help="documents in a row, of equal length")
    parser.add_argument("--steps", type=int, default=16, help="steps measured, after two to warm up")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="bf16: autocast, weights float32")
    parser.add_argument("--compile", action="store_true", help="compile the model's layers with torch.compile")
    arguments = parser.parse_args()
    try:
        config = preset(arguments.preset, PUBLISHED_DIM) if arguments.preset else FIXED
    except LexaError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps(measure(config, arguments)))
    return 0


def measure(config: ModelConfig, arguments: argparse.Namespace) -> dict[str, object]:
    """Time steps of a new model on random rows; the line that is printed."""
    device = torch.device(arguments.device)
    dtype = torch.bfloat16 if arguments.precision == "bf16" else torch.float32
    if device.type == "cpu":
        keep_freed_memory()
    model = create_model(config, seed=0)
    objective = create_objective(model).to(device).train()
    if arguments.compile:
        for block in model.blocks():
            block.compile()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    batch = _rows(config.dim, arguments, device)

    def step() -> None:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = objective(**batch)
        (loss.sum / loss.count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    step()
    step()
    size = RATE_SIZE[device.type]
    seconds, rates = [], [matrix_rate(device, dtype, size)]
    for _ in range(arguments.steps):
        began = now(device)
        step()
        seconds.append(now(device) - began)
        rates.append(matrix_rate(device, dtype, size))
    concepts = arguments.rows * arguments.length
    flops = training_flops(config, concepts, arguments.length / arguments.documents)
    pairs = [(s, statistics.mean(around)) for s, around in zip(seconds, pairwise(rates), strict=True)]
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "rows": arguments.rows,
        "length": arguments.length,
        "seconds": round(statistics.median(seconds), 4),
        "concepts_per_s": round(concepts / statistics.median(seconds), 1),
        "matrix_gflops": round(statistics.median(rates) / 1e9, 1),
        "concepts_per_gflop": round(statistics.median(concepts / s / (rate / 1e9) for s, rate in pairs), 3),
        "mfu": round(statistics.median(flops / s / rate for s, rate in pairs), 3),
        "peak_memory_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2) if device.type == "cuda" else None,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads",
        "precision": arguments.precision,
        "compiled": arguments.compile,
        "torch": torch.__version__,
    }


def _rows(dim: int, arguments: argparse.Namespace, device: torch.device) -> dict[str, torch.Tensor]:
    rows, length = arguments.rows, arguments.length
    place = torch.arange(length).expand(rows, -1)
    documents = place * arguments.documents // length
    positions = place - (documents * length + arguments.documents - 1) // arguments.documents
    batch = {
        "embeddings": torch.randn(rows, length, dim, generator=torch.Generator().manual_seed(0)),
        "documents": documents,
        "positions": positions,
        "targets": positions > 0,
    }
    return {name: tensor.to(device) for name, tensor in batch.items()}


if __name__ == "__main__":
    sys.exit(main())
