"""Read documents from text files, JSON and parquet, one at a time.

A text file holds documents divided by blank lines (the convention of pre-training corpora) or is one document; a JSON
object or a parquet row is one document. Folders are read recursively in sorted order, so that the same files always
give the same documents in the same order. Memory: one document (one row group for parquet).
"""

import logging
import math
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import zstandard

from lexalcm.data.sources.json_records import decoded_lines, json_records
from lexalcm.data.sources.open_text import check_size, open_text
from lexalcm.data.sources.unread import describe_unread, report_unread
from lexalcm.errors import DataError, UserError
from lexalcm.io.folders import files_below
from lexalcm.text.absent import first_present, is_absent
from lexalcm.text.chat import ASSISTANT, CHAT_FIELDS, Turn, is_conversation, read_turns
from lexalcm.text.languages import LANGUAGE_FIELDS, known_language, record_language
from lexalcm.text.writable import writable

logger = logging.getLogger(__name__)

_PACKED = ("", ".gz", ".zst")
_TEXT = tuple(f".txt{packed}" for packed in _PACKED)
_ANY_JSON = tuple(f".json{packed}" for packed in _PACKED)
_JSON = (*(f"{kind}{packed}" for kind in (".jsonl", ".ndjson") for packed in _PACKED), *_ANY_JSON)
SUFFIXES = (*_TEXT, *_JSON, ".parquet")
ABOUT_THE_FOLDER = ("license", "licence", "copying", "notice", "readme")
"""Names of text files that are about the others in a folder; they are read only where they are given by name."""

STDIN = "-"
_ABOUT = ("id", "lang", "title")
"""Fields about a document, which are not metadata."""

TextDocuments = Literal["blank-line", "file"]


@dataclass(frozen=True, slots=True)
class Document:
    """One text with what is known about it."""

    id: str
    lang: str
    text: str
    title: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    sentences: list[str] | None = None
    """Where the text comes in sentences already; `text` is empty then."""
    source: "Document | None" = None
    """For a pair (source, target): the source's text or sentences. The document's own are the target."""
    turns: list[Turn] | None = None
    """For a conversation; text is empty then."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file to read, or standard input (`path` is None), and the name that its documents' ids begin with."""

    path: Path | None
    name: str

    @property
    def shown(self) -> str:
        """How messages call it."""
        return "standard input" if self.path is None else str(self.path)

    def is_of(self, suffixes: tuple[str, ...]) -> bool:
        """Whether the name ends in one of them."""
        return self.name.lower().endswith(suffixes)


MakeDocument = Callable[[Mapping[str, Any], str, str], Document]
"""Makes a document of a record, where it stands (for messages), and the id of one without its own."""

Unused = Counter[tuple[str, str]]
"""What is not used of the records: counts, by what it is and its name."""


def find_sources(paths: Iterable[Path | str], *, text_field: str = "text", chat: bool = False) -> list[Source]:
    """List the files to read: given files as they are, folders recursively and sorted, `-` for standard input.

    Of a folder's `.json` only those are read whose first object is a document. What is not read is logged as a warning.

    Args:
        paths: what was given.
        text_field: as for `read_documents`.
        chat: as for `read_documents`.

    Raises:
        UserError: a path that does not exist, a file of an unknown kind, a folder without a readable file or one that
            may not be looked into.
    """
    sources: list[Source] = []
    for given in paths:
        path = Path(given)
        if str(given) == STDIN:
            sources.append(Source(None, "stdin"))
        elif path.is_dir():
            sources += _of_folder(path, text_field, chat)
        elif not path.exists():
            raise UserError(f"no such file or folder: {path}")
        elif not path.name.lower().endswith(SUFFIXES):
            raise UserError(f"cannot tell what {path} holds by its name: known are {', '.join(SUFFIXES)}")
        else:
            sources.append(Source(path, writable(path.name)))
    return sources


def _of_folder(folder: Path, text_field: str, chat: bool) -> list[Source]:
    inside = [Source(folder / name, writable(name.as_posix())) for name in files_below(folder)]
    found = [source for source in inside if source.is_of(SUFFIXES) and not _is_about_the_folder(source)]
    sure = [source for source in found if not source.is_of(_ANY_JSON) or _holds_documents(source, text_field, chat)]
    chosen = sure or found  # none for sure: reading the others says what is wrong
    unread = sorted({source.name for source in inside} - {source.name for source in chosen})
    if not chosen:
        seen = f"; {describe_unread(unread)}" if unread else ""
        raise UserError(f"{folder} holds no text to read: known are {', '.join(SUFFIXES)}{seen}")
    report_unread(folder, unread)
    return chosen


def _is_about_the_folder(source: Source) -> bool:
    return source.is_of(_TEXT) and Path(source.name).name.lower().partition(".")[0] in ABOUT_THE_FOLDER


def _holds_documents(source: Source, text_field: str, chat: bool) -> bool:
    """Whether the first object of a JSON file is a document; whatever else it holds, this is not for us."""
    try:
        with open_text(source.path, source.shown) as file:
            first = next((record for _, _, record in json_records(file, source.shown)), None)
    except DataError:
        return False
    except (OSError, EOFError, zlib.error, zstandard.ZstdError):
        return True  # reading it says what is wrong
    if first is None:
        return False
    return is_conversation(first) if chat else text_field in first or first.keys() >= {"source", "target"}


def read_documents(
    sources: Iterable[Source],
    *,
    lang: str = "eng_Latn",
    text_field: str = "text",
    documents: TextDocuments = "blank-line",
    chat: bool = False,
) -> Iterator[Document]:
    """Yield every document of the sources, in order.

    Args:
        sources: what `find_sources` found.
        lang: SONAR code for documents that do not say theirs (a `lang` field does, in any way that `find_language`
            knows; see `record_language`).
        text_field: the field of JSON objects and the column of parquet that hold the text, or a list of its sentences.
            The fields `id`, `title` and `lang` are used too; further ones that hold a plain value are kept as metadata.
            A record without that field but with `source` and `target` is a pair. Fields that are null, NaN or empty
            count as missing.
        documents: what a document is in a text file: what stands between blank lines, or the whole file.
        chat: every record is a conversation in a layout of `lexalcm.text.chat`; standard input holds JSON.

    At the end, what was not used of the records, and looks as though it should be, is logged as a warning.

    Raises:
        DataError: an empty, broken or non-UTF-8 file, a bad line, a missing field; the message says where.
    """
    unused: Unused = Counter()
    for source in sources:
        if chat and source.is_of(_TEXT):
            raise DataError(f"{source.shown} is plain text, not a conversation: --chat reads .jsonl and .parquet")

        def make(record: Mapping[str, Any], where: str, default_id: str) -> Document:
            if chat:
                return _conversation(record, where, default_id, lang, unused)
            return _document(record, where, default_id, lang, text_field, unused)

        try:
            if source.path is not None and source.path.stat().st_size == 0:
                raise DataError(f"{source.shown} is empty: nothing to read")
            if source.is_of((".parquet",)):
                yield from _read_parquet(source, make, CHAT_FIELDS if chat else {text_field, "source", "target"})
                continue
            with open_text(source.path, source.shown) as file:
                if source.is_of(_JSON) or chat:
                    for number, where, record in json_records(file, source.shown):
                        yield make(record, where, f"{source.name}:{number}")
                else:
                    yield from _read_text(decoded_lines(file, source.shown), source, lang, documents)
        except OSError as error:
            raise UserError(f"cannot read {source.shown}: {error.strerror or error}") from error
        except (EOFError, zlib.error, zstandard.ZstdError) as error:
            raise DataError(f"{source.shown} is not a whole compressed file: {error}") from error
    for what in dict.fromkeys(what for what, _ in unused):
        names = {name: count for (kind, name), count in unused.items() if kind == what}
        logger.warning("%s: %s", what, ", ".join(f"{name} ({count:,})" for name, count in names.items()))


def _read_text(lines: Iterator[str], source: Source, lang: str, documents: TextDocuments) -> Iterator[Document]:
    gathered: list[str] = []
    size = count = 0
    for line in lines:
        if documents == "file" or line.strip():
            gathered.append(line)
            size += len(line)
            check_size(size, "document", source.shown)
        elif gathered:
            yield Document(f"{source.name}#{count}", lang, "".join(gathered))
            gathered, size = [], 0
            count += 1
    if gathered:
        yield Document(source.name if documents == "file" else f"{source.name}#{count}", lang, "".join(gathered))


def _read_parquet(source: Source, make: MakeDocument, used: Collection[str]) -> Iterator[Document]:
    """Read the columns that are `used` for the text, those about the document, and those of plain values."""
    import pyarrow

    from lexalcm.data.sources.arrow_columns import as_python, check_unique, is_plain, open_parquet, rows_not_utf8

    assert source.path is not None
    try:
        with open_parquet(source.path) as file:
            fields = {field.name: field.type for field in file.schema_arrow}
            names = [name for name in fields if name in {*used, *_ABOUT} or is_plain(fields[name])]
            check_unique(file.schema_arrow, names, source.path)
            row = 0
            for batch in file.iter_batches(batch_size=1024, columns=names):
                columns = {name: as_python(batch.column(name)) for name in names}
                bad = {
                    i: (name, byte)
                    for name in names
                    if name in used
                    for i, byte in rows_not_utf8(batch.column(name)).items()
                }
                for i in range(len(batch)):
                    row += 1
                    where = f"{source.shown}: row {row}: "
                    if i in bad:
                        raise DataError(f"{where}field {bad[i][0]!r} is not UTF-8 ({bad[i][1]})")
                    record = dict.fromkeys(fields) | {name: values[i] for name, values in columns.items()}
                    yield make(record, where, f"{source.name}:{row}")
    except pyarrow.ArrowException as error:
        raise DataError(f"{source.shown} is not a readable parquet file: {str(error).splitlines()[0]}") from error


def _document(
    record: Mapping[str, Any], where: str, default_id: str, lang: str, text_field: str, unused: Unused
) -> Document:
    sides = ("source", "target")
    is_pair = is_absent(record.get(text_field)) and all(record.get(side) is not None for side in sides)
    if is_pair:
        text_field = "target"
    elif text_field not in record:
        fields = ", ".join(record) or "none"
        raise DataError(f"{where}no field {text_field!r}: choose one with --text-field: {fields}")
    text, sentences = _text(record, text_field, where)
    known = _about(record, where, default_id, lang, {text_field, "source"} if is_pair else {text_field}, unused)
    source = None
    if is_pair:
        source_text, source_sentences = _text(record, "source", where)
        source = Document(known["id"], known["lang"], source_text, sentences=source_sentences)
    return Document(text=text, sentences=sentences, source=source, **known)


def _conversation(record: Mapping[str, Any], where: str, default_id: str, lang: str, unused: Unused) -> Document:
    turns, fields = read_turns(record, where)
    turns = [replace(turn, text=writable(turn.text)) for turn in turns]
    unused.update(("not read of messages", name) for turn in turns for name in turn.unused)
    unused.update(("left out", "messages without text") for turn in turns if is_absent(turn.text))
    unused.update(
        ("read, not learned", "answers of weight 0") for turn in turns if turn.role == ASSISTANT and not turn.learned
    )
    about = _about(record, where, default_id, lang, fields, unused)
    for name, value in record.items():
        if name not in fields | about["metadata"].keys() and isinstance(value, list | Mapping) and value:
            unused["not read of conversations", name] += 1
    return Document(text="", turns=turns, **about)


def _about(
    record: Mapping[str, Any], where: str, default_id: str, lang: str, used: set[str], unused: Unused
) -> dict[str, Any]:
    """What a record says of its document; fields that are `used` hold the text."""
    given_id = first_present(record, "id")
    try:
        found = record_language(record, lang)
    except DataError as error:
        raise DataError(f"{where}{error}") from None
    if is_absent(record.get("lang")):
        unused.update(("not read as a language: name it lang", name) for name in _other_languages(record, found))
    return {
        "id": default_id if given_id is None else writable(str(given_id)),
        "lang": found,
        "title": writable(str(first_present(record, "title") or "")),
        "metadata": {
            name: writable(value) if isinstance(value, str) else value
            for name, value in record.items()
            if name not in {*_ABOUT, *used} and _is_plain(value)
        },
    }


def _other_languages(record: Mapping[str, Any], found: str) -> Iterator[str]:
    """Fields that seem to say another language than was found: that name one, or are called `language` and do not."""
    for name, value in record.items():
        if isinstance(value, str) and ("lang" in name.casefold() or name.casefold() == "locale"):
            named = known_language(value)
            is_other = name not in LANGUAGE_FIELDS and named not in (None, found)
            if is_other or (name == "language" and named is None and not is_absent(value)):
                yield name


def _text(record: Mapping[str, Any], field: str, where: str) -> tuple[str, list[str] | None]:
    """A field's text, or empty text and its sentences."""
    text = record[field]
    if isinstance(text, list) and all(isinstance(sentence, str) for sentence in text):
        return "", [writable(sentence) for sentence in text if sentence.strip()]
    if not isinstance(text, str):
        raise DataError(f"{where}field {field!r} holds {type(text).__name__}, not text or a list of sentences")
    return writable(text), None


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | bool) or (isinstance(value, float) and math.isfinite(value))
