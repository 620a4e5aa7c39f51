"""Weights, gradients and optimizer state sharded over the processes: torch's FSDP2 (`fully_shard`, arXiv 2304.11277).

Decisions, and what they cost:

- Each layer is gathered when its turn comes, in bf16 where the run is in bf16, and let go after forward and backward
  pass; what is outside layers stays gathered in between. The float32 weights, gradients and state are only ever shards.
- Gradients are averaged in float32 after every micro-batch, so that a process never holds a whole one. That is one
  reduce-scatter for each micro-batch instead of one a step.
- With offloading, shards and optimizer live in the CPU's memory: a GPU holds one layer and the activations.
"""

from math import ceil
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from lexalcm.objective import Objective
from lexalcm.train.engines.gathering import gathered
from lexalcm.train.engines.protocol import Setup
from lexalcm.train.engines.single import SingleEngine
from lexalcm.train.memory.layout import Layout, MemoryInputs, PlannedMemory
from lexalcm.train.settings import TrainSettings


def sharded(training: MemoryInputs) -> PlannedMemory:
    """A share of what one process holds, in float32; beside it, layers gathered in the run's precision.

    These terms were read off FSDP2 at work on a CPU.
    """
    sizes, processes, number = training.sizes, training.processes, training.number
    # Gathered: what is outside layers, a layer, the next one, and the message that it comes in; going back, a layer's
    # gradient and the float32 message that it leaves in, where gradients are added up with those of the layer before.
    layer, leaving = sizes.largest_layer, 1 if training.once else 2
    buffers = number * sizes.outside_layers + 3 * number * layer + leaving * (number + 4) * layer
    weights, gradients = 4 * ceil(sizes.parameters / processes), 4 * ceil(sizes.trained / processes)
    return PlannedMemory(
        weights, gradients, ceil(sizes.state / processes), training.average(processes), buffers=buffers
    )


def offloaded(training: MemoryInputs) -> PlannedMemory:
    """The same with the shards in the CPU's memory."""
    use = sharded(training)
    held = use.weights + use.gradients + use.optimizer + use.average
    return PlannedMemory(0, 0, 0, 0, buffers=use.buffers, cpu=held)


class FSDPEngine(SingleEngine):
    """`SingleEngine` over shards; the process group must be there. Without a GPU there is nothing to offload."""

    name = "fsdp"
    optimizers: tuple[str, ...] = ("adamw",)  # whose update of a number needs no other number of its matrix
    one_process = False
    needs_process_group = True

    @classmethod
    def layouts(cls) -> dict[str, Layout]:
        """See `Engine.layouts`."""
        engine = f"--engine {cls.name}"
        offloading = f"{engine} --set train.fsdp.offload=true"
        return {
            cls.name: Layout(engine, sharded, shards=3, gradients_appear=True),
            f"{cls.name}_offload": Layout(offloading, offloaded, shards=3, offloads_to="cpu"),
        }

    @classmethod
    def auto_layout(cls, settings: TrainSettings) -> str:
        """See `Engine.auto_layout`."""
        return f"{cls.name}_offload" if settings.fsdp.offload else cls.name

    def __init__(self, objective: Objective, settings: TrainSettings, device: torch.device, setup: Setup) -> None:
        self._offload = settings.fsdp.offload and device.type == "cuda"
        super().__init__(objective, settings, device, setup)

    def _wrap(self, objective: Objective) -> nn.Module:
        mesh = init_device_mesh(self._device.type, (dist.get_world_size(),))
        # Inputs stay float32: normalization and noise are computed in it.
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if self.precision == "bf16" else None,
            reduce_dtype=torch.float32,
            cast_forward_inputs=False,
        )
        offload = CPUOffloadPolicy() if self._offload else OffloadPolicy()
        for part in (*objective.model.blocks(), objective):
            fully_shard(part, mesh=mesh, mp_policy=policy, offload_policy=offload)
        return objective

    def _mine(self, tensor: Tensor) -> Tensor:
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor

    def _share(self, whole: Tensor, like: Tensor) -> Tensor:
        if not isinstance(like, DTensor):
            return whole
        share = distribute_tensor(whole.to(self._device), like.device_mesh, like.placements, src_data_rank=None)
        return share.to_local()

    def _whole(self, tensor: Tensor, to: int | None) -> Tensor:
        if not isinstance(tensor, DTensor):
            return tensor
        there: Any = tensor.to(self._device)  # where shards can be exchanged, also those that are offloaded
        if to is None:
            return there.full_tensor()
        part = there.to_local().flatten()
        size = -(-tensor.shape[0] // dist.get_world_size()) * tensor.shape[1:].numel()
        return gathered(nn.functional.pad(part, (0, size - part.numel())), tensor.shape, to)

    def _over_processes(self, squared_norms: Tensor) -> Tensor:
        there = squared_norms.to(self._device, copy=True)
        dist.all_reduce(there)
        return there
