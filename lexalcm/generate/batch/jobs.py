"""Many documents: continued in batches, a line of JSON each, in the order of the input.

Batch k is documents k B to (k + 1) B - 1, whatever was finished before: who goes on after a kill makes the batch that
was begun again, so that the lines are, to the last digit, those of a run that was never interrupted. It costs at most
that batch.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from lexalcm.codec.base import Codec
from lexalcm.codec.options import CodecOptions
from lexalcm.errors import DataError, UserError
from lexalcm.generate.batch.output_log import OutputLog
from lexalcm.generate.batch.sentence_report import text_report
from lexalcm.generate.continuation import WrittenSentence
from lexalcm.generate.options import GenerationOptions
from lexalcm.generate.prompts.documents import STDIN, Defaults, InputDocument, open_lines, read_input_documents
from lexalcm.generate.prompts.prompt import check_languages
from lexalcm.generate.text import TextModel
from lexalcm.io.progress import Counter, ReportProgress
from lexalcm.model.storage.fingerprint import model_fingerprint

Append = Callable[[Sequence[Mapping[str, Any]]], None]
"""Takes the results of documents, in order."""


@dataclass(frozen=True)
class Job:
    """How documents are continued.

    Attributes:
        options: of generation.
        codec_options: how the codec decodes.
        defaults: for what a document does not say.
        batch: documents that are continued together; changes results by rounding alone.
        samples: texts for each document, with its seed and the ones above it.
    """

    options: GenerationOptions
    codec_options: CodecOptions
    defaults: Defaults
    batch: int = 32
    samples: int = 1


def write_documents(
    writer: TextModel,
    documents: Iterable[InputDocument],
    job: Job,
    append: Append,
    *,
    finished: int = 0,
    report: ReportProgress = lambda _done, _total: None,
    total: int | None = None,
) -> None:
    """Continue documents and hand over their results, in order, as soon as they are there.

    Args:
        writer: model and codec.
        documents: read as they are needed.
        job: how.
        append: gets the results.
        finished: how many documents, from the first, have results already.
        report: is called with finished documents.
        total: how many there are, if that is known.

    Raises:
        DataError: a document in a language that the codec does not have.
    """
    count = Counter(report, total)
    count(finished)
    documents, begin = iter(documents), 0
    while group := list(islice(documents, job.batch)):
        if begin + len(group) > finished:
            for results in _continue(writer, group, job, skipped=max(0, finished - begin)):
                append(results)
                count(len(results))
        begin += len(group)


def _continue(
    writer: TextModel, group: Sequence[InputDocument], job: Job, *, skipped: int
) -> Iterator[list[dict[str, Any]]]:
    """Results of the documents behind the `skipped` first ones: those that follow the last ones given, once done."""
    samples = job.samples
    for document in group:
        try:
            check_languages(writer.codec, document.prompt)
        except UserError as error:
            raise DataError(f"{document.place}: {error}") from error
    prompts = [
        document.prompt.with_seed(document.prompt.seed + sample) for document in group for sample in range(samples)
    ]
    texts = writer.write_all(prompts, job.options)
    written: list[list[WrittenSentence]] = [[] for _ in prompts]
    given = skipped

    def ready() -> list[dict[str, Any]]:
        nonlocal given
        results = []
        while given < len(group):
            rows = range(given * samples, (given + 1) * samples)
            if any(texts.stops[row] is None for row in rows):
                break
            reports = [text_report(written[row], texts.embedded[row], texts.stops[row]) for row in rows]
            results.append(_result(group[given], reports))
            given += 1
        return results

    for sentences in texts:
        for row, sentence in sentences:
            written[row].append(sentence)
        if results := ready():
            yield results
    if results := ready():
        yield results


def _result(document: InputDocument, reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    prompt = document.prompt
    about = {"id": document.id, "lang": prompt.lang, "to": prompt.to, "prompt": list(prompt.sentences)}
    if len(reports) == 1:
        return {**about, "seed": prompt.seed, **reports[0]}
    return {**about, "samples": [{"seed": prompt.seed + number, **report} for number, report in enumerate(reports)]}


class Input:
    """Documents to continue: a whole file, read twice, or standard input, kept in memory where it is read twice.

    Args:
        source: a file, or `-`.
        defaults: for what a document does not say.
        codec: must read and write the documents' languages; none: any language will do.
    """

    def __init__(self, source: str | Path, defaults: Defaults, codec: Codec | None = None) -> None:
        self.source = source
        self.defaults = defaults
        self._codec = codec
        self._kept: bytes | None = None

    def check(self) -> tuple[int, str]:
        """Read it all once, so that a mistake in the last line is known before the first is continued.

        Returns:
            how many documents there are, and the sha256 of the bytes.

        Raises:
            UserError: as `open_lines` and `read_input_documents`.
        """
        digest = hashlib.sha256()
        lines = open_lines(self.source)
        if str(self.source) == STDIN:
            self._kept = b"".join(lines)
            lines = iter(io.BytesIO(self._kept))

        def hashed() -> Iterator[bytes]:
            for line in lines:
                digest.update(line)
                yield line

        return sum(
            1 for _ in read_input_documents(hashed(), self.source, self.defaults, self._codec)
        ), digest.hexdigest()

    def documents(self) -> Iterator[InputDocument]:
        """The documents, as they come."""
        lines = open_lines(self.source) if self._kept is None else iter(io.BytesIO(self._kept))
        return read_input_documents(lines, self.source, self.defaults, self._codec)


def job_settings(writer: TextModel, job: Job, input_hash: str) -> dict[str, Any]:
    """What the lines of an output depend on, as JSON has it; what changes nothing but rounding is left out."""
    settings = {
        "model": model_fingerprint(writer.folder),
        "dtype": str(next(writer.model.parameters()).dtype).removeprefix("torch."),
        "input": input_hash,
        **job.options.model_dump(mode="json"),
        "samples": job.samples,
        **asdict(job.defaults),
        **job.codec_options.decoding.model_dump(mode="json"),
    }
    return json.loads(json.dumps(settings))


def write_file(
    writer: TextModel,
    source: Input,
    output: str | Path,
    job: Job,
    *,
    overwrite: bool = False,
    report: ReportProgress = lambda _done, _total: None,
) -> tuple[int, int]:
    """Continue the documents of an input into a file, or go on with one that was begun.

    Args:
        writer, job, report: see `write_documents`.
        source: is checked to its end before anything is made.
        output: the file; see `OutputLog`.
        overwrite: begin it anew.

    Returns:
        how many documents there are, and how many of them were finished before.

    Raises:
        UserError: a mistake in the input, or an output that cannot be gone on with.
    """
    given, made = Path(source.source), Path(output)
    if str(given) != STDIN and given.exists() and made.exists() and made.samefile(given):
        raise UserError(f"{output} is the input: choose another --output")
    total, input_hash = source.check()
    with OutputLog(output, job_settings(writer, job, input_hash), overwrite=overwrite) as log:
        if log.finished < total:
            write_documents(
                writer, source.documents(), job, log.append, finished=log.finished, report=report, total=total
            )
        return total, log.finished
