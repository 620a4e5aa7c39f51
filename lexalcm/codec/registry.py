"""Codecs by name, made, loaded and set up."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lexalcm.codec.base import Codec, CodecRecord
from lexalcm.codec.options import CodecOptions, Configurable
from lexalcm.errors import CodecError
from lexalcm.io.progress import Progress, silent
from lexalcm.registries import CODECS

CODEC_FOLDER = "codec"  # of a data set or a model: what an embedded codec saved


def answers_from_bank(name: str) -> bool:
    """Whether a codec decodes to the nearest of its own sentences, as far as is known here."""
    try:
        return bool(getattr(CODECS.load(name), "from_bank", False))
    except (CodecError, ImportError):
        return False


def fit_codec(name: str, documents: Iterable[tuple[str, Sequence[str]]], **options: Any) -> Codec:
    """Make the codec `name`; one that is fitted learns from the (language, sentences) documents."""
    return CODECS.load(name).create(documents, **options)


def load_codec(
    record: CodecRecord,
    folder: Path | str,
    *,
    name: str | None = None,
    options: CodecOptions | None = None,
    progress: Progress = silent,
) -> Codec:
    """Open the codec that a data set or a model was made with.

    Args:
        record: from the manifest or the model's config.
        folder: their `codec/` folder.
        name: another implementation of the same codec, e.g. `"sonar-hf"` of `"sonar"`.
        options: how to run it, see `configure_codec`.
        progress: opens reports of downloads.

    Raises:
        CodecError: unknown codec, missing or damaged files, another fingerprint, or an option it does not have.
    """
    codec = CODECS.load(name or record.name).load(record, Path(folder))
    configure_codec(codec, options or CodecOptions(), progress)
    return codec


def configure_codec(codec: Codec, options: CodecOptions, progress: Progress = silent) -> None:
    """Run a codec on a device, in a number type, in batches of a size, with a way to decode.

    Raises:
        CodecError: it runs in one way only, and another was asked for.
    """
    if isinstance(codec, Configurable):
        codec.configure(options, progress)
    else:
        refuse_choices(codec.record().name, options)


def refuse_choices(codec: str, options: CodecOptions) -> None:
    """Make sure that nothing is asked of a codec that runs in one way only.

    Raises:
        CodecError: something is.
    """
    if chosen := options.chosen():
        raise CodecError(f"the codec {codec} has no choice of {chosen[0]}: leave that option away")
