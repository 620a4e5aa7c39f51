"""How documents become a data set, whoever does it."""

from typing import Annotated, Any

from pydantic import Field, model_validator
from typing_extensions import Self

from lexalcm import __version__
from lexalcm.config import NonNegativeInt, PositiveInt, Settings
from lexalcm.data.format.manifest import Dtype
from lexalcm.text.segment import MAX_CHARS
from lexalcm.text.segmenters import SegmenterName


class BuildSettings(Settings):
    """How documents become a data set."""

    codec: str = "lsa"  # its name, or the folder of a data set or a model whose codec it is
    codec_options: dict[str, Any] = Field(default_factory=dict)
    special: dict[str, str] = Field(default_factory=dict)  # further special concepts: name to sentence
    segmenter: SegmenterName = "sentencex"
    segmenter_options: dict[str, Any] = Field(default_factory=dict)
    max_chars: PositiveInt = MAX_CHARS  # longer sentences are cut
    min_chars: PositiveInt = 1  # shorter ones are joined with a neighbour
    join_lines: bool = False  # a single line end does not end a paragraph
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.1  # share of documents held out
    shard_size: PositiveInt = 256 * 1024**2  # bytes
    dtype: Dtype = "float16"
    text: bool = True  # store the sentences
    seed: NonNegativeInt | None = None  # of the codec's fit and of the normalizer's sample; None: their defaults

    @model_validator(mode="after")
    def _lengths_leave_room(self) -> Self:
        if self.min_chars > self.max_chars:
            raise ValueError(f"min_chars {self.min_chars} is above max_chars {self.max_chars}")
        return self


def build_record(settings: BuildSettings, source: dict[str, Any]) -> dict[str, Any]:
    """What the manifest says of how a data set was made."""
    return {
        "lexalcm": __version__,
        **settings.model_dump(mode="json"),
        "source": source,
    }
