"""A model only works on the embeddings that it was made for: the one check, for training and evaluation alike."""

from pathlib import Path

from lexalcm.codec.base import STATED, CodecRecord
from lexalcm.errors import CodecError
from lexalcm.model.config import ModelConfig


def check_codec_match(config: ModelConfig, model: str | Path, record: CodecRecord, data: str | Path) -> None:
    """Make sure that a model and a data set use the same embeddings.

    Args:
        config: the model's; one that notes no codec fits any of its dimension.
        model: what to call the model.
        record: the data set's codec; one that is stated by name alone (`lcm data convert --codec sonar`) is believed.
        data: what to call the data set.

    Raises:
        CodecError: another dimension or another codec.
    """
    made_for = config.codec
    if config.dim != record.dim:
        mismatch = f"{config.dim}-dimensional concepts, {data} has {record.dim} dimensions"
    elif made_for is not None and made_for.name != record.name:
        mismatch = f"the codec {made_for.name}, {data} was made with {record.name}"
    elif made_for is not None and not _same_fingerprint(made_for, record):
        mismatch = f"another fit of the codec {made_for.name} than {data} was made with"
    else:
        return
    raise CodecError(
        f"{model} is for {mismatch}: choose another --data, "
        f"or make a model for it with lcm bootstrap --data {data} --out FOLDER"
    )


def _same_fingerprint(one: CodecRecord, other: CodecRecord) -> bool:
    return one.fingerprint == other.fingerprint or STATED in (one.fingerprint, other.fingerprint)
