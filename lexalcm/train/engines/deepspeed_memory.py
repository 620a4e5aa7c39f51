"""What DeepSpeed's stages take in memory, before anything is allocated.

T trained parameters of P, N processes, e bytes of a number in the run's precision (2 in bf16). Bytes a process:

| stage | weights | gradients | AdamW | beside |
|---|---|---|---|---|
| 0, fp32 | 4 P | 4 T | 8 T | gradients on their way, after the backward pass |
| 0, bf16 | 2 P | 2 T | 12 T | the same, and float32 gradients in an update |
| 1 | e P | e T | 12 T/N | a bucket of gradients; in an update 4 T/N in fp32, e T/N + 4 T/N in bf16 |
| 2 | e P | e T/N | 12 T/N | four buckets; the same |
| 3 | e P/N | e T/N | 12 T/N | and gathered weights, up to a billion; in an update 2 e T/N more |

In a step of one micro-batch, gradients of stages 0 and 1 need not be there when activations are most.

DeepSpeed keeps float32 weights beside its own from stage 1 on, in float32 too. With offloading, the optimizer's part
(stage 3: and the weights') is in the CPU's memory or on NVMe. The terms for buckets and updates were read off DeepSpeed
0.19 at work on a CPU.
"""

from collections.abc import Callable
from math import ceil

from lexalcm.train.engines.deepspeed_config import ZERO_STAGES, bucket_size, layout_name, swap_buffer_size
from lexalcm.train.memory.layout import OFFLOADS_TO, Layout, MemoryInputs, OffloadsTo, PlannedMemory

BUCKET = 500_000_000
"""Numbers that DeepSpeed sends together where its file names none: zero0.json."""

SUB_GROUP = 1_000_000_000
"""Numbers that stage 3 updates at a time, DeepSpeed's default."""

MAX_LIVE = 1_000_000_000
"""Numbers that stage 3 keeps gathered, DeepSpeed's default."""

MAX_LIVE_OFFLOADED = 100_000_000
"""The same in our files that offload."""

SWAP_BUFFERS = 5
"""That DeepSpeed keeps for weights on NVMe, its default."""

WITHOUT_A_FILE = {"zero1_offload", "zero1_nvme", "zero2_nvme"}
"""Layouts that no file in configs/ asks for."""


def _stage_0(training: MemoryInputs) -> PlannedMemory:
    sizes, number = training.sizes, training.number
    trained = sizes.trained
    message = number * min(trained, BUCKET)
    masters = 0 if number == 4 else 4 * trained
    return PlannedMemory(
        number * sizes.parameters,
        number * trained,
        masters + 8 * trained,
        training.average(1),
        step_buffers=message + (0 if number == 4 else 4 * trained),
    )


def _stage(stage: int, offloads_to: OffloadsTo) -> Callable[[MemoryInputs], PlannedMemory]:
    """What stages 1 to 3 take; the optimizer is offloaded, and by stage 3 the weights too."""

    def planned(training: MemoryInputs) -> PlannedMemory:
        sizes, processes, number, once = training.sizes, training.processes, training.number, training.once
        share = ceil(sizes.trained / processes)
        bucket = number * bucket_size(sizes.width)
        average = training.average(processes)
        weights = number * (ceil(sizes.parameters / processes) if stage == 3 else sizes.parameters)
        gradients = number * (sizes.trained if stage == 1 else share)
        masters = 12 * share
        buffers = (1 if stage == 1 else 4) * bucket
        if offloads_to:
            buffers += number * sizes.largest  # a gradient on its way
        elif stage == 3 or (stage == 2 and not once):
            buffers += number * share  # a micro-batch's gradient beside the sum of those before
        updating = min(share, SUB_GROUP) if stage == 3 else share
        step = updating * (4 if number == 4 else 6)
        if stage == 1:
            step += bucket if number == 4 else -number * (sizes.trained - share)  # in bf16 the others' shares have gone
        if stage == 3:  # gathered weights, which stay for the next use, and those fetched ahead
            live = MAX_LIVE_OFFLOADED if offloads_to else MAX_LIVE
            gathered = number * min(sizes.parameters, max(live, sizes.largest_layer))
            buffers += gathered
            step += gathered + 2 * number * updating
        if not offloads_to:
            return PlannedMemory(weights, gradients, masters, average, buffers, max(0, step))
        cpu = 4 * share + (0 if once else number * share) + average  # the gradients that update
        nvme = 0
        if offloads_to == "cpu":
            cpu += masters
        else:
            nvme += masters + 4 * share
            cpu += 4 * 4 * min(share, SUB_GROUP)  # one group's state, read for its update
        if stage == 3 and offloads_to == "cpu":
            cpu, weights = cpu + weights, 0
        elif stage == 3:
            cpu, nvme, weights = cpu + SWAP_BUFFERS * number * swap_buffer_size(sizes.width), nvme + weights, 0
        return PlannedMemory(weights, 0, 0, 0, buffers, 0, cpu, nvme)

    return planned


def _layout(stage: int, offloads_to: OffloadsTo) -> Layout:
    name = layout_name(stage, offloads_to)
    return Layout(
        options=f"--deepspeed configs/{name}.json",
        memory=_stage(stage, offloads_to) if stage else _stage_0,
        shards=stage,
        offloads_to=offloads_to,
        gradients_appear=stage < 2 and not offloads_to,
        compiles=stage < 3,  # which gathers weights inside the layers
        listed_from=None if name in WITHOUT_A_FILE else 1,
    )


LAYOUTS = {
    layout_name(stage, place): _layout(stage, place)
    for place in OFFLOADS_TO
    for stage in ZERO_STAGES
    if stage or not place
}
"""What a DeepSpeed file can ask for, by `DeepSpeedSetup.layout`."""
