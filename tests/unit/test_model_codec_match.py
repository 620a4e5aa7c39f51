"""Which data a model may be used with."""

import pytest
from tiny_models import CONFIGS, DIM

from lexalcm.codec.base import CodecRecord
from lexalcm.errors import CodecError
from lexalcm.model.config import ModelConfig
from lexalcm.model.storage.codec_match import check_codec_match

TRUE, OTHER = "a" * 64, "b" * 64


def model_for(fingerprint: str, name: str = "sonar") -> ModelConfig:
    config = CONFIGS["base"]
    return config.model_copy(update={"codec": CodecRecord(name=name, dim=DIM, fingerprint=fingerprint)})


@pytest.mark.parametrize(("model", "data"), [(TRUE, TRUE), (TRUE, "stated"), ("stated", TRUE), ("stated", "stated")])
def test_embeddings_of_a_codec_known_by_name_alone_are_believed(model: str, data: str) -> None:
    check_codec_match(model_for(model), "m", CodecRecord(name="sonar", dim=DIM, fingerprint=data), "d")


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (CodecRecord(name="sonar", dim=DIM, fingerprint=OTHER), "another fit of the codec sonar"),
        (CodecRecord(name="lsa", dim=DIM, fingerprint="stated"), "the codec sonar, d was made with lsa"),
        (CodecRecord(name="sonar", dim=8, fingerprint="stated"), "6-dimensional concepts, d has 8"),
    ],
)
def test_other_embeddings_are_refused(record: CodecRecord, reason: str) -> None:
    with pytest.raises(CodecError, match=reason):
        check_codec_match(model_for(TRUE), "m", record, "d")
