"""One process, one device, plain PyTorch: the engine that the others are measured against."""

from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch
from torch import nn

from lexalcm.config import TrainSettings
from lexalcm.data.loader import Batch
from lexalcm.train.average import MovingAverage
from lexalcm.train.engines.precision import autocast
from lexalcm.train.engines.protocol import MemoryUse, ReadTensor, Update
from lexalcm.train.optimizer import MOMENTS, create_state, make_adamw, set_learning_rate


class SingleEngine:
    """The model on this process's device; bf16 is autocast over float32 weights."""

    name = "single"

    def __init__(self, model: nn.Module, settings: TrainSettings, device: torch.device, precision: str) -> None:
        self.model = model.to(device)
        self.precision = precision
        self._device = device
        self._clip_norm = settings.clip_norm
        self._optimizer = make_adamw(self.model, settings)
        self._parameters = dict(self.model.named_parameters())
        self.shapes = {name: parameter.shape for name, parameter in self._parameters.items()}
        create_state(self._optimizer, list(self._parameters.values()), updates=0)
        decay = settings.ema.decay
        self.average = None if decay is None else MovingAverage(list(self._parameters.values()), decay)

    def accumulate(self, batch: Batch, scale: float, last: bool) -> torch.Tensor:
        """See `Engine.accumulate`."""
        self.model.train()
        loss = self._summed_loss(batch)
        # An infinite loss can have a finite gradient; such a step must not be taken.
        (loss * torch.where(loss.detach().isfinite(), scale, torch.nan)).backward()
        return loss.detach()

    def update(self, lr: float) -> Update:
        """See `Engine.update`."""
        set_learning_rate(self._optimizer, lr)
        norm = nn.utils.clip_grad_norm_(self._parameters.values(), self._clip_norm).item()
        applied = norm < float("inf")  # also false for NaN
        if applied:
            self._optimizer.step()
            if self.average is not None:
                self.average.update()
        self._optimizer.zero_grad()
        return Update(norm, applied)

    @torch.no_grad()
    def loss(self, batch: Batch) -> torch.Tensor:
        """See `Engine.loss`."""
        self.model.eval()
        return self._summed_loss(batch)

    def weights(self) -> Iterator[torch.Tensor]:
        """See `Engine.weights`."""
        return (parameter.detach() for parameter in self._parameters.values())

    def moments(self) -> Iterator[torch.Tensor]:
        """See `Engine.moments`."""
        return (self._optimizer.state[p][moment] for p in self._parameters.values() for moment in MOMENTS)

    def averaged_weights(self) -> Iterator[torch.Tensor]:
        """See `Engine.averaged_weights`."""
        assert self.average is not None
        with self.average.in_place():
            yield from self.weights()

    @torch.no_grad()
    def restore(self, weights: ReadTensor, moments: ReadTensor, average: ReadTensor | None, updates: int) -> None:
        """See `Engine.restore`."""
        create_state(self._optimizer, list(self._parameters.values()), updates)
        if self.average is not None:
            for name, parameter in self._parameters.items():
                parameter.copy_((average or weights)(name))
            self.average.restart(updates)
        for name, parameter in self._parameters.items():
            parameter.copy_(weights(name))
            for moment in MOMENTS:
                self._optimizer.state[parameter][moment].copy_(moments(f"{name}.{moment}"))

    def memory(self) -> MemoryUse:
        """See `Engine.memory`."""
        size = sum(parameter.nbytes for parameter in self._parameters.values())
        averaged = 0 if self.average is None else self.average.nbytes
        return MemoryUse(parameters=size, gradients=size, optimizer=len(MOMENTS) * size + averaged)

    def close(self) -> None:
        """See `Engine.close`; nothing is held that outlives the object."""

    def _summed_loss(self, batch: Batch) -> torch.Tensor:
        with self._autocast():
            return self.model(**batch.to(self._device).model_inputs()).sum

    def _autocast(self) -> AbstractContextManager[None]:
        return autocast(self._device, self.precision)
