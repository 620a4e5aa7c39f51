"""What a training reads and how it is packed into batches: `data.*` of `lcm train`."""

from typing import Annotated, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from lexalcm.config import NonNegativeInt, PositiveFloat, PositiveInt, Settings


class SetSettings(Settings):
    """One data set of a mixture."""

    path: str
    """Folder or address of the data set."""
    weight: PositiveFloat | None = None
    """Share of the concepts of an epoch, relative to the other sets'; null: by size."""
    prefix: tuple[str, ...] = ()
    """Special concepts before every document: names such as start_of_text, or sentences."""
    suffix: tuple[str, ...] | None = None
    """Special concepts after every document; null: as data.end_of_text says."""
    max_length: Annotated[int, Field(ge=2)] | None = None
    """Most concepts in a window; null: as many as in a row."""
    languages: tuple[str, ...] | None = None
    """Read only documents in these languages; null: all."""
    pairs: bool | None = None
    """Count only the targets of pairs and conversations in the loss; null: where there are any."""


class DataSettings(Settings):
    """What a training reads and how it is packed into batches."""

    path: str = "data/sample"
    """Folder or address of the data set."""
    sets: tuple[SetSettings, ...] = ()
    """Several data sets, instead of path."""
    row_length: Annotated[int, Field(gt=0, le=2**20)] = 128
    """Concepts in a packed row."""
    micro_batch: Annotated[int, Field(gt=0, le=2**16)] = 4
    """Rows in a micro-batch, which one process computes at a time: lower it when memory runs out."""
    global_batch: PositiveInt = 1
    """Micro-batches in an optimizer step, over all processes."""
    end_of_text: bool = True
    """Append the codec's end-of-text concept to every document."""
    num_workers: NonNegativeInt = 0
    """Loader processes of each training process; 0: it reads its own batches."""
    on_bad_shard: Literal["error", "skip"] = "error"
    """A shard that is missing or damaged: stop, or skip its documents and count them."""
    check_hashes: bool = False
    """Check all of a shard when a process first reads from it, not only what is read."""

    @model_validator(mode="after")
    def _weights_all_or_none(self) -> Self:
        if len({one.weight is None for one in self.sets}) > 1:
            raise ValueError("some of data.sets have a weight and some have none: give all a weight, or none")
        return self

    @property
    def all_sets(self) -> tuple[SetSettings, ...]:
        """The data sets to read: `sets`, or the one at `path`."""
        return self.sets or (SetSettings(path=self.path),)

    @property
    def names(self) -> str:
        """Where the data sets are, for messages."""
        return ", ".join(one.path for one in self.all_sets)
