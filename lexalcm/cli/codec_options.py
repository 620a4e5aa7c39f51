"""The options of every command that runs a codec, and how they become settings."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from lexalcm.cli.settings_options import FromSettings

if TYPE_CHECKING:
    from lexalcm.codec.options import CodecChoice, CodecOptions

Codec = Annotated[dict[str, Any], FromSettings("lexalcm.codec.options:CodecChoice")]
"""Of commands that may take another implementation of the codec than the recorded one."""
CodecRun = Annotated[dict[str, Any], FromSettings("lexalcm.codec.options:CodecOptions")]
EmbeddingRun = Annotated[dict[str, Any], FromSettings("lexalcm.codec.options:CodecOptions", without=("decoding",))]
"""Of commands that decode nothing."""


def codec_choice(given: Mapping[str, Any]) -> "CodecChoice":
    """Which codec is to be run, and how.

    Raises:
        ConfigError: an option of the wrong type.
    """
    from lexalcm.codec.options import CodecChoice
    from lexalcm.config import validate

    return validate(CodecChoice, given, prefix="codec")


def codec_run_options(given: Mapping[str, Any]) -> "CodecOptions":
    """How the codec is to be run. Errors as of `codec_choice`."""
    return codec_choice({"run": given}).run
