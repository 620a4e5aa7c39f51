"""How a data set is converted."""

from typing import Annotated

from pydantic import Field

from lexalcm.config import PositiveInt, Settings
from lexalcm.data.format.manifest import Dtype

TEXT_COLUMN = "text_sentences"
EMBEDDING_COLUMN = "text_sentences_sonar_emb"
ALL_COLUMNS = "all"
WRITER = b"lexalcm"
"""What the schema of a parquet file that this project wrote has among its metadata: its version."""


class ConvertSettings(Settings):
    """How a data set is converted."""

    codec: str = "sonar"  # that made the embeddings: its name, or the folder of a data set or a model that notes it
    fingerprint: str | None = None  # of a codec given by its name, if it is known
    dim: PositiveInt | None = None  # None: that of most of the first vectors
    text_column: str = TEXT_COLUMN
    embedding_column: str = EMBEDDING_COLUMN
    metadata: tuple[str, ...] = ()  # further columns to keep; `all` for every one
    member: str | None = None  # of a WebDataset: what the arrays' names end with, e.g. emb.npy
    lang: str = "eng_Latn"  # of documents that do not say theirs
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.1  # held out where the source does not say what is
    dtype: Dtype | None = None  # None: as stored in our own data sets, else float16
    text: bool = True  # keep the sentences
    shard_size: PositiveInt = 256 * 1024**2  # bytes
    keep_languages: tuple[str, ...] = ()  # none: all
    min_sentences: PositiveInt = 1
    max_sentences: PositiveInt | None = None
