"""`lcm infer --input`: many documents, a line of JSON each."""

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lexalcm.cli.console import err, json_text, progress

if TYPE_CHECKING:
    from lexalcm.generate.batch.jobs import Job
    from lexalcm.generate.text import TextModel


def infer_documents(writer: "TextModel", source: str, output: str, job: "Job", *, overwrite: bool) -> None:
    """Write a file, or resume one; to stdout a line is printed as soon as its document is done."""
    from lexalcm.generate.batch.jobs import Input, write_documents, write_file
    from lexalcm.generate.prompts.documents import STDIN

    documents = Input(source, job.defaults, writer.codec)
    with progress("documents", "documents") as report:
        if output == "-":
            known = None if source == STDIN else documents.check()[0]  # who types or pipes wants answers as they come
            write_documents(writer, documents.documents(), job, _print_lines, report=report, total=known)
            return
        total, before = write_file(writer, documents, output, job, overwrite=overwrite, report=report)
    if before == total:
        err.print(f"nothing to do: {output} has all {total} documents", style="dim")
    else:
        err.print(
            f"wrote {output}: {total} documents{f', {before} of them already there' if before else ''}", style="dim"
        )


def _print_lines(records: Sequence[Mapping[str, Any]]) -> None:
    for record in records:
        sys.stdout.write(json_text(record) + "\n")
    sys.stdout.flush()
