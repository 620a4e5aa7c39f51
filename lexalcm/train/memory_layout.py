"""What each engine holds where: who shards weights, gradients and optimizer state, and what it takes besides.

T trained parameters of P, N processes, e bytes of a number in the run's precision (2 in bf16). Bytes a process:

| engine | weights | gradients | optimizer (AdamW) | beside |
|---|---|---|---|---|
| single | 4 P | 4 T | 8 T | autocast's bf16 copies of weights (among the activations) |
| ddp | 4 P | 4 T | 8 T | the same; with several micro-batches a step, their sum beside the buckets: 4 T |
| fsdp | 4 P/N | 4 T/N | 8 T/N | layers gathered in e, a layer's gradient on its way |
| ZeRO 0, fp32 | 4 P | 4 T | 8 T | gradients on their way, after the backward pass |
| ZeRO 0, bf16 | 2 P | 2 T | 12 T | the same, and float32 gradients in an update |
| ZeRO 1 | e P | e T | 12 T/N | a bucket of gradients; in an update 4 T/N in fp32, e T/N + 4 T/N in bf16 |
| ZeRO 2 | e P | e T/N | 12 T/N | four buckets; the same |
| ZeRO 3 | e P/N | e T/N | 12 T/N | and gathered weights, up to a billion; in an update 2 e T/N more |

In a step of one micro-batch, gradients of single, fsdp and ZeRO 0 and 1 need not be there when activations are most.

DeepSpeed keeps float32 weights beside its own from stage 1 on, in float32 too. With offloading, the optimizer's part
(fsdp, stage 3: and the weights') is in the CPU's memory or on NVMe. The terms for buckets and updates were read off
DeepSpeed 0.19 and FSDP2 at work on a CPU.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil, prod

from torch import nn

from lexalcm.model.config import ModelConfig
from lexalcm.model.create import meta_model
from lexalcm.model.lcm import LCM
from lexalcm.train.engines.deepspeed_config import bucket_size, swap_buffer_size
from lexalcm.train.layers import freeze
from lexalcm.train.optimizer import BITSANDBYTES_MINIMUM
from lexalcm.train.settings import TrainSettings

DEEPSPEED_BUCKET = 500_000_000
"""Numbers that DeepSpeed sends together where its file names none: zero0.json."""

SUB_GROUP = 1_000_000_000
"""Numbers that stage 3 updates at a time, DeepSpeed's default."""

MAX_LIVE = 1_000_000_000
"""Numbers that stage 3 keeps gathered, DeepSpeed's default."""

MAX_LIVE_OFFLOADED = 100_000_000
"""The same in our files that offload."""

SWAP_BUFFERS = 5
"""That DeepSpeed keeps for weights on NVMe, its default."""


@dataclass(frozen=True)
class Sizes:
    """Numbers in the parts of a model."""

    parameters: int
    trained: int
    state: int  # bytes of the optimizer's state, unsharded
    largest_layer: int
    outside_layers: int
    largest: int  # parameter
    width: int


@dataclass(frozen=True)
class Use:
    """Bytes that an engine holds for each process."""

    weights: int
    gradients: int
    optimizer: int
    average: int
    buffers: int = 0  # while a micro-batch is computed, beyond its activations
    step_buffers: int = 0  # while the optimizer updates, when there are no activations
    cpu: int = 0
    nvme: int = 0


UseOf = Callable[[Sizes, int, int, TrainSettings, bool], Use]
"""From sizes, processes, bytes of a number, settings, and whether a step is one micro-batch."""


@dataclass(frozen=True)
class Layout:
    """An engine, or one of DeepSpeed's stages."""

    name: str
    use: UseOf
    casts_weights: bool = True  # in bf16, weights are bf16 when they multiply; else autocast makes copies
    shards: bool = True
    offloads: bool = False
    gradients_appear: bool = False  # one by one in a step's only backward pass; else all have their place before
    listed: bool = True  # in a plan: there is a file of it in configs/

    @property
    def compiles(self) -> bool:
        """Whether its layers may be compiled; stage 3 gathers weights inside them."""
        return not self.name.startswith("zero3")


def model_sizes(model: ModelConfig, settings: TrainSettings) -> Sizes:
    """Count a model's parameters without allocating them."""
    lcm = meta_model(model)
    freeze(lcm, settings.freeze)
    every = list(lcm.parameters())
    layers = [sum(p.numel() for p in layer.parameters()) for layer in lcm.blocks()]
    parameters = sum(p.numel() for p in every)
    return Sizes(
        parameters=parameters,
        trained=sum(p.numel() for p in every if p.requires_grad),
        state=_state_bytes(lcm, settings.optimizer),
        largest_layer=max(layers),
        outside_layers=parameters - sum(layers),
        largest=max(p.numel() for p in every),
        width=model.width,
    )


def _state_bytes(model: LCM, optimizer: str) -> int:
    """Bytes of an optimizer's state; see `lexalcm.train.optimizer`."""
    in_layers = {id(p) for layer in model.blocks() for p in layer.parameters()}

    def of(parameter: nn.Parameter) -> int:
        size = parameter.numel()
        if optimizer == "adafactor":
            rows, columns = prod(parameter.shape[:-1]), prod((*parameter.shape[:-2], *parameter.shape[-1:]))
            return 4 * (rows + columns) if parameter.ndim >= 2 else 4 * size
        if optimizer == "adamw8bit" and size >= BITSANDBYTES_MINIMUM:
            return 2 * size + 2 * 4 * ceil(size / 256)  # and the largest number of each 256
        if optimizer == "muon" and parameter.ndim == 2 and id(parameter) in in_layers:
            return 4 * size
        return 8 * size

    return sum(of(parameter) for parameter in model.parameters() if parameter.requires_grad)


def _average(sizes: Sizes, processes: int, settings: TrainSettings) -> int:
    return 0 if settings.ema.decay is None else 4 * ceil(sizes.trained / processes)


def _whole(sizes: Sizes, processes: int, number: int, settings: TrainSettings, once: bool) -> Use:
    # Adafactor and Muon compute an update in a few matrices of its size, one parameter at a time.
    step = 0 if settings.optimizer == "adamw" else 4 * 3 * sizes.largest
    average = _average(sizes, 1, settings)
    return Use(4 * sizes.parameters, 4 * sizes.trained, sizes.state, average, step_buffers=step)


def _ddp(sizes: Sizes, processes: int, number: int, settings: TrainSettings, once: bool) -> Use:
    use = _whole(sizes, processes, number, settings, once)
    # Buckets stay. A sum over micro-batches is beside them until the last one, as are the first gradients of all.
    buckets = 4 * sizes.trained
    return replace(use, buffers=0 if once else buckets, step_buffers=max(buckets, use.step_buffers))


def _fsdp(sizes: Sizes, processes: int, number: int, settings: TrainSettings, once: bool) -> Use:
    # Gathered: what is outside layers, a layer, the next one, and the message that it comes in; going back, a layer's
    # gradient and the float32 message that it leaves in, where gradients are added up with those of the layer before.
    layer, leaving = sizes.largest_layer, 1 if once else 2
    buffers = number * sizes.outside_layers + 3 * number * layer + leaving * (number + 4) * layer
    weights, gradients = 4 * ceil(sizes.parameters / processes), 4 * ceil(sizes.trained / processes)
    return Use(weights, gradients, ceil(sizes.state / processes), _average(sizes, processes, settings), buffers=buffers)


def _fsdp_offload(sizes: Sizes, processes: int, number: int, settings: TrainSettings, once: bool) -> Use:
    use = _fsdp(sizes, processes, number, settings, once)
    held = use.weights + use.gradients + use.optimizer + use.average
    return Use(0, 0, 0, 0, buffers=use.buffers, cpu=held)


def _zero0(sizes: Sizes, processes: int, number: int, settings: TrainSettings, once: bool) -> Use:
    trained = sizes.trained
    message = number * min(trained, DEEPSPEED_BUCKET)
    masters = 0 if number == 4 else 4 * trained
    return Use(
        number * sizes.parameters,
        number * trained,
        masters + 8 * trained,
        _average(sizes, 1, settings),
        step_buffers=message + (0 if number == 4 else 4 * trained),
    )


def _zero(stage: int, optimizer_on: str = "gpu", weights_on: str = "gpu") -> UseOf:
    def use(sizes: Sizes, processes: int, number: int, settings: TrainSettings, once: bool) -> Use:
        share = ceil(sizes.trained / processes)
        bucket = number * bucket_size(sizes.width)
        average = _average(sizes, processes, settings)
        weights = number * (ceil(sizes.parameters / processes) if stage == 3 else sizes.parameters)
        gradients = number * (sizes.trained if stage == 1 else share)
        masters = 12 * share
        buffers = (1 if stage == 1 else 4) * bucket
        if optimizer_on != "gpu":
            buffers += number * sizes.largest  # a gradient on its way
        elif stage == 3 or (stage == 2 and not once):
            buffers += number * share  # a micro-batch's gradient beside the sum of those before
        updating = min(share, SUB_GROUP) if stage == 3 else share
        step = updating * (4 if number == 4 else 6)
        if stage == 1:
            step += bucket if number == 4 else -number * (sizes.trained - share)  # in bf16 the others' shares have gone
        if stage == 3:  # gathered weights, which stay for the next use, and those fetched ahead
            live = MAX_LIVE if optimizer_on == "gpu" else MAX_LIVE_OFFLOADED
            gathered = number * min(sizes.parameters, max(live, sizes.largest_layer))
            buffers += gathered
            step += gathered + 2 * number * updating
        if optimizer_on == "gpu":
            return Use(weights, gradients, masters, average, buffers, max(0, step))
        cpu = 4 * share + (0 if once else number * share) + average  # the gradients that update
        nvme = 0
        if optimizer_on == "cpu":
            cpu += masters
        else:
            nvme += masters + 4 * share
            cpu += 4 * 4 * min(share, SUB_GROUP)  # one group's state, read for its update
        if weights_on == "cpu":
            cpu, weights = cpu + weights, 0
        elif weights_on == "nvme":
            cpu, nvme, weights = cpu + SWAP_BUFFERS * number * swap_buffer_size(sizes.width), nvme + weights, 0
        return Use(weights, 0, 0, 0, buffers, 0, cpu, nvme)

    return use


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout("single", _whole, casts_weights=False, shards=False, gradients_appear=True),
        Layout("ddp", _ddp, casts_weights=False, shards=False),
        Layout("zero0", _zero0, gradients_appear=True),
        Layout("zero1", _zero(1), gradients_appear=True),
        Layout("zero2", _zero(2)),
        Layout("fsdp", _fsdp, gradients_appear=True),
        Layout("zero3", _zero(3)),
        Layout("zero1_offload", _zero(1, "cpu"), offloads=True, listed=False),
        Layout("zero2_offload", _zero(2, "cpu"), offloads=True),
        Layout("fsdp_offload", _fsdp_offload, offloads=True),
        Layout("zero3_offload", _zero(3, "cpu", "cpu"), offloads=True),
        Layout("zero1_nvme", _zero(1, "nvme"), offloads=True, listed=False),
        Layout("zero2_nvme", _zero(2, "nvme"), offloads=True, listed=False),
        Layout("zero3_nvme", _zero(3, "nvme", "nvme"), offloads=True),
    )
}
"""By name, those with the fewest tricks first."""
