"""Documents to a data set folder: segment, divide into splits, fit the codec, embed, write, fit the normalizer.

The documents are read once, segmented, and kept as JSON lines in the folder being made; the codec is fitted on, and
embeds, what is read back from there. So memory holds one buffer of documents and their embeddings, however large the
corpus (fitting the codec `lsa` holds a bounded sample of the text), and standard input works like a file.

Which documents validate is decided by their ids alone: a document's position is its SHA-256 as a number in [0, 1), and
those below `validation` are held out. It stays on its side when the corpus grows, is reordered, or the seed changes.
Two documents of two sentences give one to each side at least; a single one is for training.
"""

import hashlib
import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field
from safetensors.numpy import save_file

from lexalcm import __version__
from lexalcm.atomic import atomic_folder, check_output
from lexalcm.codec.base import Codec
from lexalcm.codec.registry import CODEC_FOLDER, codec_class, fit_codec
from lexalcm.codec.special import SPECIAL_FILE, encode_special
from lexalcm.config import NonNegativeInt, PositiveInt, Settings
from lexalcm.data.corpus import Document, TextDocuments, find_sources, read_documents
from lexalcm.data.dataset import Dataset
from lexalcm.data.info import describe
from lexalcm.data.languages import check_language
from lexalcm.data.manifest import MANIFEST_FILE, Dtype, Manifest, SplitRecord, write_manifest
from lexalcm.data.normalize import NormalizerSettings, fit_on_documents, save_normalizer
from lexalcm.data.plan import MIN_SENTENCES
from lexalcm.data.segment import MAX_CHARS, SentencexSegmenter, segment
from lexalcm.data.shards import ShardWriter
from lexalcm.errors import CodecError, DataError, UserError

ENCODE_SENTENCES = 4096
"""Sentences gathered, of whole documents, before they are embedded together."""

MAX_SOURCES_NOTED = 100
"""File names that the manifest keeps."""

Progress = Callable[[str, str], AbstractContextManager[Callable[[int, int | None], None]]]
"""Opens a report of long work: (what, unit) -> a function of (done, total or None)."""

SplitName = Literal["train", "validation"]


class BuildSettings(Settings):
    """How documents become a data set."""

    codec: str = "lsa"
    codec_options: dict[str, Any] = Field(default_factory=dict)
    max_chars: PositiveInt = MAX_CHARS  # longer sentences are cut
    join_lines: bool = False  # a single line end does not end a paragraph
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.1  # share of documents held out
    shard_size: PositiveInt = 256 * 1024**2  # bytes
    dtype: Dtype = "float16"
    seed: NonNegativeInt | None = None  # of the codec's fit and of the normalizer's sample; None: their defaults


@dataclass(frozen=True)
class BuildResult:
    """What `build_dataset` made of its input."""

    dataset: Dataset
    documents_without_sentences: int = 0
    made: bool = True
    """False if it was there already and is as asked for."""

    def to_json(self) -> dict[str, Any]:
        """As plain values, with the data set's summary."""
        summary = describe(self.dataset).to_json()
        return summary | {"made": self.made, "documents_without_sentences": self.documents_without_sentences}

    def notes(self) -> list[str]:
        """What someone who built it should know."""
        notes = []
        if not self.made:
            notes.append(f"{self.dataset.path} is complete already: nothing to do")
        if self.documents_without_sentences:
            notes.append(f"left out: {self.documents_without_sentences} documents without a sentence")
        manifest = self.dataset.manifest
        if "validation" not in manifest.splits and manifest.build["validation"] > 0:
            notes.append("no validation split: it takes two documents with two sentences each")
        return notes


@contextmanager
def silent(_what: str, _unit: str) -> Iterator[Callable[[int, int | None], None]]:
    """A progress that reports to nobody."""
    yield lambda _done, _total: None


def build_dataset(
    documents: Iterable[Document],
    out: Path | str,
    settings: BuildSettings | None = None,
    *,
    source: dict[str, Any] | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> BuildResult:
    """Write a data set folder; it appears whole or not at all.

    Args:
        documents: read once, in order.
        out: the folder to make.
        settings: how.
        source: what the documents are, noted in the manifest.
        overwrite: replace a data set that is there.
        progress: opens a report of each stage.

    Raises:
        UserError: `out` exists, the codec is unknown, the text cannot be used (see `DataError`), or the disk is full.
    """
    settings = settings or BuildSettings()
    out = Path(out)
    check_output(out, overwrite=overwrite, marker=MANIFEST_FILE)
    codec_class(settings.codec)
    try:
        with atomic_folder(out, overwrite=overwrite, marker=MANIFEST_FILE) as folder:
            spool = _Spool(folder / "segmented.jsonl")
            with progress("segmenting", "sentences") as report:
                spool.fill(documents, settings, report)
            in_validation = choose_validation(spool.positions, spool.lengths, settings.validation)
            codec = _fit_codec(spool, in_validation, settings, progress)
            splits: dict[str, SplitRecord] = {}
            with progress("embedding", "sentences") as report:
                for name, writer in _embed(spool, in_validation, codec, folder, settings, report).items():
                    splits[name] = writer.close()
            spool.path.unlink()
            codec.save(folder / CODEC_FOLDER)
            save_file(encode_special(codec), folder / SPECIAL_FILE)
            manifest = Manifest(
                codec=codec.record(),
                dtype=settings.dtype,
                normalizer=NormalizerSettings(seed=settings.seed or 0),
                splits=splits,
                build=build_record(settings, source or {}),
            )
            write_manifest(folder, manifest)
            save_normalizer(folder, fit_on_documents(Dataset.open(folder).split("train"), manifest.normalizer))
    except OSError as error:
        raise UserError(f"cannot write the data set {out}: {error.strerror or error}") from error
    return BuildResult(Dataset.open(out), spool.dropped)


def build_from_paths(
    paths: Sequence[Path | str],
    out: Path | str,
    settings: BuildSettings | None = None,
    *,
    lang: str = "eng_Latn",
    text_field: str = "text",
    documents: TextDocuments = "blank-line",
    overwrite: bool = False,
    progress: Progress = silent,
) -> BuildResult:
    """Write a data set folder of files, folders and standard input: see `read_documents` and `build_dataset`."""
    sources = find_sources(paths)
    found = read_documents(sources, lang=check_language(lang), text_field=text_field, documents=documents)
    source = {"files": [source.name for source in sources][:MAX_SOURCES_NOTED], "count": len(sources)}
    return build_dataset(found, out, settings, source=source, overwrite=overwrite, progress=progress)


def refit_normalizer(path: Path | str, settings: NormalizerSettings) -> dict[str, np.ndarray]:
    """Fit a data set's normalizer again and put it in its place.

    Models made before keep the normalizer that they were made with.

    Raises:
        UserError: no data set there, a dimension without spread, or no permission to write.
    """
    dataset = Dataset.open(path)
    stats = fit_on_documents(dataset.split("train"), settings)
    try:
        save_normalizer(dataset.path, stats)
        write_manifest(dataset.path, dataset.manifest.model_copy(update={"normalizer": settings}))
    except PermissionError as error:
        raise UserError(f"no permission to write in {path}: change its permissions") from error
    return stats


def build_record(settings: BuildSettings, source: dict[str, Any]) -> dict[str, Any]:
    """What the manifest says of how a data set was made."""
    return {
        "lexalcm": __version__,
        "segmenter": SentencexSegmenter.name,
        **settings.model_dump(mode="json"),
        "source": source,
    }


def document_position(document_id: str) -> float:
    """A document's place in [0, 1): its id's SHA-256, the first 8 bytes read as a big-endian fraction."""
    return int.from_bytes(hashlib.sha256(document_id.encode()).digest()[:8], "big") / 2**64


def choose_validation(positions: np.ndarray, lengths: np.ndarray, share: float) -> np.ndarray:
    """Which documents are held out: bool [documents].

    Of the documents that have something to predict (two sentences) the lowest is always held out and the highest never;
    where there are not two such, none is.

    Args:
        positions: each document's `document_position`.
        lengths: each document's sentences.
        share: documents below this position are held out.
    """
    usable = np.flatnonzero(lengths >= MIN_SENTENCES)
    if share == 0 or len(usable) < 2:
        return np.zeros(len(positions), dtype=bool)
    chosen = positions < share
    chosen[usable[positions[usable].argmin()]] = True
    chosen[usable[positions[usable].argmax()]] = False
    return chosen


class _Spool:
    """Segmented documents on disk, one JSON line each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.positions = np.empty(0)
        self.lengths = np.empty(0, np.int64)
        self.sentences = 0
        self.dropped = 0

    def fill(self, documents: Iterable[Document], settings: BuildSettings, report: Callable) -> None:
        """Segment and write all documents that have a sentence."""
        segmenter = SentencexSegmenter()
        positions, lengths = array("d"), array("i")
        with self.path.open("w", encoding="utf-8") as file:
            for document in documents:
                sentences = segment(
                    document.text,
                    document.lang,
                    max_chars=settings.max_chars,
                    segmenter=segmenter,
                    join_lines=settings.join_lines,
                )
                if not sentences:
                    self.dropped += 1
                    continue
                record = {
                    "id": document.id,
                    "lang": document.lang,
                    "title": document.title,
                    "sentences": sentences,
                    "metadata": document.metadata,
                }
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
                positions.append(document_position(document.id))
                lengths.append(len(sentences))
                self.sentences += len(sentences)
                report(self.sentences, None)
        if not positions:
            raise DataError("the input has no sentence: give a text with words")
        self.positions, self.lengths = np.array(positions), np.array(lengths)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        with self.path.open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)


def _fit_codec(spool: _Spool, in_validation: np.ndarray, settings: BuildSettings, progress: Progress) -> Codec:
    options = settings.codec_options | ({} if settings.seed is None else {"seed": settings.seed})
    with progress(f"fitting the codec {settings.codec}", "sentences") as report:
        seen = 0

        def training_documents() -> Iterator[tuple[str, list[str]]]:
            nonlocal seen
            for document, held_out in zip(spool, in_validation, strict=True):
                if not held_out:
                    seen += len(document["sentences"])
                    report(seen, None)
                    yield document["lang"], document["sentences"]

        return fit_codec(settings.codec, training_documents(), **options)


def _embed(
    spool: _Spool, in_validation: np.ndarray, codec: Codec, folder: Path, settings: BuildSettings, report: Callable
) -> dict[SplitName, ShardWriter]:
    """Embed all documents and hand each to the writer of its split."""
    names: list[SplitName] = ["train", "validation"] if in_validation.any() else ["train"]
    writers = {name: ShardWriter(folder, name, settings.dtype, settings.shard_size) for name in names}
    done = 0
    for group in _groups(zip(spool, in_validation, strict=True)):
        embeddings = embed_documents(codec, [document for document, _ in group])
        for (document, held_out), vectors in zip(group, embeddings, strict=True):
            writers["validation" if held_out else "train"].add(document, vectors)
            done += len(vectors)
        report(done, spool.sentences)
    return writers


def _groups(documents: Iterable[tuple[dict[str, Any], bool]]) -> Iterator[list[tuple[dict[str, Any], bool]]]:
    group: list[tuple[dict[str, Any], bool]] = []
    sentences = 0
    for document, held_out in documents:
        group.append((document, held_out))
        sentences += len(document["sentences"])
        if sentences >= ENCODE_SENTENCES:
            yield group
            group, sentences = [], 0
    if group:
        yield group


def embed_documents(codec: Codec, documents: list[dict[str, Any]]) -> list[np.ndarray]:
    """Embed documents, those of one language together: float32 [n, dim] each, in their order.

    Raises:
        CodecError: the codec gives vectors of a wrong shape or does not know a language.
    """
    embeddings: list[np.ndarray] = [np.empty((0, codec.dim), np.float32)] * len(documents)
    for lang in sorted({document["lang"] for document in documents}):
        if codec.languages is not None and lang not in codec.languages:
            raise CodecError(f"the codec does not know the language {lang}: set another with --lang")
        members = [i for i, document in enumerate(documents) if document["lang"] == lang]
        sentences = [sentence for i in members for sentence in documents[i]["sentences"]]
        vectors = codec.encode(sentences, lang)
        if vectors.shape != (len(sentences), codec.dim):
            raise CodecError(f"the codec gave an array {vectors.shape} for {len(sentences)} sentences of {codec.dim}")
        ends = np.cumsum([len(documents[i]["sentences"]) for i in members])
        for i, part in zip(members, np.split(vectors, ends[:-1]), strict=True):
            embeddings[i] = part
    return embeddings
