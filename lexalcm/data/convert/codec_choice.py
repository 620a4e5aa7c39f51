"""Which codec made foreign embeddings: what is stated, for nothing in the numbers says it.

A codec is stated by its name, with a fingerprint if one is known; or by a data set or a model that was made with the
same, whose record, decoder and special concepts are then taken over.
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lexalcm.codec.base import STATED, CodecRecord
from lexalcm.codec.registry import CODEC_FOLDER
from lexalcm.codec.special import SPECIAL_FILE, kept_sentences, read_special, save_special
from lexalcm.data.build.shared_codec import codec_of_folder
from lexalcm.data.convert.settings import ConvertSettings
from lexalcm.data.format.dataset import Dataset
from lexalcm.data.format.manifest import MANIFEST_FILE
from lexalcm.errors import CodecError, UserError
from lexalcm.registries import CODECS


@dataclass(frozen=True)
class SpecialConcepts:
    """Special concepts by name, and what they say."""

    vectors: dict[str, np.ndarray] = field(default_factory=dict)
    """float32 [dim] each"""
    sentences: dict[str, str] = field(default_factory=dict)
    """Empty where it is not known."""

    def __or__(self, other: "SpecialConcepts") -> "SpecialConcepts":
        """Both together; of a name that both have, the other's."""
        return SpecialConcepts(self.vectors | other.vectors, self.sentences | other.sentences)


@dataclass(frozen=True)
class CodecChoice:
    """A codec as it was stated."""

    record: CodecRecord | None
    """None until the dimension is known."""
    name: str = ""
    fingerprint: str = STATED
    folder: Path | None = None
    """Where its files are."""
    special: SpecialConcepts = field(default_factory=SpecialConcepts)

    def record_for(self, dim: int) -> CodecRecord:
        """What to note of it, for vectors of this dimension.

        Raises:
            CodecError: it has another dimension.
        """
        record = self.record or CodecRecord(name=self.name, dim=dim, fingerprint=self.fingerprint)
        if record.dim != dim:
            raise CodecError(
                f"the codec {record.name} has {record.dim} dimensions, the embeddings {dim}: choose another"
            )
        for concept, vector in self.special.vectors.items():
            if vector.shape != (dim,):
                raise CodecError(
                    f"the special concept {concept} has {vector.shape[-1]} dimensions, the embeddings {dim}"
                )
        return record

    def copy_to(self, dataset: Path) -> None:
        """Put its files and the special concepts into a data set."""
        if self.folder is not None and self.folder.is_dir():
            shutil.copytree(self.folder, dataset / CODEC_FOLDER)
        if self.special.vectors:
            save_special(dataset / SPECIAL_FILE, self.special.vectors, self.special.sentences)


def choose_codec(settings: ConvertSettings, special: Path | None) -> CodecChoice:
    """Find the codec that the settings state.

    Args:
        settings: its name or a folder, and the fingerprint.
        special: a folder with special concepts: a data set's, a model's, or LexaLCM's.

    Raises:
        UserError: neither a codec nor a folder that notes one; no special concepts there.
    """
    stated = special_of(special)
    if settings.codec in CODECS.names() or not Path(settings.codec).is_dir():
        CODECS.load(settings.codec)
        return CodecChoice(None, settings.codec, settings.fingerprint or STATED, None, stated)
    folder = Path(settings.codec)
    if settings.fingerprint is not None:
        raise UserError(f"--fingerprint: that of the codec of {folder} is known already: omit it")
    return CodecChoice(codec_of_folder(folder), folder=folder / CODEC_FOLDER, special=special_beside(folder) | stated)


def special_beside(folder: Path) -> SpecialConcepts:
    """Special concepts of a data set or a model, if it has any; raises as `special_of`."""
    return special_of(folder if (folder / SPECIAL_FILE).exists() else None)


def special_of(folder: Path | None) -> SpecialConcepts:
    """Special concepts of a folder, as `read_special`; those of a data set are what its manifest notes. None: none.

    Raises:
        UserError: none there, or damaged ones.
    """
    if folder is None:
        return SpecialConcepts()
    if (folder / MANIFEST_FILE).is_file():
        Dataset.open(folder, check_shards=False)
    vectors, sentences = read_special(folder), kept_sentences(folder)
    return SpecialConcepts(vectors, {name: sentences.get(name, "") for name in vectors})
