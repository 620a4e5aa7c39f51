"""Open the codec of a folder, or one by its name."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from lexalcm.codec.base import Codec
from lexalcm.codec.options import CodecOptions
from lexalcm.codec.registry import CODEC_FOLDER, fit_codec, load_codec
from lexalcm.config import Settings, load_settings
from lexalcm.data.build.shared_codec import codec_of_folder
from lexalcm.data.format.manifest import MANIFEST_FILE
from lexalcm.data.sources.corpus import Source, read_documents
from lexalcm.data.sources.sample import packaged_text
from lexalcm.errors import ConfigError, UserError
from lexalcm.io.progress import Progress, silent
from lexalcm.model.storage.locate import find_model
from lexalcm.text.segment import segment

DEFAULT_CODEC = "sonar"


class _AnyOptions(Settings):
    """Options of any codec, validated by the codec itself."""

    model_config = ConfigDict(extra="allow", frozen=True)


def open_codec(
    path: Path | None,
    name: str | None,
    options: Sequence[str],
    run_options: CodecOptions,
    progress: Progress = silent,
) -> tuple[str, Codec]:
    """The codec and its display name.

    Args:
        path: a data set, model or run folder that has one; none: a codec is made, one that is fitted of the packaged
            text.
        name: of the codec; of a folder's, another implementation.
        options: of a codec to be made, as `name=value`.
        run_options: how to run it.
        progress: opens reports of downloads.

    Raises:
        UserError: no such folder or codec, or it cannot be opened.
    """
    if path is None:
        chosen = name or DEFAULT_CODEC
        given: dict[str, Any] = load_settings(_AnyOptions, overrides=options).model_dump()
        codec = fit_codec(chosen, _packaged_documents(), **given)
        codec.configure(run_options, progress)
        return chosen, codec
    if options:
        raise ConfigError(f"--codec-option has no effect with {path}, which records its codec's options: omit it")
    if not path.exists():
        raise UserError(f"no folder {path}: give one of a data set or a model, or omit it")
    folder = path if (path / MANIFEST_FILE).is_file() else find_model(path)
    record = codec_of_folder(folder)
    codec = load_codec(record, folder / CODEC_FOLDER, name=name, options=run_options, progress=progress)
    return f"{name or record.name} of {path}", codec


def _packaged_documents() -> Iterator[tuple[str, list[str]]]:
    with packaged_text() as file:
        for document in read_documents([Source(file, file.name)]):
            yield document.lang, segment(document.text, document.lang)
