"""One codec for all workers that make a data set: made once, in a folder that they share.

    codec/record.json                    name, dimension, fingerprint, options
    codec/files/                         what an embedded codec needs to decode; absent for others
    codec/special_concepts.safetensors   embeddings of "End of text." and its kin

The folder gets its name in one rename. Where several workers make it at once the first one's stays, and all of them,
whatever they made themselves, work with that: a fit on another machine may differ in its last digits.
"""

import json
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lexalcm.codec.base import Codec, CodecRecord
from lexalcm.codec.options import CodecOptions
from lexalcm.codec.registry import CODEC_FOLDER, fit_codec, load_codec
from lexalcm.codec.special import SPECIAL_FILE, encode_special, read_special, write_special
from lexalcm.config import validate
from lexalcm.data.format.manifest import MANIFEST_FILE, read_manifest
from lexalcm.errors import CodecError, UserError
from lexalcm.io.atomic import atomic_file, first_folder, write_text
from lexalcm.io.progress import Progress, silent
from lexalcm.json_text import parse_json
from lexalcm.registries import CODECS
from lexalcm.text.languages import shown_nearest

RECORD_FILE = "record.json"
FILES_FOLDER = "files"
MODEL_CONFIG_FILE = "config.json"

Fit = Callable[[], Iterable[tuple[str, Sequence[str]]]]
"""Gives the (language, sentences) documents that a codec is fitted on, if it is one that is fitted."""


def check_codec_choice(codec: str) -> None:
    """Make sure that a codec, by its name or of a folder, can be had, before long work is begun.

    Raises:
        UserError: neither an installed codec nor a folder with one.
    """
    if codec not in CODECS.names() and Path(codec).is_dir():
        codec_of_folder(Path(codec))
    elif codec not in CODECS.names() and "/" in codec:
        raise UserError(f"--codec {codec}: no such folder; give a codec's name or the folder of a data set or a model")
    else:
        CODECS.load(codec)


def codec_of_folder(folder: Path) -> CodecRecord:
    """The codec that a data set or a model was made with.

    Raises:
        UserError: the folder is neither, or a model that notes no codec.
    """
    if (folder / MANIFEST_FILE).exists():
        return read_manifest(folder).codec
    try:
        tree = parse_json((folder / MODEL_CONFIG_FILE).read_bytes())
        return validate(CodecRecord, tree["codec"], prefix="codec", source=str(folder / MODEL_CONFIG_FILE))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise CodecError(f"{folder} is neither a data set nor a model that notes its codec") from error


class _FittedError(BaseException):
    """A codec wants the text to be fitted on. No `Exception`, so that no codec takes it for a fault of the text."""


class _NoText(Iterable[tuple[str, Sequence[str]]]):
    def __iter__(self) -> Iterator[tuple[str, Sequence[str]]]:
        raise _FittedError


def try_codec(
    codec: str, options: Mapping[str, Any], run: CodecOptions | None = None, progress: Progress = silent
) -> frozenset[str] | None:
    """Make a codec and embed a sentence, before long work: what it lacks, and options that are wrong, show now.

    Of one that is fitted on the text only the options are checked, as far as it looks at them before the text.

    Args:
        codec: a name, or the folder of a data set or a model.
        options: of a codec that is made by its name.
        run: how it is run.
        progress: opens reports of downloads.

    Returns:
        The languages that it knows; None where any will do, or where it is fitted on the text.

    Raises:
        UserError: it cannot be made, or not be run as asked for.
    """
    run = run or CodecOptions()
    try:
        made = _make(codec, options, _NoText(), run, progress)
        encode_special(made)
    except _FittedError:
        if not CODECS.load(codec).configurable:
            run.refuse(codec)
        return None
    return made.languages


def check_language_of(known: Collection[str] | None, lang: str) -> None:
    """Make sure that a codec that knows some languages only knows this one.

    Raises:
        CodecError: it does not, with the nearest that it knows.
    """
    if known is not None and lang not in known:
        near = shown_nearest(lang, sorted(known))
        raise CodecError(
            f"the codec does not know the language {lang}: the nearest are {near}; name the right one with --lang, "
            "or with a field lang"
        )


def _make(
    codec: str,
    options: Mapping[str, Any],
    documents: Iterable[tuple[str, Sequence[str]]],
    run: CodecOptions,
    progress: Progress,
) -> Codec:
    """The codec of a name, fitted if it is one that is, or of a folder, run as asked for."""
    if codec in CODECS.names():
        made = fit_codec(codec, documents, **options)
        made.configure(run, progress)
        return made
    record = codec_of_folder(Path(codec))
    if options:
        raise UserError(f"--codec-option: the codec of {codec} is made already, it takes no options")
    return load_codec(record, Path(codec) / CODEC_FOLDER, options=run, progress=progress)


class SharedCodec:
    """The codec's folder."""

    def __init__(self, folder: Path, options: CodecOptions | None = None) -> None:
        """Name it.

        Args:
            folder: where it is, or will be.
            options: how this worker runs it; others may do so in another way.
        """
        self.folder = folder
        self.options = options or CodecOptions()

    def made(self) -> bool:
        """Whether it is there."""
        return self.folder.is_dir()

    def make(
        self,
        codec: str,
        options: dict[str, Any],
        documents: Fit,
        special: Mapping[str, str] | None = None,
        progress: Progress = silent,
    ) -> None:
        """Make it, unless another worker does so first.

        Args:
            codec: a name, or the folder of a data set or a model.
            options: of a codec that is made by its name.
            documents: what it is fitted on, if it is one that is fitted.
            special: further special concepts, name to sentence.
            progress: opens reports of downloads.

        Raises:
            UserError: it cannot be made, or not be run as asked for.
        """
        made = _make(codec, options, documents(), self.options, progress)
        with first_folder(self.folder) as folder:
            made.save(folder / FILES_FOLDER)
            write_special(folder / SPECIAL_FILE, made, special)
            write_text(folder / RECORD_FILE, json.dumps(made.record().model_dump(mode="json"), ensure_ascii=False))

    def record(self) -> CodecRecord:
        """What a data set notes of it."""
        return CodecRecord.model_validate_json((self.folder / RECORD_FILE).read_text(encoding="utf-8"))

    def open(self, progress: Progress = silent) -> Codec:
        """Load it; `progress` opens reports of downloads."""
        return load_codec(self.record(), self.folder / FILES_FOLDER, options=self.options, progress=progress)

    def special_concepts(self) -> dict[str, np.ndarray]:
        """Their embeddings by name: float32 [dim] each."""
        return read_special(self.folder)

    def copy_to(self, dataset: Path) -> None:
        """Put what decoding needs, and the special concepts, into a data set's folder."""
        if (self.folder / FILES_FOLDER).is_dir():
            with first_folder(dataset / CODEC_FOLDER) as folder:
                shutil.copytree(self.folder / FILES_FOLDER, folder, dirs_exist_ok=True)
        with atomic_file(dataset / SPECIAL_FILE) as file:
            shutil.copyfile(self.folder / SPECIAL_FILE, file)
