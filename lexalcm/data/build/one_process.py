"""Documents to a data set folder in one process: segment, divide into splits, fit the codec, embed, fit the normalizer.

The stages are those of `workspace`, which many workers can share (`lcm data embed`); here one goes through them in a
folder beside the goal, which is renamed at the end. So the data set appears whole or not at all, and standard input
works like a file. Memory holds one buffer of documents and their embeddings, however large the corpus (fitting a codec
needs what the codec says).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lexalcm.codec.options import CodecOptions
from lexalcm.data.build.settings import BuildSettings, build_record
from lexalcm.data.build.shared_codec import check_codec_choice
from lexalcm.data.build.workspace import Workspace
from lexalcm.data.format.dataset import Dataset
from lexalcm.data.format.manifest import MANIFEST_FILE
from lexalcm.data.info import describe
from lexalcm.data.sources.corpus import Document, Source, TextDocuments, find_sources, read_documents
from lexalcm.errors import UserError
from lexalcm.io.atomic import atomic_folder, check_output
from lexalcm.io.progress import Counter, Progress, silent
from lexalcm.text.languages import find_language
from lexalcm.text.segmenters import make_segmenter

MAX_SOURCES_NOTED = 100
"""File names that the manifest keeps."""


@dataclass(frozen=True)
class BuildResult:
    """What `build_dataset` made of its input."""

    dataset: Dataset
    documents_without_sentences: int = 0
    made: bool = True
    """False if it was there already and is as asked for."""
    cut_sentences: int = 0
    """Longer than the codec reads: their ends are not in the embeddings."""

    def to_json(self) -> dict[str, Any]:
        """As plain values, with the data set's summary."""
        summary = describe(self.dataset).to_json()
        return summary | {
            "made": self.made,
            "documents_without_sentences": self.documents_without_sentences,
            "cut_sentences": self.cut_sentences,
        }

    def notes(self) -> list[str]:
        """What someone who built it should know."""
        notes = []
        manifest = self.dataset.manifest
        if not self.made:
            notes.append(f"{self.dataset.path} is complete already: nothing to do")
        if self.documents_without_sentences:
            chat = manifest.build["source"].get("chat", False)
            what = "conversations without an assistant turn" if chat else "documents without a sentence"
            notes.append(f"left out: {self.documents_without_sentences} {what}")
        if self.cut_sentences:
            notes.append(cut_note(self.cut_sentences))
        if "validation" not in manifest.splits and manifest.build["validation"] > 0:
            notes.append("no validation split: it takes two documents with two sentences each")
        return notes


def cut_note(count: int) -> str:
    """The note about truncated sentences."""
    return f"truncated: {count:,} sentences were longer than the codec reads; a lower --max-chars keeps all of them"


def build_dataset(
    documents: Iterable[Document],
    out: Path | str,
    settings: BuildSettings | None = None,
    *,
    source: dict[str, Any] | None = None,
    codec_options: CodecOptions | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> BuildResult:
    """Write a data set folder; it appears whole or not at all.

    Args:
        documents: read once, in order.
        out: the folder to make.
        settings: how.
        source: what the documents are, noted in the manifest.
        codec_options: how the codec is run, which the data set does not depend on.
        overwrite: replace a data set that is there.
        progress: opens a report of each stage.

    Raises:
        UserError: `out` exists, the codec is unknown, the text cannot be used (see `DataError`), or the disk is full.
    """
    settings = settings or BuildSettings()
    out = Path(out)
    check_output(out, overwrite=overwrite, marker=MANIFEST_FILE)
    check_codec_choice(settings.codec)
    make_segmenter(settings.segmenter, settings.segmenter_options)  # whatever is wrong with it, now
    try:
        with atomic_folder(out, overwrite=overwrite, marker=MANIFEST_FILE) as folder:
            workspace = Workspace(folder, settings, parts=1, codec_options=codec_options)
            languages = workspace.try_codec(progress)
            workspace.begin(build_record(settings, source or {}))
            with progress("segmenting", "sentences") as report:
                workspace.segment(0, documents, Counter(report), languages)
            with progress(f"fitting the codec {settings.codec}", "sentences") as report:
                work = workspace.prepare(Counter(report), progress)
            codec = workspace.codec.open(progress)
            with progress("embedding", "sentences") as report:
                counter = Counter(report, work.sentences)
                workspace.embed(work, work.units, codec, counter)
            cut = codec.cut
            workspace.finish(work, source or {})
    except OSError as error:
        raise UserError(f"cannot write the data set {out}: {error.strerror or error}") from error
    return BuildResult(Dataset.open(out), work.dropped, cut_sentences=cut)


def build_from_paths(
    paths: Sequence[Path | str],
    out: Path | str,
    settings: BuildSettings | None = None,
    *,
    lang: str = "eng_Latn",
    text_field: str = "text",
    documents: TextDocuments = "blank-line",
    chat: bool = False,
    codec_options: CodecOptions | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> BuildResult:
    """Write a data set folder of files, folders and standard input: see `read_documents` and `build_dataset`.

    The language may be written in any way that `find_language` knows.
    """
    sources = find_sources(paths, text_field=text_field, chat=chat)
    found = read_documents(sources, lang=find_language(lang), text_field=text_field, documents=documents, chat=chat)
    return build_dataset(
        found,
        out,
        settings,
        source=source_record(sources, chat),
        codec_options=codec_options,
        overwrite=overwrite,
        progress=progress,
    )


def source_record(sources: Sequence[Source], chat: bool = False) -> dict[str, Any]:
    """What the manifest says of where the documents came from, and whether they are conversations."""
    noted = {"files": [source.name for source in sources][:MAX_SOURCES_NOTED], "count": len(sources)}
    return noted | ({"chat": True} if chat else {})
