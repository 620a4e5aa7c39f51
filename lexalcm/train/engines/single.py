"""One process, one device, plain PyTorch: the engine that the others are measured against.

DDP and FSDP are this engine with another wrapping of the objective and another place for a parameter's numbers.
What each says of itself is in the class methods that it overrides: in `layouts`, what it takes in memory.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from lexalcm.data.batches.batch import Batch
from lexalcm.distributed.world import World
from lexalcm.io.safetensors_writer import TensorSpec
from lexalcm.model.config import ModelConfig
from lexalcm.objective import Loss, Objective
from lexalcm.to_host import ToHost
from lexalcm.train.ema import MovingAverage
from lexalcm.train.engines.precision import chosen_precision
from lexalcm.train.engines.protocol import Gather, MemoryUse, ReadTensor, Setup, Update
from lexalcm.train.memory.layout import Layout, MemoryInputs, PlannedMemory
from lexalcm.train.optimizer import create_state, make_optimizers, set_learning_rate, state_tensors
from lexalcm.train.settings import RunConfig, TrainSettings

CLIP_EPS = 1e-6
"""Added to the norm by torch's own clipping, and by DeepSpeed's."""


def whole(training: MemoryInputs) -> PlannedMemory:
    """All in float32: 4 bytes of a weight and of a gradient, AdamW's 8; autocast's copies are among the activations."""
    sizes = training.sizes
    # Adafactor and Muon compute an update in a few matrices of its size, one parameter at a time.
    step = 0 if training.settings.optimizer == "adamw" else 4 * 3 * sizes.largest
    return PlannedMemory(4 * sizes.parameters, 4 * sizes.trained, sizes.state, training.average(1), step_buffers=step)


class SingleEngine:
    """One process, one device, plain PyTorch; bf16 is autocast over float32 weights."""

    name = "single"
    optimizers: tuple[str, ...] = ("adamw", "adafactor", "adamw8bit", "muon")
    one_process = True
    needs_process_group = False

    @classmethod
    def layouts(cls) -> dict[str, Layout]:
        """See `Engine.layouts`."""
        return {cls.name: Layout(f"--engine {cls.name}", whole, casts_weights=False, gradients_appear=True)}

    @classmethod
    def auto_layout(cls, settings: TrainSettings) -> str:
        """See `Engine.auto_layout`."""
        return cls.name

    @classmethod
    def requested_by(cls, config: RunConfig) -> str | None:
        """See `Engine.requested_by`."""
        return None

    @classmethod
    def prepare(cls, config: RunConfig, model: ModelConfig, world: World, best: str) -> Setup:
        """See `Engine.prepare`."""
        return Setup(chosen_precision(config.train, best), cls.auto_layout(config.train))

    def __init__(self, objective: Objective, settings: TrainSettings, device: torch.device, setup: Setup) -> None:
        self.precision = setup.precision
        self._device = device
        self._clip_norm = settings.clip_norm
        self._model = model = objective.model
        self._fields = objective.fields
        objective.precision = self.precision
        self._objective = self._wrap(objective)
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.shapes = {name: parameter.shape for name, parameter in self._parameters.items()}
        self._optimizers = make_optimizers(model, model.blocks(), settings)
        self._clips_itself = all(getattr(one, "_step_supports_amp_scaling", False) for one in self._optimizers)
        create_state(self._optimizers, updates=0)
        decay = settings.ema.decay
        self.average = None if decay is None else MovingAverage(list(map(self._mine, self._parameters.values())), decay)

    # What the engines of several processes do in another way

    def _wrap(self, objective: Objective) -> nn.Module:
        """Put the model where it belongs, and what shares its work out to processes around its objective."""
        return objective.to(self._device)

    def _before_the_last(self) -> AbstractContextManager[None]:
        """In force for a micro-batch after which there comes another one of the same step."""
        return nullcontext()

    def _mine(self, tensor: Tensor) -> Tensor:
        """The part of a parameter, gradient or state that this process holds; it shares its memory."""
        return tensor

    def _share(self, whole: Tensor, like: Tensor) -> Tensor:
        """The part of a whole tensor that belongs into `_mine(like)`."""
        return whole

    def _whole(self, tensor: Tensor, to: int | None) -> Tensor:
        """All of it, from all processes; see `Gather`."""
        return tensor

    def _over_processes(self, squared_norms: Tensor) -> Tensor:
        """Squared norms of what all processes hold, from those of what this one holds."""
        return squared_norms

    # Engine

    def accumulate(self, batch: Batch, scale: float, last: bool) -> Loss:
        """See `Engine.accumulate`."""
        self._objective.train()
        with nullcontext() if last else self._before_the_last():
            loss: Loss = self._objective(**batch.on(self._device).inputs(self._fields))
            loss.scaled(scale).backward()
        return loss.detached()

    def update(self, lr: float) -> Update:
        """See `Engine.update`."""
        gradients = {name: self._mine(p.grad) for name, p in self._parameters.items() if p.grad is not None}
        squared_norms = torch.stack(torch._foreach_norm([*gradients.values()])).double().square()
        norm_on_device = self._over_processes(squared_norms.sum()).sqrt()
        arriving = ToHost(norm_on_device)
        if self._clips_itself:  # before the norm is known here: the optimizer is launched while it travels
            self._step_scaled(norm_on_device, lr)
        norm = arriving.read().item()
        applied = norm < float("inf")  # also false for NaN
        norms: dict[str, float] = {}
        if applied:
            if not self._clips_itself:
                self._clip_and_step(list(gradients.values()), norm, lr)
            if self.average is not None:
                self.average.update()
        else:
            norms = dict(zip(gradients, self._over_processes(squared_norms).sqrt().tolist(), strict=True))
        for optimizer in self._optimizers:
            optimizer.zero_grad()
        return Update(norm, applied, norms)

    def _step_scaled(self, norm: Tensor, lr: float) -> None:
        """Update by fused optimizers, which clip while they read the gradients and leave all as it is for a bad norm.

        They know both as mixed precision's loss scale and overflow: gradients are divided by the one, and skipped for
        the other.
        """
        norm = norm.to(self._mine(next(iter(self._parameters.values()))).device)
        scale = ((norm + CLIP_EPS) / self._clip_norm).clamp(min=1).float()
        bad = norm.isfinite().logical_not().float()
        for optimizer in self._optimizers:
            set_learning_rate(optimizer, lr)
            optimizer.grad_scale, optimizer.found_inf = scale, bad  # type: ignore[attr-defined]
            optimizer.step()
            del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]

    def _clip_and_step(self, gradients: list[Tensor], norm: float, lr: float) -> None:
        factor = self._clip_norm / (norm + CLIP_EPS)
        if factor < 1:
            torch._foreach_mul_(gradients, factor)
        for optimizer in self._optimizers:
            set_learning_rate(optimizer, lr)
            optimizer.step()

    @torch.no_grad()
    def loss(self, batch: Batch) -> Loss:
        """See `Engine.loss`."""
        self._objective.eval()
        return self._objective(**batch.on(self._device).inputs(self._fields))

    def weights(self) -> Mapping[str, Gather]:
        """See `Engine.weights`."""
        return {name: partial(self._whole, parameter.detach()) for name, parameter in self._parameters.items()}

    @property
    def state_layout(self) -> dict[str, TensorSpec]:
        """See `Engine.state_layout`."""
        return {name: TensorSpec(tensor.shape, tensor.dtype) for name, tensor in self._state().items()}

    def state(self) -> Mapping[str, Gather]:
        """See `Engine.state`."""
        return {name: partial(self._whole, tensor) for name, tensor in self._state().items()}

    @torch.no_grad()
    def restore(self, weights: ReadTensor, state: ReadTensor, average: ReadTensor | None, updates: int) -> None:
        """See `Engine.restore`."""
        create_state(self._optimizers, updates)
        if self.average is not None:
            self._read(self._parameters, average or weights)
            self.average.restart(updates)
        self._read(self._parameters, weights)
        self._read(self._state(), state)

    def memory(self) -> MemoryUse:
        """See `Engine.memory`."""
        size = sum(self._mine(parameter).nbytes for parameter in self._model.parameters())
        trained = sum(self._mine(parameter).nbytes for parameter in self._parameters.values())
        state = sum(self._mine(tensor).nbytes for tensor in self._state().values())
        averaged = 0 if self.average is None else self.average.nbytes
        return MemoryUse(parameters=size, gradients=trained, optimizer=state + averaged)

    def close(self) -> None:
        """See `Engine.close`; nothing is held that outlives the object."""

    def _state(self) -> dict[str, Tensor]:
        """The optimizer's tensors by `parameter.tensor`, parameters in the model's order."""
        tensors = state_tensors(self._optimizers)
        return {
            f"{name}.{key}": tensor
            for name, parameter in self._parameters.items()
            for key, tensor in tensors[parameter].items()
        }

    def _read(self, tensors: dict[str, Tensor] | dict[str, nn.Parameter], read: ReadTensor) -> None:
        for name, tensor in tensors.items():
            self._mine(tensor).copy_(self._share(read(name), tensor))
