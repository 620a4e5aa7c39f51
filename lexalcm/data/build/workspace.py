"""A data set that is being made: stages that any number of workers go through, each of which may die at any moment.

    unfinished/request.json    what was asked for: a second worker that asks for something else gets an error
    unfinished/segmented/      a part for each source (see `segmented_store`)
    unfinished/codec/          the codec, made once (see `shared_codec`)
    unfinished/plan.json       the units (see `units`)
    train-000000.tar ...       a finished unit
    unfinished/shards/         what the manifest and the index will say of each finished unit
    dataset.json               once all units are there; `unfinished/` is then removed

While documents are embedded the next ones are read and the last ones written (see `document_groups`, `unit_writer`).

The shards are the truth: a shard without its record is read again for it, a record without its shard counts for
nothing. Nothing is locked. Two workers at the same unit write the same bytes, and the first one's file stays.
"""

import json
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from lexalcm.codec.base import Codec
from lexalcm.codec.options import CodecOptions
from lexalcm.codec.special import special_sentences
from lexalcm.data.build.document_groups import embed_groups, groups_of
from lexalcm.data.build.segmented_store import Part, SegmentedStore
from lexalcm.data.build.settings import BuildSettings, build_record
from lexalcm.data.build.shared_codec import SharedCodec, check_language_of, try_codec
from lexalcm.data.build.unit_writer import UnitWriter, record_file
from lexalcm.data.build.units import SPLITS, Unit, WorkUnits, cut_units, divide, read_unit, training_documents
from lexalcm.data.format.dataset import Dataset
from lexalcm.data.format.finished_shard import FinishedShard
from lexalcm.data.format.index import write_index
from lexalcm.data.format.manifest import MANIFEST_FILE, UNFINISHED_FOLDER, Manifest, SplitRecord, write_manifest
from lexalcm.data.format.shards import read_shard
from lexalcm.data.format.sidecar_files import sidecar_hashes
from lexalcm.data.format.target_spans import without_roles
from lexalcm.data.normalizer.fit import NormalizerSettings, fit_on_documents, save_normalizer
from lexalcm.data.normalizer.sentence_concepts import sentence_concepts
from lexalcm.data.sources.corpus import Document
from lexalcm.errors import DataError, UserError
from lexalcm.io.atomic import first_file, remove_folder, remove_leftovers, write_text
from lexalcm.io.progress import Progress, silent
from lexalcm.text.segmenters import make_segmenter

GROUPS_BEHIND = 2
"""Groups of documents that wait to be written while later ones are embedded: a disk may take long to flush a shard."""


class Workspace:
    """A data set folder in the making."""

    def __init__(
        self, out: Path, settings: BuildSettings, parts: int, codec_options: CodecOptions | None = None
    ) -> None:
        """Open one; `begin` makes its folders.

        Args:
            out: the data set's folder.
            settings: how it is made.
            parts: how many there are.
            codec_options: how the codec is run here.
        """
        self.out = out
        self.settings = settings
        self.parts = parts
        self.folder = out / UNFINISHED_FOLDER
        self.segmented = SegmentedStore(self.folder / "segmented")
        self.codec = SharedCodec(self.folder / "codec", codec_options)

    def begin(self, request: dict[str, Any]) -> None:
        """Make the folders, or find what other workers made.

        Raises:
            UserError: it was begun with another request.
        """
        inside = (self.segmented.folder, self.folder / "shards")
        for folder in inside:
            folder.mkdir(parents=True, exist_ok=True)
        for folder in (*inside, self.folder, self.out):
            remove_leftovers(folder)
        file = self.folder / "request.json"
        with first_file(file) as path:
            path.write_text(json.dumps(request, ensure_ascii=False), encoding="utf-8")
        begun = json.loads(file.read_text(encoding="utf-8"))
        request = json.loads(json.dumps(request))
        for name in request | begun:
            if request.get(name) != begun.get(name):
                shown = [json.dumps(tree.get(name), ensure_ascii=False) for tree in (begun, request)]
                change = f"{shown[0]}, now {shown[1]}" if max(map(len, shown)) < 40 else "something else"
                raise UserError(
                    f"{self.out} was begun with {name} {change}: give the same settings, or choose another --out"
                )

    def try_codec(self, progress: Progress = silent) -> frozenset[str] | None:
        """The languages of `segment`; says what is wrong with the codec, unless it is made, before text is read.

        Raises:
            UserError: as `shared_codec.try_codec`.
        """
        if self.codec.made():
            return None
        return try_codec(self.settings.codec, self._codec_options(), self.codec.options, progress)

    def segment(
        self,
        part: int,
        documents: Iterable[Document],
        report: Callable[[int], None],
        languages: Collection[str] | None = None,
    ) -> None:
        """Segment a part, unless it is there.

        Args:
            part: its number.
            documents: read once, in order.
            report: called with each document's sentences.
            languages: those that documents with text may be in; none: any.

        Raises:
            CodecError: a document is in another one.
        """
        if not self.segmented.has(part):
            settings = self.settings
            self.segmented.write(
                part,
                _in_languages(documents, languages),
                max_chars=settings.max_chars,
                min_chars=settings.min_chars,
                segmenter=make_segmenter(settings.segmenter, settings.segmenter_options),
                join_lines=settings.join_lines,
                text=settings.text,
                role_sentences=special_sentences(settings.codec, settings.special),
                report=report,
            )

    def prepare(self, report: Callable[[int], None], progress: Progress = silent) -> WorkUnits:
        """Make the codec and cut the units, once all parts are there.

        Args:
            report: as for `segment`.
            progress: opens reports of downloads.

        Raises:
            DataError: no part has a sentence.
            CodecError: the codec cannot be made.
        """
        file = self.folder / "plan.json"
        if not file.exists():
            work = divide(self._parts(), self.settings.validation)
            if not sum(work.parts):
                raise DataError("the input has no sentence: give a text with words")
            if not self.codec.made():
                self._make_codec(work, report, progress)
            settings = self.settings
            work = cut_units(work, self._parts(), self.codec.record().dim, settings.dtype, settings.shard_size)
            write_text(file, work.model_dump_json())
        return WorkUnits.model_validate_json(file.read_text(encoding="utf-8"))

    def _has_shard(self, unit: Unit) -> bool:
        """Whether a unit is done; one whose shard a worker left without a record is recorded."""
        if self.is_done(unit):
            return True
        finished = _whole_shard(self.out / unit.shard)
        if finished is not None:
            write_text(self._record_file(unit), finished.to_json())
        return finished is not None

    def is_done(self, unit: Unit) -> bool:
        """Whether a unit's shard is there, whole."""
        try:
            return (self.out / unit.shard).stat().st_size == self._record(unit).record.bytes
        except FileNotFoundError:
            return False

    def embed(self, work: WorkUnits, units: Iterable[Unit], codec: Codec, report: Callable[[int], None]) -> None:
        """Embed units and put their shards and records in their places, unless they are there.

        Documents are read, those before them embedded, and those before these written, in a thread, at the same time,
        also from one unit to the next.

        Args:
            work: that the units are of.
            units: what to embed.
            codec: the shared one, loaded.
            report: called with the number of sentences of each document.
        """
        groups = (
            group
            for unit in units
            if not self._has_shard(unit)
            for group in groups_of(codec, unit, read_unit(work, unit, self.segmented))
        )
        writer = UnitWriter(self.out, self.folder / "shards", self.settings.dtype, text=self.settings.text)
        written: deque[Future[list[int]]] = deque()
        with (
            closing(writer),
            closing(embed_groups(codec, groups, self.codec.special_concepts())) as embedded,
            ThreadPoolExecutor(1, thread_name_prefix="shard writer") as thread,
        ):
            for group in embedded:
                written.append(thread.submit(writer.add, group))
                if len(written) > GROUPS_BEHIND:
                    _report(written.popleft(), report)
            while written:
                _report(written.popleft(), report)
            writer.finish()

    def finish(self, work: WorkUnits, source: dict[str, Any]) -> Dataset:
        """Write what turns finished units into a data set; may be done any number of times, by anyone.

        Raises:
            FileNotFoundError: another worker has finished it meanwhile and has removed the working folder.
        """
        splits: dict[str, SplitRecord] = {}
        for split in SPLITS:
            shards = [self._record(unit) for unit in work.units if unit.split == split]
            if shards:
                splits[split] = write_index(self.out, split, shards)
        self.codec.copy_to(self.out)
        manifest = Manifest(
            codec=self.codec.record(),
            dtype=self.settings.dtype,
            text=self.settings.text,
            normalizer=NormalizerSettings(seed=self.settings.seed or 0),
            splits=splits,
            build=build_record(self.settings, source),
        )
        sentences = sentence_concepts(Dataset(self.out, manifest), "train")
        save_normalizer(self.out, fit_on_documents(sentences, manifest.normalizer))
        write_manifest(self.out, manifest.model_copy(update={"companions": sidecar_hashes(self.out)}))
        self.remove()
        return Dataset.open(self.out)

    def remove(self) -> None:
        """Remove the working folder once the data set is finished."""
        remove_folder(self.folder)
        remove_leftovers(self.out)

    def is_finished(self) -> bool:
        """Whether somebody has finished the data set."""
        return (self.out / MANIFEST_FILE).exists()

    def _parts(self) -> Iterator[Part]:
        return map(self.segmented.part, range(self.parts))

    def _make_codec(self, work: WorkUnits, report: Callable[[int], None], progress: Progress) -> None:
        def documents() -> Iterator[tuple[str, list[str]]]:
            for document in training_documents(work, self.segmented):
                report(len(document["sentences"]))
                yield document["lang"], without_roles(document)

        self.codec.make(self.settings.codec, self._codec_options(), documents, self.settings.special, progress)

    def _codec_options(self) -> dict[str, Any]:
        seed = self.settings.seed
        return self.settings.codec_options | ({} if seed is None else {"seed": seed})

    def _record_file(self, unit: Unit) -> Path:
        return record_file(self.folder / "shards", unit)

    def _record(self, unit: Unit) -> FinishedShard:
        return FinishedShard.from_json(self._record_file(unit).read_text(encoding="utf-8"))


def _whole_shard(path: Path) -> FinishedShard | None:
    """What is known of a shard that a worker left without a record; one that is not whole is removed."""
    try:
        return read_shard(path)
    except FileNotFoundError:
        return None
    except DataError:
        path.unlink(missing_ok=True)
        return None


def _in_languages(documents: Iterable[Document], known: Collection[str] | None) -> Iterator[Document]:
    """The documents, as long as the codec knows the languages of those that hold text."""
    for document in documents:
        if document.text.strip() or document.sentences or document.turns:
            check_language_of(known, document.lang)
        yield document


def _report(written: Future[list[int]], report: Callable[[int], None]) -> None:
    """Report the sentences of the documents of a group; waits until they are written."""
    for sentences in written.result():
        report(sentences)
