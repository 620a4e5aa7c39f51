"""Codecs by name, made, loaded and set up."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lexalcm.codec.base import Codec, CodecRecord
from lexalcm.codec.options import CodecOptions
from lexalcm.errors import CodecError
from lexalcm.io.progress import Progress, silent
from lexalcm.registries import CODECS

CODEC_FOLDER = "codec"  # of a data set or a model: what an embedded codec saved


def answers_from_bank(name: str) -> bool:
    """Whether a codec decodes to the nearest of its own sentences, as far as is known here."""
    try:
        return CODECS.load(name).from_bank
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
        options: how to run it, see `Codec.configure`.
        progress: opens reports of downloads.

    Raises:
        CodecError: unknown codec, missing or damaged files, another fingerprint, or an option it does not have.
    """
    codec = CODECS.load(name or record.name).load(record, Path(folder))
    codec.configure(options or CodecOptions(), progress)
    return codec
