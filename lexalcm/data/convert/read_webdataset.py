"""Read WebDataset tars of `.npy` arrays as blocks: KEY.npy or KEY.anything.npy, [n, dim] each.

What else a sample has is used if it is known: `json` (`id`, `lang`, `title`, `sentences` or the text column's name,
`metadata`), or `txt` with a sentence a line. The members of a sample stand together, as in every WebDataset.

Samples that are named as those of our own shards are, `000001-000042.emb.npy`, may have annotations in their `json`. In
that of others a `source` is anybody's.
"""

import io
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lexalcm.data.build.segmented_store import document_position
from lexalcm.data.build.units import SplitName
from lexalcm.data.convert.blocks import BLOCK_BYTES, Block
from lexalcm.data.convert.document_annotations import read_annotations_of
from lexalcm.data.convert.settings import ConvertSettings
from lexalcm.data.format.tar import open_tar
from lexalcm.errors import DataError
from lexalcm.io.folders import files_below
from lexalcm.json_text import parse_json
from lexalcm.text.absent import first_present, is_absent
from lexalcm.text.languages import record_language
from lexalcm.text.writable import writable

_OUR_KEY = re.compile(r"\d{6,}-\d{6,}")
"""See `lexalcm.data.format.shards.document_key`."""

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


def find_tars(path: Path) -> list[tuple[Path, str]]:
    """The tars of a folder, or the one given, and how to call them."""
    if path.is_file():
        return [(path, writable(path.name))]
    files = (file for file in files_below(path, hidden=True) if file.name.lower().endswith(TAR_SUFFIXES))
    return [(path / file, writable(file.as_posix())) for file in files if not file.name.startswith(".")]


class _UnusableError(Exception):
    """A sample cannot be used: kind of reason, detail."""


class _Gathered:
    """Samples that become a block."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.documents: list[dict[str, Any]] = []
        self.arrays: list[np.ndarray] = []
        self.problems: list[tuple[int, str, str]] = []
        self.size = 0

    def add(self, row: int, document: dict[str, Any], array: np.ndarray) -> None:
        self.rows.append(row)
        self.documents.append(document)
        self.arrays.append(array)
        self.size += array.nbytes


class WebDatasetReader:
    """Reads tars, front to back."""

    def __init__(self, sources: Sequence[tuple[Path, str]], settings: ConvertSettings) -> None:
        self.sources = sources
        self.settings = settings
        self.dim = settings.dim

    def count(self) -> None:
        """How many samples there are is known at the end only."""

    def __iter__(self) -> Iterator[Block]:
        for path, name in self.sources:
            gathered = _Gathered()
            for row, (key, members) in enumerate(_samples(path)):
                try:
                    gathered.add(row, *self._sample(path, name, key, members))
                except _UnusableError as reason:
                    gathered.problems.append((row, *reason.args))
                if gathered.size >= BLOCK_BYTES:
                    yield self._block(name, gathered)
                    gathered = _Gathered()
            yield self._block(name, gathered)

    def _block(self, name: str, gathered: "_Gathered") -> Block:
        splits = [self._split(document["id"]) for document in gathered.documents]
        n = np.array([len(array) for array in gathered.arrays], np.int64)
        vectors = np.concatenate(gathered.arrays) if gathered.arrays else np.empty((0, 1), np.float32)
        return Block(name, gathered.rows, gathered.documents, splits, n, vectors, gathered.problems)

    def _split(self, document_id: str) -> SplitName:
        return "validation" if document_position(document_id) < self.settings.validation else "train"

    def _sample(self, path: Path, name: str, key: str, members: dict[str, bytes]) -> tuple[dict[str, Any], np.ndarray]:
        """A sample's document and vectors."""
        default_id = f"{name}:{key}"
        content = members.get(self._member(path, members))
        if content is None:
            raise _UnusableError("no array", f"sample {default_id}")
        try:
            array = np.load(io.BytesIO(content), allow_pickle=False)
        except Exception as error:
            raise _UnusableError("not an array", f"sample {default_id}: {error}") from error
        if array.ndim != 2 or array.dtype.kind != "f":
            raise _UnusableError("not an array of vectors", f"{array.dtype} {list(array.shape)}")
        if len(array) == 0:
            raise _UnusableError("no sentence", "")
        self.dim = self.dim or array.shape[1]
        if array.shape[1] != self.dim:
            raise _UnusableError("wrong dimension", f"{array.shape[1]}, expected {self.dim}")
        try:
            given = parse_json(members.get("json", b"{}"))
            if not isinstance(given, dict):
                raise TypeError("its JSON is not an object")
            document = self._document(default_id, given, members)
        except (ValueError, TypeError, DataError) as error:
            raise _UnusableError("unusable text", str(error)) from error
        if self.settings.text and len(document["sentences"]) != len(array):
            kind = "embeddings and sentences differ in number" if document["sentences"] else "no sentence"
            raise _UnusableError(kind, f"{len(array)} and {len(document['sentences'])}")
        if _OUR_KEY.fullmatch(key) and "emb.npy" in members:
            try:
                document |= read_annotations_of(given, len(array))
            except ValueError as error:
                raise _UnusableError("impossible annotations", str(error)) from error
        metadata = given.get("metadata")
        if is_absent(metadata):
            metadata = {}
        return document | {"metadata": metadata if isinstance(metadata, dict) else {"metadata": metadata}}, array

    def _member(self, path: Path, members: dict[str, bytes]) -> str:
        if self.settings.member is not None:
            return self.settings.member
        arrays = [extension for extension in members if extension == "npy" or extension.endswith(".npy")]
        if len(arrays) > 1:
            raise DataError(f"{path}: several arrays in a sample ({', '.join(arrays)}): choose with --member")
        return arrays[0] if arrays else "npy"

    def _document(self, default_id: str, given: dict[str, Any], members: dict[str, bytes]) -> dict[str, Any]:
        """A sample's document without annotations and metadata."""
        given_id = first_present(given, "id")
        document: dict[str, Any] = {
            "id": default_id if given_id is None else str(given_id),
            "lang": record_language(given, self.settings.lang),
            "title": str(first_present(given, "title") or ""),
        }
        if self.settings.text:
            sentences = first_present(given, "sentences", self.settings.text_column)
            if sentences is None:
                sentences = members.get("txt", b"").decode().splitlines()
            if not isinstance(sentences, list) or not all(isinstance(sentence, str) for sentence in sentences):
                raise TypeError("its sentences are not a list of text")
            document["sentences"] = sentences
        return document


def _samples(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The members of each sample by their extension."""
    key, members = "", dict[str, bytes]()
    try:
        with open_tar(path) as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isfile() else None
                if file is None:
                    continue
                folder, _, base = member.name.rpartition("/")
                stem, _, extension = base.partition(".")
                this = writable(f"{folder}/{stem}" if folder else stem)
                if this != key and members:
                    yield key, members
                    members = {}
                key = this
                members[extension.lower()] = file.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{path} is not a whole tar: {error}") from error
    if members:
        yield key, members
