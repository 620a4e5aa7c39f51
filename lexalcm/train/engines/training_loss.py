"""The model as engines wrap it: inputs in, loss out, multiplied in the run's precision."""

import torch
from torch import Tensor, nn

from lexalcm.data.loader import Batch
from lexalcm.model.lcm import Loss
from lexalcm.train.engines.precision import autocast


class TrainingLoss(nn.Module):
    """The model and its loss; autocast is switched on inside, because DeepSpeed switches off one that is around it."""

    def __init__(self, model: nn.Module, device: torch.device, precision: str) -> None:
        super().__init__()
        self.model = model
        self.device = device
        self.precision = precision

    def forward(self, **inputs: Tensor) -> Loss:
        """The loss of a micro-batch's inputs, which are on the device."""
        with autocast(self.device, self.precision):
            return self.model(**inputs)


def inputs_on(device: torch.device, batch: Batch) -> dict[str, Tensor]:
    """What a model takes of a micro-batch."""
    return batch.to(device).model_inputs() if batch.sent is None else batch.sent.take(device)


def scaled(loss: Loss, scale: float) -> Tensor:
    """What is differentiated: a step's share, or NaN where the loss is not finite.

    An infinite loss can have a finite gradient; such a step must not be taken.
    """
    return loss.sum * torch.where(loss.sum.detach().isfinite(), scale, torch.nan)


def detached(loss: Loss) -> Loss:
    """The loss without what it was computed from."""
    return loss._replace(sum=loss.sum.detach())
