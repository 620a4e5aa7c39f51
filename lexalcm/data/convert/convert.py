"""Convert a data set: find out what it is, read it in blocks, leave out what cannot be used, write it.

Blocks are read, checked and cast in a thread of their own while the last one is hashed and written. Memory holds a few
blocks, and 30 bytes a document for the index.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from lexalcm import __version__
from lexalcm.codec.base import CodecRecord
from lexalcm.codec.registry import CODEC_FOLDER
from lexalcm.codec.special import SPECIAL_FILE
from lexalcm.data.build.one_process import MAX_SOURCES_NOTED
from lexalcm.data.convert.blocks import Block, LeftOut, as_stored, leave_out_unusable, read_ahead
from lexalcm.data.convert.codec_choice import CodecChoice, choose_codec, special_beside, special_of
from lexalcm.data.convert.read_dataset import DatasetReader
from lexalcm.data.convert.read_parquet import ParquetReader, ParquetSource, find_parquet
from lexalcm.data.convert.read_webdataset import TAR_SUFFIXES, WebDatasetReader, find_tars
from lexalcm.data.convert.settings import ConvertSettings
from lexalcm.data.convert.write_dataset import DatasetSink
from lexalcm.data.convert.write_parquet import NOTE_FILE, ParquetSink
from lexalcm.data.format.dataset import Dataset
from lexalcm.data.format.manifest import MANIFEST_FILE, Dtype, Manifest, write_manifest
from lexalcm.data.format.sidecar_files import sidecar_hashes
from lexalcm.data.normalizer.fit import NormalizerSettings, fit_on_documents, save_normalizer
from lexalcm.data.normalizer.sentence_concepts import sentence_concepts
from lexalcm.data.sources.unread import report_unread
from lexalcm.errors import ConfigError, DataError, UserError
from lexalcm.io.atomic import atomic_folder, check_output
from lexalcm.io.folders import files_below
from lexalcm.io.progress import Progress, silent
from lexalcm.text.languages import check_language
from lexalcm.text.writable import writable

LEFT_OUT_FILE = "left-out.jsonl"

Goal = Literal["dataset", "parquet"]


class Reader(Protocol):
    """What gives the blocks of a source."""

    def count(self) -> int | None:
        """Rows in all, if that can be known beforehand."""

    def __iter__(self) -> Iterator[Block]:
        """All blocks, in order."""


@dataclass
class ConvertResult:
    """What became of a source."""

    out: Path
    rows: int = 0
    """Rows read."""
    documents: int = 0
    """Documents written."""
    filtered: int = 0
    """Rows that the filters for language and length dropped."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Rows that cannot be used, by reason."""
    special_concepts: bool = True
    """Whether the data set has the special concepts that training appends."""
    dataset: Dataset | None = None
    """None where parquet was written."""

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        tree = {name: getattr(self, name) for name in ("rows", "documents", "filtered", "left_out", "special_concepts")}
        return {"out": str(self.out), **tree}

    def notes(self) -> list[str]:
        """What someone who converted should know."""
        notes = []
        if self.left_out:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self.left_out.items()))
            notes.append(f"left out: {sum(self.left_out.values())} rows ({reasons}): see {self.out / LEFT_OUT_FILE}")
        if self.filtered:
            notes.append(f"filtered: {self.filtered} rows of another language or length")
        if not self.special_concepts:
            notes.append(
                "no special concepts: give them with --special FOLDER, or train with --set data.end_of_text=false"
            )
        return notes


def convert(
    paths: Sequence[Path | str],
    out: Path | str,
    settings: ConvertSettings | None = None,
    *,
    to: Goal = "dataset",
    special: Path | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> ConvertResult:
    """Convert a data set; the new one appears whole or not at all.

    Args:
        paths: parquet files or folders of them (Meta's and LexaLCM's layouts), WebDataset tars or folders of them, or
            one data set of ours; all of one kind.
        out: the folder to make.
        settings: how.
        to: a data set of ours, or parquet.
        special: a folder with special concepts.
        overwrite: replace a data set, or a conversion to parquet, that is there.
        progress: opens a report.

    Raises:
        UserError: a source of no known kind, one without the columns that were named, a codec that does not fit, no
            usable row, or no room on the disk.
    """
    settings = settings or ConvertSettings()
    out = Path(out)
    marker = MANIFEST_FILE if to == "dataset" else NOTE_FILE
    check_output(out, overwrite=overwrite, marker=marker)
    for lang in (settings.lang, *settings.keep_languages):
        check_language(lang)
    if settings.max_sentences is not None and settings.max_sentences < settings.min_sentences:
        raise ConfigError("--max-sentences is below --min-sentences: no document has such a length")
    try:
        with atomic_folder(out, overwrite=overwrite, marker=marker) as folder:
            result = _convert([Path(path) for path in paths], folder, settings, to, special, progress)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}") from error
    result.out = out
    result.dataset = Dataset.open(out) if to == "dataset" else None
    return result


def _convert(
    paths: list[Path], folder: Path, settings: ConvertSettings, to: Goal, special: Path | None, progress: Progress
) -> ConvertResult:
    left_out = LeftOut(folder / LEFT_OUT_FILE)
    dataset = _dataset(paths)
    reader = _reader(paths, settings) if dataset is None else DatasetReader(dataset)
    codec = _codec(paths, dataset, settings, special)
    if dataset is not None and settings.text and not dataset.manifest.text:
        settings = settings.model_copy(update={"text": False})
    dtype = settings.dtype or (dataset.manifest.dtype if dataset is not None else "float16")
    sink: DatasetSink | ParquetSink
    if to == "dataset":
        sink = DatasetSink(folder, dtype, settings.shard_size, text=settings.text)
    else:
        sink = ParquetSink(folder, dtype, settings.shard_size, text=settings.text)
    result = ConvertResult(folder)
    total = reader.count()
    dim = 0
    with progress("converting", "documents") as report:
        for block in read_ahead(_prepared(reader, dtype, settings)):
            left_out.add(block)
            if len(block):
                dim = dim or codec.record_for(block.vectors.shape[1]).dim
                sink.write(block)
            result.documents += len(block)
            result.filtered += block.filtered
            report(result.documents + result.filtered + left_out.count, total)
        splits = sink.close()
    result.rows = result.documents + result.filtered + left_out.count
    result.left_out = dict(left_out.reasons)
    if not dim:
        reasons = "; ".join(f"{count} {reason}" for reason, count in left_out.reasons.items())
        raise DataError(f"no usable row among {result.rows}" + (f" ({reasons})" if reasons else ""))
    record = codec.record_for(dim)
    source = {"files": [writable(path.name) for path in paths][:MAX_SOURCES_NOTED], "count": len(paths)}
    note = {"lexalcm": __version__, "converted": settings.model_dump(mode="json"), "source": source}
    if to == "parquet":
        _write_note(folder, note | {"codec": record.model_dump(mode="json")})
        if codec.special.vectors:
            codec.copy_to(folder)
        return result
    if "train" not in splits:
        raise DataError("no document is left for training: lower --validation, or give more data")
    codec.copy_to(folder)
    result.special_concepts = bool(codec.special.vectors)
    normalizer = NormalizerSettings() if dataset is None else dataset.manifest.normalizer
    manifest = Manifest(
        codec=record,
        dtype=dtype,
        text=settings.text,
        normalizer=normalizer,
        splits={str(name): split for name, split in splits.items()},
        build=note,
    )
    with progress("fitting the normalizer", "dimensions"):
        save_normalizer(folder, fit_on_documents(sentence_concepts(Dataset(folder, manifest), "train"), normalizer))
    write_manifest(folder, manifest.model_copy(update={"companions": sidecar_hashes(folder)}))
    return result


def _dataset(paths: list[Path]) -> Dataset | None:
    """The data set of ours that is to be converted, if that is what was given."""
    ours = [path for path in paths if (path / MANIFEST_FILE).exists()]
    if ours and len(paths) > 1:
        raise UserError(f"{ours[0]} is a data set: convert it alone")
    return Dataset.open(ours[0]) if ours else None


def _reader(paths: list[Path], settings: ConvertSettings) -> Reader:
    for path in paths:
        if not path.exists():
            raise UserError(f"no such file or folder: {path}")
    parquet: list[ParquetSource] = []
    tars: list[tuple[Path, str]] = []
    for path in paths:
        name = path.name.lower()
        found = find_parquet(path) if path.is_dir() or name.endswith(".parquet") else []
        found_tars = find_tars(path) if path.is_dir() or name.endswith(TAR_SUFFIXES) else []
        if not (found or found_tars):
            raise UserError(f"{path} holds neither a data set, nor .parquet, nor .tar: give the folder of one")
        if path.is_dir():
            read = {source.name for source in found} | {tar_name for _, tar_name in found_tars}
            report_unread(path, [name for name in _foreign_files(path) if name not in read])
        parquet += found
        tars += found_tars
    if parquet and tars:
        raise UserError("parquet and tars together: convert them one after the other")
    return ParquetReader(parquet, settings) if parquet else WebDatasetReader(tars, settings)


def _foreign_files(folder: Path) -> list[str]:
    """The files of a folder that are none of those that a conversion wrote beside its parquet."""
    own = (NOTE_FILE, LEFT_OUT_FILE, SPECIAL_FILE)
    names = [name for name in files_below(folder) if name.parts[0] not in (*own, CODEC_FOLDER)]
    return [writable(name.as_posix()) for name in names]


def _codec(paths: list[Path], dataset: Dataset | None, settings: ConvertSettings, special: Path | None) -> CodecChoice:
    """The codec of our own data set, that which a conversion to parquet noted, or the one that is stated."""
    if dataset is not None:
        concepts = special_beside(dataset.path) | special_of(special)
        return CodecChoice(dataset.manifest.codec, folder=dataset.path / CODEC_FOLDER, special=concepts)
    noted = _noted_codec(paths)
    if noted is not None and "codec" not in settings.model_fields_set:
        concepts = special_beside(paths[0]) | special_of(special)
        return CodecChoice(noted, folder=paths[0] / CODEC_FOLDER, special=concepts)
    return choose_codec(settings, special)


def _noted_codec(paths: list[Path]) -> CodecRecord | None:
    file = paths[0] / NOTE_FILE
    if not file.is_file():
        return None
    try:
        return CodecRecord.model_validate(json.loads(file.read_text(encoding="utf-8"))["codec"])
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(f"{file} is damaged: remove it, and state the codec with --codec") from error


def _write_note(folder: Path, note: dict[str, Any]) -> None:
    (folder / NOTE_FILE).write_text(json.dumps(note, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _prepared(blocks: Iterable[Block], dtype: Dtype, settings: ConvertSettings) -> Iterator[Block]:
    """The blocks without what cannot be used or is not wanted, their numbers as they are stored."""
    for block in blocks:
        usable = leave_out_unusable(block, dtype)
        wanted = usable.n >= settings.min_sentences
        if settings.max_sentences is not None:
            wanted &= usable.n <= settings.max_sentences
        if settings.keep_languages:
            languages = [document["lang"] for document in usable.documents]
            wanted &= np.isin(np.array(languages, np.str_), settings.keep_languages)
        yield replace(as_stored(usable.choose(wanted), dtype), filtered=int((~wanted).sum()))
