"""How a codec is run: where, in which precision, in batches of what size, and how text is decoded.

None of this belongs to the codec itself: embeddings made on another device or in another batch are the same up to
rounding, so that a data set and a model do not note it. A codec that runs in one way only refuses such options.
"""

from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from lexalcm.config import PositiveInt, Settings
from lexalcm.errors import CodecError
from lexalcm.option import Option

if TYPE_CHECKING:  # commands that only read what a data set notes start without torch
    import torch

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""What torch calls the number types."""


_option = partial(Option, panel="Codec")


class DecodingOptions(Settings):
    """How a codec that writes its sentences searches for them; named and meant as in Transformers' `generate`."""

    beam: Annotated[PositiveInt, _option()] = 5
    """Beam size of decoding; 1 is greedy."""
    max_tokens: Annotated[int, Field(ge=4), _option()] = 256  # a sentence's start, language and end are counted
    """Most tokens in a decoded sentence."""
    repetition_penalty: Annotated[float, Field(gt=0), _option()] = 1.0
    """Above 1, repeated tokens are penalized."""


class CodecOptions(Settings):
    """How a codec is run on this machine."""

    device: Annotated[str | None, _option(("--codec-device",), metavar="DEVICE", default="a GPU")] = None
    """Where the codec computes: cpu, cuda, cuda:1."""
    dtype: Annotated[Literal["auto", "fp32", "fp16", "bf16"], _option(("--codec-dtype",), metavar="TYPE")] = "auto"
    """Its number type, auto being fp16 on a GPU."""
    batch: Annotated[PositiveInt | None, _option(("--codec-batch",), metavar="TOKENS", default="by device")] = None
    """Tokens embedded, or decoded with all beams, at once."""
    decoding: DecodingOptions = DecodingOptions()

    def chosen(self) -> list[str]:
        """Names of the options that are not as they are by default."""
        own = self.model_dump(exclude_defaults=True, exclude={"decoding"})
        return [*own, *self.decoding.model_dump(exclude_defaults=True)]

    def refuse(self, codec: str) -> None:
        """Make sure that nothing is asked of a codec that runs in one way only.

        Raises:
            CodecError: something is.
        """
        if chosen := self.chosen():
            raise CodecError(f"the codec {codec} does not have the option {chosen[0]}: omit it")


class CodecChoice(Settings):
    """How the codec is run, and by which implementation; default: the one in the data set or model."""

    name: Annotated[str | None, _option(("--codec",), metavar="NAME")] = None
    """Another implementation of the codec, e.g. sonar-hf."""
    run: CodecOptions = CodecOptions()


def choose_dtype(name: str, device: "torch.device") -> "torch.dtype":
    """The number type of a name: `auto` is fp32 on a CPU and fp16 elsewhere, which keeps more digits than bf16."""
    import torch

    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.float16
    dtype: torch.dtype = getattr(torch, DTYPES[name])
    return dtype


def dtype_name(dtype: "torch.dtype") -> str:
    """What `choose_dtype` calls a number type."""
    return next(name for name, known in DTYPES.items() if str(dtype) == f"torch.{known}")
