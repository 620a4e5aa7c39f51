"""The options of every command that runs a codec, and how they become settings."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from lexalcm.cli.settings_options import FromSettings

if TYPE_CHECKING:
    from lexalcm.codec.options import CodecOptions

PANEL = "Codec"
"""Of the help: what it calls these options."""

CodecRun = Annotated[dict[str, Any], FromSettings("lexalcm.codec.options:CodecOptions")]
EmbeddingRun = Annotated[dict[str, Any], FromSettings("lexalcm.codec.options:CodecOptions", without=("decoding",))]
"""Of commands that decode nothing."""


def codec_run_options(given: Mapping[str, Any]) -> "CodecOptions":
    """How the codec is to be run.

    Raises:
        ConfigError: an option of the wrong type.
    """
    from lexalcm.codec.options import CodecOptions
    from lexalcm.config import validate

    return validate(CodecOptions, given, prefix="codec")
