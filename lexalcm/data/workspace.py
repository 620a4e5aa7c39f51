"""A data set that is being made: stages that any number of workers go through, each of which may die at any moment.

    unfinished/request.json    what was asked for: a second worker that asks for something else is told so
    unfinished/segmented/      a part for each source (see `spool`)
    unfinished/codec/          the codec, made once (see `shared_codec`)
    unfinished/plan.json       the units (see `units`)
    train-000000.tar ...       a finished unit
    unfinished/shards/         what the manifest and the index will say of each finished unit
    dataset.json               once all units are there; `unfinished/` is then removed

The shards are the truth: a shard without its record is read again for it, a record without its shard counts for
nothing. Nothing is locked. Two workers at the same unit write the same bytes, and the first one's file stays.
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from lexalcm.atomic import first_file, place_first, remove_folder, remove_leftovers, scratch_file, write_text
from lexalcm.codec.base import Codec
from lexalcm.codec.options import CodecOptions
from lexalcm.codec.special import special_sentences
from lexalcm.data.build_settings import BuildSettings, build_record
from lexalcm.data.companions import companion_hashes
from lexalcm.data.corpus import Document
from lexalcm.data.dataset import Dataset
from lexalcm.data.finished_shard import FinishedShard
from lexalcm.data.index import write_index
from lexalcm.data.manifest import MANIFEST_FILE, UNFINISHED_FOLDER, Manifest, SplitRecord, write_manifest
from lexalcm.data.marks import without_roles
from lexalcm.data.normalize import NormalizerSettings, fit_on_documents, save_normalizer
from lexalcm.data.progress import Progress, silent
from lexalcm.data.segmenters import make_segmenter
from lexalcm.data.shards import ShardFile, document_json, read_shard, stored_numbers
from lexalcm.data.shared_codec import SharedCodec, check_language_of, try_codec
from lexalcm.data.spoken import spoken_concepts
from lexalcm.data.spool import Part, Spool
from lexalcm.data.units import SPLITS, Unit, UnitPlan, cut_units, divide, read_unit, training_documents
from lexalcm.errors import CodecError, DataError, UserError

ENCODE_SENTENCES = 4096
"""Sentences gathered, of whole documents, before they are embedded together, by a codec that does not say how many."""


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
        self.spool = Spool(self.folder / "segmented")
        self.codec = SharedCodec(self.folder / "codec", codec_options)

    def begin(self, request: dict[str, Any]) -> None:
        """Make the folders, or find what other workers made.

        Raises:
            UserError: it was begun with another request.
        """
        inside = (self.spool.folder, self.folder / "shards")
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
                raise UserError(f"{self.out} was begun with {name} {change}: ask for the same, or choose another --out")

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
        if not self.spool.has(part):
            settings = self.settings
            self.spool.write(
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

    def prepare(self, report: Callable[[int], None], progress: Progress = silent) -> UnitPlan:
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
            plan = divide(self._parts(), self.settings.validation)
            if not sum(plan.parts):
                raise DataError("the input has no sentence: give a text with words")
            if not self.codec.made():
                self._make_codec(plan, report, progress)
            settings = self.settings
            plan = cut_units(plan, self._parts(), self.codec.record().dim, settings.dtype, settings.shard_size)
            write_text(file, plan.model_dump_json())
        return UnitPlan.model_validate_json(file.read_text(encoding="utf-8"))

    def is_done(self, unit: Unit) -> bool:
        """Whether a unit's shard is there, whole."""
        try:
            return (self.out / unit.shard).stat().st_size == self._record(unit).record.bytes
        except FileNotFoundError:
            return False

    def embed(self, plan: UnitPlan, unit: Unit, codec: Codec, report: Callable[[int], None]) -> None:
        """Embed a unit and put its shard and its record in their places, unless they are there.

        Args:
            plan: that the unit is of.
            unit: what to embed.
            codec: the shared one, loaded.
            report: called with the number of sentences of each document.
        """
        if self.is_done(unit):
            return
        goal = self.out / unit.shard
        finished = _whole_shard(goal)
        if finished is None:
            with scratch_file(self.folder / "shards" / unit.shard) as path:
                shard = ShardFile(path, unit.number, self.settings.dtype)
                self._embed_into(shard, read_unit(plan, unit, self.spool), codec, report)
                finished = shard.close(unit.shard)
                if not place_first(path, goal):
                    finished = read_shard(goal)
        write_text(self._record_file(unit), finished.to_json())

    def _embed_into(
        self, shard: ShardFile, documents: Iterable[dict[str, Any]], codec: Codec, report: Callable[[int], None]
    ) -> None:
        """Embed documents in groups; each is written, in a thread, while the next is embedded."""
        roles = self.codec.special_concepts()

        def write(group: list[dict[str, Any]], embeddings: list[np.ndarray]) -> list[int]:
            for document, vectors in zip(group, embeddings, strict=True):
                numbers = stored_numbers(vectors, self.settings.dtype, document["id"])
                shard.add(document, document_json(document, text=self.settings.text), numbers)
            return [len(vectors) for vectors in embeddings]

        with ThreadPoolExecutor(1, thread_name_prefix="shard writer") as thread:
            written: Future[list[int]] | None = None
            for group in _groups(documents, getattr(codec, "sentences_at_once", ENCODE_SENTENCES)):
                embeddings = embed_documents(codec, group, roles)
                for sentences in written.result() if written else ():
                    report(sentences)
                written = thread.submit(write, group, embeddings)
            for sentences in written.result() if written else ():
                report(sentences)

    def finish(self, plan: UnitPlan, source: dict[str, Any]) -> Dataset:
        """Write what turns finished units into a data set; may be done any number of times, by anyone.

        Raises:
            FileNotFoundError: another worker has finished it meanwhile and has put the tools away.
        """
        splits: dict[str, SplitRecord] = {}
        for split in SPLITS:
            shards = [self._record(unit) for unit in plan.units if unit.split == split]
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
        spoken = spoken_concepts(Dataset(self.out, manifest), "train")
        save_normalizer(self.out, fit_on_documents(spoken, manifest.normalizer))
        write_manifest(self.out, manifest.model_copy(update={"companions": companion_hashes(self.out)}))
        self.tidy()
        return Dataset.open(self.out)

    def tidy(self) -> None:
        """Put the tools away once the data set is finished."""
        remove_folder(self.folder)
        remove_leftovers(self.out)

    def is_finished(self) -> bool:
        """Whether somebody has finished the data set."""
        return (self.out / MANIFEST_FILE).exists()

    def _parts(self) -> Iterator[Part]:
        return map(self.spool.part, range(self.parts))

    def _make_codec(self, plan: UnitPlan, report: Callable[[int], None], progress: Progress) -> None:
        def documents() -> Iterator[tuple[str, list[str]]]:
            for document in training_documents(plan, self.spool):
                report(len(document["sentences"]))
                yield document["lang"], without_roles(document)

        self.codec.make(self.settings.codec, self._codec_options(), documents, self.settings.special, progress)

    def _codec_options(self) -> dict[str, Any]:
        seed = self.settings.seed
        return self.settings.codec_options | ({} if seed is None else {"seed": seed})

    def _record_file(self, unit: Unit) -> Path:
        return self.folder / "shards" / f"{unit.shard}.json"

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


def embed_documents(codec: Codec, documents: list[dict[str, Any]], roles: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Embed documents, those of one language together: float32 [n, dim] each, in their order.

    Args:
        codec: with which.
        documents: with their sentences, conversations with their turns.
        roles: the special concepts that stand where turns begin, whatever the language.

    Raises:
        CodecError: the codec gives vectors of a wrong shape or does not know a language.
    """
    embeddings: list[np.ndarray] = [np.empty((0, codec.dim), np.float32)] * len(documents)
    for lang in sorted({document["lang"] for document in documents}):
        check_language_of(codec.languages, lang)
        members = [i for i, document in enumerate(documents) if document["lang"] == lang]
        spoken = [without_roles(documents[i]) for i in members]
        sentences = [sentence for document in spoken for sentence in document]
        vectors = codec.encode(sentences, lang)
        if vectors.shape != (len(sentences), codec.dim):
            raise CodecError(f"the codec gave an array {vectors.shape} for {len(sentences)} sentences of {codec.dim}")
        ends = np.cumsum([len(document) for document in spoken])
        for i, part in zip(members, np.split(vectors, ends[:-1]), strict=True):
            turns = documents[i].get("turns", [])
            starts = np.array([start for _, start in turns], np.int64)
            heads = np.array([roles[role] for role, _ in turns], np.float32).reshape(-1, codec.dim)
            embeddings[i] = np.insert(part, starts - np.arange(len(starts)), heads, axis=0) if turns else part
    return embeddings


def _groups(documents: Iterable[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    """Documents that have `size` sentences together, or just above."""
    group: list[dict[str, Any]] = []
    sentences = 0
    for document in documents:
        group.append(document)
        sentences += len(document["sentences"])
        if sentences >= size:
            yield group
            group, sentences = [], 0
    if group:
        yield group
