"""Segmented documents on disk: a part for each source, which is read again for the codec's fit and for each shard.

    000000.jsonl    a line a document: id, lang, title, sentences, metadata
    000000.npz      per document: where its line starts, bytes of its JSON as stored, sentences, position (28 bytes)

A part is there when its `.npz` is. Both files are written beside and renamed, and the same source gives the same bytes,
so two workers that segment the same source are harmless.
"""

import hashlib
import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from lexalcm.codec.special import SPECIAL_CONCEPTS
from lexalcm.data.format.shards import document_json
from lexalcm.data.sources.corpus import Document
from lexalcm.io.atomic import atomic_file
from lexalcm.text.chat import chat_document
from lexalcm.text.segment import MAX_CHARS, Segmenter, segment_texts

CHECK_EVERY = 256
"""Documents after which a worker looks whether another has finished the same part."""

SEGMENT_DOCUMENTS = 64
"""Documents that are segmented together: a segmenter that is a model computes in batches."""


class _OvertakenError(Exception):
    """Another worker has finished what this one was at."""


@dataclass(frozen=True)
class Part:
    """What is known of a part's documents; arrays of one entry a document."""

    start: np.ndarray
    """int64 [documents + 1], byte offset of the line; the last is the file's size."""
    text_bytes: np.ndarray
    """int64, of the JSON that a shard stores."""
    n: np.ndarray
    """int32, sentences."""
    position: np.ndarray
    """float64, `document_position`."""
    dropped: int
    """Documents without a sentence, which are not in the part."""

    def __len__(self) -> int:
        return len(self.n)


def document_position(document_id: str) -> float:
    """A document's place in [0, 1): its id's SHA-256, the first 8 bytes read as a big-endian fraction."""
    return int.from_bytes(hashlib.sha256(document_id.encode()).digest()[:8], "big") / 2**64


class SegmentedStore:
    """A folder of parts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def has(self, part: int) -> bool:
        """Whether a part is complete."""
        return self._index(part).exists()

    def write(
        self,
        part: int,
        documents: Iterable[Document],
        *,
        max_chars: int = MAX_CHARS,
        min_chars: int = 1,
        segmenter: Segmenter | None = None,
        join_lines: bool = False,
        text: bool = True,
        role_sentences: Mapping[str, str] = SPECIAL_CONCEPTS,
        report: Callable[[int], None] = lambda _sentences: None,
    ) -> None:
        """Segment documents and write those that have a sentence: pairs if both sides have one, chats if an assistant.

        Documents that come in sentences are taken as they are. Stops when another worker has finished the same part.

        Args:
            part: its number.
            documents: read once, in order.
            max_chars: longer sentences are cut.
            min_chars: shorter ones are joined with a neighbour.
            segmenter: who finds them.
            join_lines: a single line end does not end a paragraph.
            text: whether shards will store the sentences.
            role_sentences: of the special concepts that open the turns of conversations.
            report: called with the number of sentences of each document.
        """
        split = partial(
            segment_texts, max_chars=max_chars, min_chars=min_chars, segmenter=segmenter, join_lines=join_lines
        )
        start, text_bytes, n, position = array("q", [0]), array("q"), array("i"), array("d")
        dropped = 0
        with suppress(_OvertakenError), atomic_file(self._lines(part)) as path, path.open("wb") as file:
            for number, (document, segmented) in enumerate(_segmented(documents, split)):
                if number % CHECK_EVERY == 0 and self.has(part):
                    raise _OvertakenError
                content = _content(document, segmented, role_sentences)
                if content is None:
                    dropped += 1
                    continue
                record = {
                    "id": document.id,
                    "lang": document.lang,
                    "title": document.title,
                    **content,
                    "metadata": document.metadata,
                }
                sentences = content["sentences"]
                line = document_json(record)
                file.write(line + b"\n")
                start.append(start[-1] + len(line) + 1)
                text_bytes.append(len(line) if text else len(document_json(record, text=False)))
                n.append(len(sentences))
                position.append(document_position(document.id))
                report(len(sentences))
        if self.has(part):
            return
        with atomic_file(self._index(part)) as path, path.open("wb") as file:
            np.savez(
                file,
                start=np.array(start, np.int64),
                text_bytes=np.array(text_bytes, np.int64),
                n=np.array(n, np.int32),
                position=np.array(position, np.float64),
                dropped=np.int64(dropped),
            )

    def part(self, number: int) -> Part:
        """What is known of a complete part."""
        with self._index(number).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return Part(arrays["start"], arrays["text_bytes"], arrays["n"], arrays["position"], int(arrays["dropped"]))

    def read(self, number: int, part: Part, documents: Iterable[int]) -> Iterator[dict[str, Any]]:
        """Some documents of a part, by their ascending numbers within it."""
        with self._lines(number).open("rb") as file:
            for i in documents:
                file.seek(part.start[i])
                yield json.loads(file.read(part.start[i + 1] - part.start[i]))

    def _lines(self, part: int) -> Path:
        return self.folder / f"{part:06d}.jsonl"

    def _index(self, part: int) -> Path:
        return self.folder / f"{part:06d}.npz"


def _segmented(
    documents: Iterable[Document], split: Callable[[list[tuple[str, str]]], list[list[str]]]
) -> Iterator[tuple[Document, list[list[str]]]]:
    """Each document with the sentences of its texts: of each turn, of a pair's source and target, or its own."""
    rest = iter(documents)
    while group := list(islice(rest, SEGMENT_DOCUMENTS)):
        texts = [list(_texts(document)) for document in group]
        unsplit = [(text, lang) for of_one in texts for text, lang, sentences in of_one if sentences is None]
        found = iter(split(unsplit))
        for document, of_one in zip(group, texts, strict=True):
            yield document, [next(found) if sentences is None else sentences for _, _, sentences in of_one]


def _texts(document: Document) -> Iterator[tuple[str, str, list[str] | None]]:
    """The texts of a document, the language of each, and its sentences if they are known already."""
    if document.turns is not None:
        for turn in document.turns:
            yield turn.text, document.lang, None
        return
    for side in (document.source, document):
        if side is not None:
            yield side.text, side.lang, side.sentences


def _content(
    document: Document, segmented: list[list[str]], role_sentences: Mapping[str, str]
) -> dict[str, Any] | None:
    """What a shard keeps of the texts of a document, which are in sentences now; None if it is to be left out."""
    if document.turns is not None:
        return chat_document(document.turns, segmented, role_sentences)
    if not all(segmented):
        return None
    if document.source is None:
        return {"sentences": segmented[0]}
    return {"sentences": segmented[0] + segmented[1], "source": len(segmented[0])}
