"""The examples of a task, read from JSONL."""

import json
from dataclasses import dataclass
from pathlib import Path

from lexalcm.codec.base import Codec
from lexalcm.errors import DataError, UserError
from lexalcm.generate.prompts.detect_language import detect_language
from lexalcm.text.languages import find_language
from lexalcm.text.segment import segment

FIELDS = {"source", "reference", "lang", "id"}


@dataclass(frozen=True)
class TaskExample:
    """A text to continue, and what it should become."""

    id: str
    lang: str
    source: list[str]  # sentences, one at least
    reference: list[str]


def read_examples(file: Path, limit: int | None = None, codec: Codec | None = None) -> list[TaskExample]:
    """Read a JSONL file of `source`, `reference`, and where given `lang` and `id`; other fields are left alone.

    Args:
        file: UTF-8, an object a line; empty lines are passed over.
        limit: how many are read, at most.
        codec: the models', whose languages help to detect theirs.

    Raises:
        DataError: no such file, a line that is not of this form, or none at all.
    """
    examples: list[TaskExample] = []
    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip() and (limit is None or len(examples) < limit):
                    examples.append(_example(line, f"{file}, line {number}", number, codec))
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text: convert it first, e.g. with iconv") from error
    if not examples:
        raise DataError(f"{file} has no example: write one JSON object a line, with source and reference")
    return examples


def _example(line: str, where: str, number: int, codec: Codec | None) -> TaskExample:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON: write one object a line, with source and reference") from error
    texts = {}
    for name in ("source", "reference"):
        text = record.get(name) if isinstance(record, dict) else None
        if not isinstance(text, str):
            raise DataError(f"{where}: the field {name} must be a string")
        texts[name] = text
    lang = _language(record.get("lang"), texts["source"], where, codec)
    sentences = {name: segment(text, lang) for name, text in texts.items()}
    for name, found in sentences.items():
        if not found:
            raise DataError(f"{where}: {name} is empty")
    name = str(record.get("id", number)).encode("utf-8", "replace").decode()  # no report can hold half a character
    return TaskExample(name, lang, sentences["source"], sentences["reference"])


def _language(given: object, text: str, where: str, codec: Codec | None) -> str:
    if given and not isinstance(given, str):
        raise DataError(f"{where}: lang must be a language's code or name")
    try:
        return find_language(given) if isinstance(given, str) and given else detect_language(text, codec)
    except UserError as error:
        raise DataError(f"{where}: {error}") from error
