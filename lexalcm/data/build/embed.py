"""Many workers make one data set: each takes its share of the units, and whoever completes the last one finishes it.

    segment    every source becomes a part, once                      `Workspace.segment`
    prepare    the codec is made or fitted, the units are cut, once   `Workspace.prepare`
    embed      each unit becomes a shard, once                        `Workspace.embed`
    finish     index, normalizer, manifest                            `Workspace.finish`

A worker that finds a stage undone does it, its own share first and then what others have not done yet, so that none
waits for one that never starts; for units it keeps to its share. Killed workers are started again with the same line.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lexalcm.codec.options import CodecOptions
from lexalcm.data.build.one_process import BuildResult, cut_note, source_record
from lexalcm.data.build.settings import BuildSettings, build_record
from lexalcm.data.build.shared_codec import check_codec_choice
from lexalcm.data.build.tasks import Task
from lexalcm.data.build.units import Unit, WorkUnits
from lexalcm.data.build.workspace import Workspace
from lexalcm.data.format.dataset import Dataset
from lexalcm.data.sources.corpus import Source, TextDocuments, find_sources, read_documents
from lexalcm.errors import UserError
from lexalcm.io.atomic import check_output
from lexalcm.io.progress import Counter, Progress, silent
from lexalcm.text.languages import find_language
from lexalcm.text.segmenters import check_segmenter


@dataclass(frozen=True)
class EmbedResult:
    """How far a worker, and the data set, has come."""

    out: Path
    done: int = 0
    """Units whose shard is there."""
    units: int = 0
    own: int = 0
    """Units that this worker embedded."""
    built: BuildResult | None = None
    """The data set, once it is finished."""
    cut: int = 0
    """Sentences of this worker's units that the codec cut."""

    def to_json(self) -> dict[str, Any]:
        """As plain values, with the data set's summary once it is finished."""
        state = {
            "finished": self.built is not None,
            "units": self.units,
            "done": self.done,
            "own": self.own,
            "cut_sentences": self.cut,
        }
        return state | ({} if self.built is None else self.built.to_json())

    def note(self) -> str:
        """What a worker whose share is done should know while others are at theirs."""
        return (
            f"{self.own} units embedded; {self.done} of {self.units} are done in {self.out}: "
            "the last task to end finishes the data set, or run this again without --task"
            + (f"\n{cut_note(self.cut)}" if self.cut else "")
        )


@dataclass(frozen=True)
class EmbedJob:
    """What all workers of a data set are given; made by `make_job`."""

    sources: tuple[Source, ...]
    out: Path
    settings: BuildSettings
    lang: str
    text_field: str
    documents: TextDocuments
    chat: bool = False
    codec_options: CodecOptions = field(default_factory=CodecOptions)
    """How this worker runs the codec; another may run it in another way."""

    @property
    def workspace(self) -> Workspace:
        """Where they work."""
        return Workspace(self.out, self.settings, len(self.sources), self.codec_options)

    def request(self) -> dict[str, Any]:
        """What must be the same for all workers."""
        sizes = [[source.name, source.path.stat().st_size] for source in self.sources if source.path is not None]
        reading = {"lang": self.lang, "text_field": self.text_field, "documents": self.documents}
        return build_record(self.settings, self.source()) | reading | {"sources": sizes}

    def source(self) -> dict[str, Any]:
        """What the manifest says of where the documents came from."""
        return source_record(self.sources, self.chat)

    def segment(self, part: int, counter: Counter, languages: Collection[str] | None = None) -> None:
        """Segment one source, unless that is done; `languages` as for `Workspace.segment`."""
        found = read_documents(
            self.sources[part : part + 1],
            lang=self.lang,
            text_field=self.text_field,
            documents=self.documents,
            chat=self.chat,
        )
        self.workspace.segment(part, found, counter, languages)

    def finished(self) -> BuildResult | None:
        """The data set if it is finished, and was made from the same with the same settings.

        Raises:
            UserError: the folder holds another data set.
        """
        if not self.workspace.is_finished():
            return None
        dataset = Dataset.open(self.out)
        if dataset.manifest.build != build_record(self.settings, self.source()):
            raise UserError(f"{self.out} holds another data set already: choose another --out, or remove it")
        self.workspace.remove()  # the one who finished it may have been killed before that
        return BuildResult(dataset, made=False)


def make_job(
    paths: Sequence[Path | str],
    out: Path | str,
    settings: BuildSettings,
    *,
    lang: str = "eng_Latn",
    text_field: str = "text",
    documents: TextDocuments = "blank-line",
    chat: bool = False,
    codec_options: CodecOptions | None = None,
) -> EmbedJob:
    """Check what is asked for, before any work is begun.

    Raises:
        UserError: an input that is not there or cannot be read twice, an output that cannot be written, a codec that
            is not installed.
    """
    sources = find_sources(paths, text_field=text_field, chat=chat)
    if any(source.path is None for source in sources):
        raise UserError("standard input can be read only once: use lcm data build, or write it to a file")
    check_codec_choice(settings.codec)
    check_segmenter(settings.segmenter, settings.segmenter_options)
    job = EmbedJob(
        tuple(sources),
        Path(out),
        settings,
        find_language(lang),
        text_field,
        documents,
        chat,
        codec_options or CodecOptions(),
    )
    if not job.workspace.folder.is_dir() and not job.workspace.is_finished():
        check_output(job.out)
    return job


def embed(job: EmbedJob, task: Task | None = None, *, progress: Progress = silent) -> EmbedResult:
    """Do a share of the work on a data set, and finish it if nothing is left to do.

    Args:
        job: what all workers are given.
        task: which share is this one's; None: all of it.
        progress: opens a report of each stage.

    Raises:
        UserError: the folder was begun for something else, an input that cannot be used, or a disk that is full; the
            units that are finished stay.
    """
    task = task or Task()
    try:
        return _work(job, task, progress)
    except FileNotFoundError as error:
        finished = job.finished()  # another worker has done so meanwhile, and has removed the working folder
        if finished is None:
            raise UserError(
                f"{error.filename} was removed while it was needed: put it back and run the same command again"
            ) from error
        return EmbedResult(job.out, built=finished)
    except OSError as error:
        raise unwritable(job.out, error) from error


def unwritable(out: Path, error: OSError) -> UserError:
    """The error of a worker that cannot write."""
    return UserError(
        f"cannot write {out}: {error.strerror or error}; finished shards stay: fix that and run the same command again"
    )


def _work(job: EmbedJob, task: Task, progress: Progress) -> EmbedResult:
    finished = job.finished()
    if finished is not None:
        return EmbedResult(job.out, built=finished)
    workspace = job.workspace
    languages = workspace.try_codec(progress)  # before anything is begun: a mistake binds nobody
    workspace.begin(job.request())
    with progress("segmenting", "sentences") as report:
        counter = Counter(report)
        for part in task.from_own_on(range(len(job.sources))):
            job.segment(part, counter, languages)
    with progress(f"making the codec {job.settings.codec}", "sentences") as report:
        work = workspace.prepare(Counter(report), progress)
    return finish(job, work, *_embed_units(workspace, work, task, progress))


def _embed_units(workspace: Workspace, work: WorkUnits, task: Task, progress: Progress) -> tuple[int, int]:
    """Embed what is undone of a share: how many units that were, and how many sentences the codec cut."""
    undone: list[Unit] = [unit for unit in task.share(work.units) if not workspace.is_done(unit)]
    cut = 0
    if undone:
        codec = workspace.codec.open(progress)
        with progress("embedding", "sentences") as report:
            counter = Counter(report, sum(unit.sentences for unit in undone))
            workspace.embed(work, undone, codec, counter)
        cut = codec.cut
    return len(undone), cut


def finish(job: EmbedJob, work: WorkUnits, own: int, cut: int = 0) -> EmbedResult:
    """Make the data set if all units are done; `own` says how many this worker did, `cut` what it lost of them."""
    workspace = job.workspace
    done = sum(workspace.is_done(unit) for unit in work.units)
    state = EmbedResult(job.out, done=done, units=len(work.units), own=own, cut=cut)
    if done < len(work.units):
        return state
    return replace(state, built=BuildResult(workspace.finish(work, job.source()), work.dropped, cut_sentences=cut))
