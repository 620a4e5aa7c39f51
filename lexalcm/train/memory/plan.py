"""What a training takes in memory under every engine, before anything is allocated.

Weights, gradients and optimizer state follow from the parameters' number and from who shards what; activations are
counted by `memory.activations`. What the engines take besides (`buffers`) is said by their layouts.

A GPU's memory is not all for tensors: CUDA's own context and kernels take most of a GiB, and the allocator loses a few
percent to gaps. `usable` takes both off.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from lexalcm.model.config import ModelConfig
from lexalcm.registries import ENGINES
from lexalcm.train.engines.protocol import Engine
from lexalcm.train.layers import would_compile
from lexalcm.train.memory.activations import Activations, activations
from lexalcm.train.memory.layout import Layout, MemoryInputs, Sizes, model_sizes
from lexalcm.train.settings import RunConfig

CONTEXT = 768 * 2**20
"""Bytes of a GPU that are never tensors': CUDA's context, kernels, NCCL."""

GAPS = 0.05
"""Share of the rest that the allocator loses."""

MAX_MICRO_BATCH = 4096


@dataclass(frozen=True)
class MemoryEstimate:
    """What one configuration takes, in bytes for each process (GPU), at the peak of a step."""

    engine: str  # one of its `layouts`
    checkpointing: str
    compiled: bool  # the layers
    weights: int
    gradients: int
    optimizer: int  # with float32 weights beside bf16 ones
    average: int
    activations: int  # what the peak has beyond all the others
    buffers: int
    total: int
    cpu: int  # of the machine's memory, for each of its processes
    nvme: int
    largest_micro_batch: int | None  # rows; none: no limit was given, or not even one fits
    fits: bool | None  # none: no limit was given


@dataclass(frozen=True)
class MemoryPlan:
    """Every configuration's estimate, those to try first at the front."""

    parameters: int
    processes: int
    precision: str
    micro_batch: int
    row_length: int
    limit: int | None
    estimates: list[MemoryEstimate]

    @property
    def best(self) -> MemoryEstimate | None:
        """The first that fits."""
        return next((estimate for estimate in self.estimates if estimate.fits), None)


def layouts() -> dict[str, tuple[type[Engine], Layout]]:
    """Every engine's ways to train, by name, the simplest first."""
    found = {
        name: (engine, layout) for engine in ENGINES.load_all().values() for name, layout in engine.layouts().items()
    }
    return dict(sorted(found.items(), key=lambda item: item[1][1].complexity))


def usable(memory: int) -> int:
    """Bytes of a GPU's memory that tensors can have."""
    return int(max(0, memory - CONTEXT) * (1 - GAPS))


def plan_memory(
    config: RunConfig,
    model: ModelConfig,
    *,
    processes: int,
    precision: str,
    device_type: str = "cuda",
    memory: int | None = None,
    engines: tuple[str, ...] | None = None,
    checkpointing: tuple[str, ...] | None = None,
) -> MemoryPlan:
    """Count what a training takes.

    Args:
        config: the settings.
        model: the model's sizes.
        processes: of the run, one a GPU.
        precision: `fp32` or `bf16`.
        device_type: `cuda`, or `cpu` for what a CPU keeps instead.
        memory: bytes of a GPU, to say what fits; none: nothing is said.
        engines: names of `layouts()`; none: all that make sense for so many processes and the optimizer.
        checkpointing: choices to compare; none: `none`, `full` and what the settings say.

    Returns:
        The estimates, the simplest first: without recomputing and offloading, then recomputing, then
        offloading.
    """
    sizes = model_sizes(model, config.train)
    chosen = checkpointing or tuple(dict.fromkeys(("none", config.train.activation_checkpointing, "full")))
    known = layouts()
    names = engines or tuple(name for name, one in known.items() if _is_listed(*one, config, processes))
    estimates = [
        _estimate(name, known[name][1], choice, config, model, sizes, processes, precision, device_type, memory)
        for offloading in (False, True)
        for choice in chosen
        for name in names
        if bool(known[name][1].offloads_to) == offloading
    ]
    data = config.data
    return MemoryPlan(sizes.parameters, processes, precision, data.micro_batch, data.row_length, memory, estimates)


def _is_listed(engine: type[Engine], layout: Layout, config: RunConfig, processes: int) -> bool:
    if layout.listed_from is None or processes < layout.listed_from:
        return False
    return (processes == 1 or not engine.one_process) and config.train.optimizer in engine.optimizers


def _estimate(
    name: str,
    layout: Layout,
    checkpointing: str,
    config: RunConfig,
    model: ModelConfig,
    sizes: Sizes,
    processes: int,
    precision: str,
    device_type: str,
    memory: int | None,
) -> MemoryEstimate:
    data = config.data
    kind = "bf16-weights" if precision == "bf16" and layout.casts_weights else precision
    compiled = layout.compiles and would_compile(config.train, model, device_type)
    shape = (data.micro_batch, data.row_length)
    acts = activations(model, config.train.objective, *shape, device_type, kind, checkpointing, compiled=compiled)
    once = data.global_batch <= processes  # a step is one micro-batch, and its gradients need not be there before
    planned = layout.memory(
        MemoryInputs(sizes, config.train, processes, number=2 if precision == "bf16" else 4, once=once)
    )
    held = planned.weights + planned.gradients + planned.optimizer + planned.average
    beyond = _beyond(acts, planned.gradients, appear=once and layout.gradients_appear)

    def total(rows: int) -> int:
        return round(held + max(beyond(rows) + planned.buffers, planned.step_buffers))

    activation_bytes = round(beyond(data.micro_batch))
    whole = total(data.micro_batch)
    limit = None if memory is None else usable(memory)
    return MemoryEstimate(
        engine=name,
        checkpointing=checkpointing,
        compiled=compiled,
        weights=planned.weights,
        gradients=planned.gradients,
        optimizer=planned.optimizer,
        average=planned.average,
        activations=activation_bytes,
        buffers=whole - held - activation_bytes,
        total=whole,
        cpu=planned.cpu,
        nvme=planned.nvme,
        largest_micro_batch=None if limit is None else _largest(total, limit),
        fits=None if limit is None else whole <= limit,
    )


def _beyond(acts: Activations, gradients: int, *, appear: bool) -> Callable[[int], float]:
    """What a micro-batch of so many rows takes beyond what is held, gradients included.

    Where gradients appear one after the other in the backward pass, they need not be there at its beginning.
    """
    if not appear:
        return acts.peak.at
    return lambda rows: max(acts.peak.at(rows) - gradients, acts.last.at(rows))


def _largest(total: Callable[[int], int], limit: int) -> int | None:
    low, high = 0, MAX_MICRO_BATCH
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if total(middle) <= limit else (low, middle - 1)
    return low or None


def gpu_memory(device: torch.device | None = None) -> int | None:
    """Bytes of a GPU's memory, of this machine's first one where none is named; none: there is no GPU."""
    if device is None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu", 0)
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
