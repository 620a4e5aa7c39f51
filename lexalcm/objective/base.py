"""What a training makes small: a model, and what its predictions are compared with.

An objective is what engines wrap (DDP, FSDP and DeepSpeed hook into its `forward`), and all that the trainer knows. It
takes the fields of a batch by name, calls its model, and says what the targets come to; a new one is a class with one
method, `loss`. All its randomness comes from torch's default generator, which a trainer seeds for each micro-batch.

Parameters belong to the model: an objective has none to train, and it is in no file.

Shapes: B rows, L positions, D embedding dimension.
"""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import Self

from lexalcm.data.batches.batch import check_rows
from lexalcm.model.lcm import LCM


class Loss(NamedTuple):
    """The loss of a micro-batch before averaging, which needs the targets of the whole optimizer step.

    Attributes:
        sum: the loss added up over the targets, float32 scalar: the one to differentiate.
        count: number of targets, int64 scalar.
        per_target: each position's loss, float32 [B, L], zero where there is no target; detached. (A compact list would
            have a size that depends on the data, which stalls a GPU.)
        timesteps: of the noise at each position, int64 [B, L]; None in an objective without noise.
    """

    sum: Tensor
    count: Tensor  # type: ignore[assignment]  # hides tuple.count
    per_target: Tensor
    timesteps: Tensor | None = None

    @classmethod
    def of(cls, loss_BL: Tensor, targets_BL: Tensor, timesteps_BL: Tensor | None = None) -> Self:
        """Add up the loss of the targets: each position's loss, and which positions are targets."""
        per_target = torch.where(targets_BL, loss_BL, 0.0)
        return cls(per_target.sum(), targets_BL.sum(), per_target.detach(), timesteps_BL)

    def scaled(self, scale: float) -> Tensor:
        """What is differentiated: a step's share, or NaN where the loss is not finite.

        An infinite loss can have a finite gradient; such a step must not be taken.
        """
        return self.sum * torch.where(self.sum.detach().isfinite(), scale, torch.nan)

    def detached(self) -> Self:
        """The loss without what it was computed from."""
        return self._replace(sum=self.sum.detach())


class Objective(nn.Module, ABC):
    """A model with a loss.

    Attributes:
        fields: what it needs of a batch, by the names of `lexalcm.data.batches.batch.Batch`: the arguments of `loss`.
            The embeddings are always among it.
        denoises: which models it trains: those that take noise away (`LCM.denoises`), or those that predict the next
            concept.
        timesteps: of the noise, which losses are also told apart by; None: no noise.
        precision: of matrix products, `fp32` or `bf16`; engines set it.
    """

    fields: ClassVar[tuple[str, ...]] = ("embeddings", "documents", "positions", "targets")
    denoises: ClassVar[bool] = False
    timesteps: int | None = None
    precision: str = "fp32"

    def __init__(self, model: LCM) -> None:
        super().__init__()
        self.model = model

    def forward(self, **tensors: Tensor) -> Loss:
        """The loss of packed rows.

        Autocast is switched on in here, because DeepSpeed switches off one that is around it.

        Args:
            tensors: the objective's `fields`, and what else its `loss` can be given.

        Raises:
            UserError: shapes that do not agree with each other or with the model, or types that are not those of
                `lexalcm.data.batches.batch.FIELDS`.
        """
        check_rows(self.model.config.dim, **{name: tensors[name] for name in self.fields})
        with self._autocast(tensors["embeddings"].device):
            return self.loss(**tensors)

    @abstractmethod
    def loss(self, *args: Any, **tensors: Any) -> Loss:
        """The loss of checked rows: one argument for each of `fields`, by name.

        Embeddings are in the codec's space, [B, L, D], any finite number on padding; the model's `normalizer` takes
        them to the space in which it predicts.
        """

    def _autocast(self, device: torch.device) -> AbstractContextManager[None]:
        """Multiply matrices in this precision; torch keeps norms, softmax and sums in float32."""
        return torch.autocast(device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()
