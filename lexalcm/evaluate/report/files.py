"""A report as files: JSON for programs, Markdown for a repository, HTML to look at."""

import json
from pathlib import Path

from lexalcm.errors import UserError
from lexalcm.evaluate.report.html_report import to_html
from lexalcm.evaluate.report.markdown import to_markdown
from lexalcm.evaluate.report.report import Evaluation
from lexalcm.io.atomic import write_text


def to_json(evaluation: Evaluation) -> str:
    """The whole report as JSON text."""
    return json.dumps(evaluation.to_json(), ensure_ascii=False, indent=2) + "\n"


_WRITERS = {".json": to_json, ".md": to_markdown, ".html": to_html}


def check_report_name(file: Path) -> None:
    """Make sure that a file's extension is that of a report.

    Raises:
        UserError: it does not.
    """
    if file.suffix.lower() not in _WRITERS and not file.is_dir():
        raise UserError(f"--out {file}: the name must end in {', '.join(_WRITERS)}")


def write_report(evaluation: Evaluation, file: Path) -> None:
    """Write a report in the form that the file's name asks for."""
    write_text(file, _WRITERS[file.suffix.lower()](evaluation))
