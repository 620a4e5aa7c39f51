"""A micro-batch of packed rows: its fields, and their way to the device that computes it.

A field is declared once, in `Batch`: its name, its type, whether it is a vector or one number at each position. From
there the copies to a GPU, the checks of a batch, objectives and the plan of memory know it; the loader fills it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated, Any, NamedTuple, get_type_hints

import torch
from torch import Tensor

from lexalcm.errors import UserError


class Field(NamedTuple):
    """What a tensor of packed rows is."""

    dtype: torch.dtype
    """On the device. Any other floating-point type will do in place of float32."""
    vectors: bool = False
    """[rows, length, dim]; else [rows, length]."""

    def shape(self, rows: int, length: int, dim: int) -> torch.Size:
        """Its shape in rows of concepts of a dimension."""
        return torch.Size((rows, length, dim) if self.vectors else (rows, length))

    def check(self, name: str, tensor: Tensor, embeddings: torch.Size) -> None:
        """Make sure that a tensor is this, beside embeddings of a shape; looks at no number, so that it costs nothing.

        Raises:
            UserError: another shape or type.
        """
        expected = self.shape(*embeddings)
        if tensor.shape != expected:
            raise UserError(f"{name}: shape {list(tensor.shape)}, expected {list(expected)}")
        if self.dtype.is_floating_point and tensor.is_floating_point():
            return
        if tensor.dtype != self.dtype:  # as an index, uint8 would be a mask
            raise UserError(f"{name}: type {tensor.dtype}, expected {self.dtype}")


class TransferredBatch(NamedTuple):
    """A micro-batch on a GPU, copied there on a stream of its own."""

    batch: "Batch"
    arrived: torch.cuda.Event

    def take(self, device: torch.device) -> "Batch":
        """The batch for the device's current stream, which waits for it; the CPU does not."""
        stream = torch.cuda.current_stream(device)
        stream.wait_event(self.arrived)
        for tensor in self.batch.tensors().values():
            tensor.record_stream(stream)
        return self.batch


@dataclass(frozen=True)
class Batch:
    """One micro-batch of packed rows. A field that a batch may lack is None where it does."""

    embeddings: Annotated[Tensor, Field(torch.float32, vectors=True)]
    """[rows, row_length, dim] as stored, float32 once moved by `to`; zeros where there is no concept."""
    documents: Annotated[Tensor, Field(torch.int64)]
    """int64 [rows, row_length]; 0, 1, 2, ... within the row, -1 where there is no concept."""
    positions: Annotated[Tensor, Field(torch.int64)]
    """int64 [rows, row_length]; counts from 0 in each document, 0 where there is no concept."""
    targets: Annotated[Tensor, Field(torch.bool)]
    """bool [rows, row_length]; where the loss counts: not a document's first concept, not special concepts before it,
    not the source of a pair, of a conversation only what an assistant says, and not where there is no concept."""
    number: int
    """Which micro-batch it is, counted from the start of training; seeds all that is random in it."""
    skipped: int = 0
    """Documents that were planned but lie in a bad shard; one cut into windows counts with that of its first target."""
    missing_targets: int = 0
    """Targets that were planned but lie in a bad shard."""
    transferred: TransferredBatch | None = None
    """The same on a GPU, if it has been sent ahead."""

    def tensors(self) -> dict[str, Tensor]:
        """The fields that it has, by name."""
        found = ((name, getattr(self, name)) for name in FIELDS)
        return {name: tensor for name, tensor in found if tensor is not None}

    def inputs(self, fields: Iterable[str]) -> dict[str, Tensor]:
        """Some of its fields by name: what an objective takes, see `lexalcm.objective.Objective.fields`.

        Raises:
            UserError: it has no such field.
        """
        tensors = self.tensors()
        missing = ", ".join(name for name in fields if name not in tensors)
        if missing:
            raise UserError(f"the objective needs {missing} of every batch, and this data has {', '.join(tensors)}")
        return {name: tensors[name] for name in fields}

    def to(self, device: torch.device | str) -> "Batch":
        """The batch on a device, in the types of `FIELDS`; does not wait for copies from pinned memory."""
        return self._replaced(
            (name, tensor.to(device, non_blocking=True).to(FIELDS[name].dtype))
            for name, tensor in self.tensors().items()
        )

    def on(self, device: torch.device) -> "Batch":
        """The batch on a device, where it may have been sent ahead."""
        return self.to(device) if self.transferred is None else self.transferred.take(device)

    def pin_memory(self) -> "Batch":
        """The batch in memory that a GPU copies from at full speed; the `DataLoader` calls it."""
        return self._replaced((name, tensor.pin_memory()) for name, tensor in self.tensors().items())

    def _replaced(self, tensors: Iterable[tuple[str, Tensor]]) -> "Batch":
        changes: dict[str, Any] = dict(tensors)
        return replace(self, **changes)


FIELDS: dict[str, Field] = {
    name: field
    for name, hint in get_type_hints(Batch, include_extras=True).items()
    for field in getattr(hint, "__metadata__", ())
}
"""A batch's fields by name, as `Batch` declares them."""


def check_rows(dim: int, embeddings: Tensor, **others: Tensor) -> None:
    """Make sure that a batch's tensors have the shapes and types of packed rows; looks at no number.

    Args:
        dim: of the model's concepts.
        embeddings: [rows, length, dim], floating-point.
        others: by the names of `FIELDS`.

    Raises:
        UserError: names the tensor that does not fit.
    """
    if embeddings.ndim != 3 or embeddings.shape[-1] != dim:
        raise UserError(f"embeddings: shape {list(embeddings.shape)}, expected [rows, length, {dim}]")
    if not embeddings.is_floating_point():
        raise UserError(f"embeddings: type {embeddings.dtype}, expected floating-point numbers")
    for name, tensor in others.items():
        FIELDS[name].check(name, tensor, embeddings.shape)
