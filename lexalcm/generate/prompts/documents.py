"""Prompts from a file or from standard input, one document a line: JSON objects, or plain text.

A JSON line has `text`, or `sentences` as a list, and may have `id`, `lang`, `to` and `seed`; other fields are passed
over. A line of plain text is a document. Empty lines are not documents. Of conversations a JSON line has `messages`, or
another layout of `lexalcm.text.chat`, that ends with what is to be answered (`prompt` or `instruction` without what
would follow), or else `text`, which the user says.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lexalcm.codec.base import Codec
from lexalcm.errors import DataError, UserError
from lexalcm.generate.prompts.chat import chat_prompt
from lexalcm.generate.prompts.prompt import Prompt, check_seed, read_prompt
from lexalcm.text.absent import is_absent
from lexalcm.text.chat import Turn, read_turns
from lexalcm.text.languages import find_language

STDIN = "-"
JSON_SUFFIXES = (".jsonl", ".json")
TEXT_SUFFIX = ".txt"


@dataclass(frozen=True)
class Defaults:
    """What holds for documents that do not say it themselves."""

    lang: str | None = None
    to: str | None = None
    seed: int = 0
    max_prompt: int | None = None
    chat: bool = False
    """Whether documents are conversations to be answered."""
    system: str | None = None
    """The system turn of conversations that have none."""


@dataclass(frozen=True)
class InputDocument:
    """A prompt and what it is called."""

    id: str
    prompt: Prompt
    place: str  # for messages: `prompts.jsonl:3`


def open_lines(source: str | Path) -> Iterator[bytes]:
    """The lines of a file, or of standard input for `-`, as they come.

    Raises:
        UserError: no such file, or one of an unknown kind; at the call, not at the first line.
    """
    if str(source) == STDIN:
        return iter(sys.stdin.buffer)
    path = Path(source)
    if path.is_dir():
        raise UserError(f"{path} is a folder: give a file, .jsonl or .txt, one document a line")
    if path.suffix.lower() not in (*JSON_SUFFIXES, TEXT_SUFFIX):
        raise UserError(f"cannot tell what {path} holds by its name: known are .jsonl and .txt, one document a line")
    try:
        return iter(path.open("rb"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def read_input_documents(
    lines: Iterable[bytes], source: str | Path, defaults: Defaults, codec: Codec | None = None
) -> Iterator[InputDocument]:
    """Make a prompt of every line.

    Args:
        lines: from `open_lines`.
        source: what they were read from; its suffix says what they hold. Standard input holds JSON if its first
            document begins with a brace.
        defaults: for what a document does not say.
        codec: must read and write the documents' languages; none: any language will do.

    Raises:
        DataError: a line that is no document, with its number; or there is none at all.
    """
    name = "standard input" if str(source) == STDIN else str(source)
    is_json = None if str(source) == STDIN else not str(source).lower().endswith(TEXT_SUFFIX)
    some = False
    for number, raw in enumerate(lines, start=1):
        place = f"{name}:{number}"
        try:
            line = raw.decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise DataError(f"{place}: not UTF-8 text: convert it first, e.g. with iconv") from error
        if not line:
            continue
        if is_json is None:
            is_json = line.startswith("{")
        record = _record(line, place) if is_json else {"text": line}
        try:
            prompt = _prompt(record, defaults, codec)
        except UserError as error:
            raise DataError(f"{place}: {error}") from error
        # No file can hold half a character, which JSON can spell; in texts segmentation replaces it.
        name_of = str(record.get("id", number)).encode("utf-8", "replace").decode()
        some = True
        yield InputDocument(name_of, prompt, place)
    if not some:
        raise DataError(f"{name} has no document: give one a line")


def _record(line: str, place: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: not valid JSON ({error})") from error
    if not isinstance(record, dict):
        raise DataError(f'{place}: expected a JSON object like {{"text": "..."}}')
    return {name: value for name, value in record.items() if not is_absent(value)}


_ANSWERS = {"prompt": "completion", "instruction": "output"}
"""Of layouts with an answer in a field of its own: what is asked, what is answered."""


def _turns(record: dict[str, Any]) -> list[Turn]:
    """The conversation of a line: in a known layout, or a text, which the user says."""
    if record.get("messages") is None and record.get("conversations") is None:
        asked = next((name for name in _ANSWERS if record.get(name) is not None), None)
        if asked is not None:
            record = {**record, _ANSWERS[asked]: record.get(_ANSWERS[asked]) or ""}
        elif not {"text", "sentences"}.isdisjoint(record):
            content = _content(record)
            return [Turn("user", content if isinstance(content, str) else "\n".join(content))]
    return read_turns(record, "")[0]


def _content(record: dict[str, Any]) -> str | list[str]:
    """The text of a line, or its sentences."""
    if "sentences" in record:
        content = record["sentences"]
        if not (isinstance(content, list) and all(isinstance(one, str) for one in content)):
            raise UserError("sentences must be a list of texts")
        return content
    if "text" not in record:
        raise UserError(f"no text and no sentences, only {', '.join(record) or 'an empty object'}")
    if not isinstance(record["text"], str):
        raise UserError("text must be a text")
    return record["text"]


def _prompt(record: dict[str, Any], defaults: Defaults, codec: Codec | None) -> Prompt:
    seed = check_seed(record.get("seed", defaults.seed))
    languages = {}
    for key in ("lang", "to"):
        given = record.get(key)
        if given is not None and not isinstance(given, str):
            raise UserError(f"{key} must be a language's code or name")
        languages[key] = find_language(given) if given else getattr(defaults, key)
    if not defaults.chat:
        return read_prompt(_content(record), **languages, seed=seed, max_sentences=defaults.max_prompt, codec=codec)
    turns = _turns(record)
    if defaults.system is not None and turns and turns[0].role != "system":
        turns = [Turn("system", defaults.system), *turns]
    return chat_prompt(turns, **languages, seed=seed, max_sentences=defaults.max_prompt, codec=codec)
