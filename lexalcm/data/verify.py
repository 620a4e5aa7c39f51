"""Check a data set folder against its manifest, down to the numbers, and go on after what is found.

    files      every shard is there, of its size and SHA-256; no shard is there that the manifest does not know
    tar        each document's two members are where the index says, in order, and nothing else is in the shard
    content    the array has the manifest's type and dimension and a row a sentence; the JSON is whole
    numbers    no NaN, no infinity, no zero vector
    text       no document twice (a warning)
    the rest   index, normalizer, special concepts, codec with its fingerprint (no codec folder: a warning)

Time: the shards are read once, front to back, each document one at a time.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from lexalcm.codec.registry import CODEC_FOLDER
from lexalcm.codec.special import SPECIAL_CONCEPTS, SPECIAL_FILE
from lexalcm.data.dataset import Dataset, check_shard
from lexalcm.data.manifest import MANIFEST_FILE, Manifest, ShardRecord, SplitRecord, read_manifest
from lexalcm.data.normalize import NORMALIZER_FILE
from lexalcm.data.shards import Index, document_key, index_name, read_index
from lexalcm.errors import CodecError, DataError, MissingExtraError, UserError

Severity = Literal["error", "warning"]

SHOWN = 20
"""Findings that a table lists one by one."""


@dataclass(frozen=True)
class Finding:
    """Something wrong with a data set."""

    severity: Severity
    where: str
    """A file, or a shard and the key of a document in it."""
    what: str


@dataclass
class DataReport:
    """What `lcm verify data` found."""

    dataset: str
    findings: list[Finding] = field(default_factory=list)
    documents: int = 0
    """Documents whose content was read."""
    concepts: int = 0

    @property
    def ok(self) -> bool:
        """Whether training and generation can rely on the data set; warnings do not count."""
        return not any(finding.severity == "error" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """As plain values, with `ok`."""
        return {"ok": self.ok, **asdict(self)}

    def table(self) -> Table:
        """The findings, errors first; of many, the first."""
        table = Table("severity", "where", "what", box=box.SIMPLE_HEAD)
        by_severity = sorted(self.findings, key=lambda finding: finding.severity)
        for finding in by_severity[:SHOWN]:
            style = "red" if finding.severity == "error" else "yellow"
            table.add_row(Text(finding.severity, style=style), Text(finding.where), Text(finding.what))
        if len(by_severity) > SHOWN:
            table.add_row("", "", f"and {len(by_severity) - SHOWN} more")
        return table

    def error(self, where: str, what: str) -> None:
        """Note an error."""
        self.findings.append(Finding("error", where, what))

    def warn(self, where: str, what: str) -> None:
        """Note a warning."""
        self.findings.append(Finding("warning", where, what))


def verify_dataset(
    path: Path | str, report: Callable[[int, int | None], None] = lambda _done, _all: None
) -> DataReport:
    """Check a data set folder.

    Args:
        path: the folder.
        report: called with (documents read, documents in all).

    Returns:
        What was found. A folder whose manifest cannot be read gives a report of that one error.
    """
    path = Path(path)
    found = DataReport(str(path))
    try:
        manifest = read_manifest(path)
    except UserError as error:
        found.error(MANIFEST_FILE, str(error))
        return found
    dataset = Dataset(path, manifest)
    _check_normalizer(dataset, found)
    _check_special_concepts(dataset, found)
    _check_codec(dataset, found)
    total = sum(split.documents for split in manifest.splits.values())
    reader = _ShardReader(manifest, found, lambda: report(found.documents, total))
    for name, split in manifest.splits.items():
        index = _check_index(path, name, split, found)
        for number, shard in enumerate(split.shards):
            reader.check(path / shard.file, shard, number, _entries(index, number))
        known = {shard.file for shard in split.shards}
        for stray in sorted(file.name for file in path.glob(f"{name}-*.tar") if file.name not in known):
            found.warn(stray, "not in the manifest")
    return found


def _check_normalizer(dataset: Dataset, found: DataReport) -> None:
    try:
        stats = dataset.normalizer()
    except DataError as error:
        found.error(NORMALIZER_FILE, str(error))
        return
    for name in ("center", "scale"):
        _check_vector(NORMALIZER_FILE, name, stats, dataset.dim, found)
    if "scale" in stats and not (stats["scale"] > 0).all():
        found.error(NORMALIZER_FILE, "a scale is not positive")


def _check_special_concepts(dataset: Dataset, found: DataReport) -> None:
    try:
        vectors = dataset.special_concepts()
    except DataError as error:
        found.error(SPECIAL_FILE, str(error))
        return
    for name in SPECIAL_CONCEPTS:
        _check_vector(SPECIAL_FILE, name, vectors, dataset.dim, found)


def _check_vector(file: str, name: str, vectors: dict[str, np.ndarray], dim: int, found: DataReport) -> None:
    if name not in vectors:
        found.error(file, f"{name} is missing")
    elif vectors[name].shape != (dim,) or not np.isfinite(vectors[name]).all():
        found.error(file, f"{name} is not {dim} finite numbers")


def _check_codec(dataset: Dataset, found: DataReport) -> None:
    try:
        dataset.codec()
    except MissingExtraError as error:
        found.warn(CODEC_FOLDER, f"not checked: {error}")
    except CodecError as error:
        if (dataset.path / CODEC_FOLDER).exists():
            found.error(CODEC_FOLDER, str(error))
        else:
            found.warn(CODEC_FOLDER, f"{error} (without it text can be neither encoded nor decoded)")


def _check_index(path: Path, name: str, split: SplitRecord, found: DataReport) -> Index | None:
    try:
        index = read_index(path, name)
    except DataError as error:
        found.error(index_name(name), str(error))
        return None
    if len(index.shard) and not 0 <= index.shard.min() <= index.shard.max() < len(split.shards):
        found.error(index_name(name), "documents in shards that the manifest does not know")
    for number, shard in enumerate(split.shards):
        inside = index.shard == number
        documents, sentences = int(inside.sum()), int(index.n[inside].sum())
        if (documents, sentences) != (shard.documents, shard.sentences):
            indexed = f"{shard.file}: {documents} documents of {sentences} sentences"
            found.error(index_name(name), f"{indexed}, the manifest says {shard.documents} of {shard.sentences}")
    return index


def _entries(index: Index | None, shard: int) -> list[tuple[int, int]] | None:
    """(offset, n) of the documents of a shard, or None without an index."""
    if index is None:
        return None
    inside = index.shard == shard
    return list(zip(index.offset[inside].tolist(), index.n[inside].tolist(), strict=True))


class _ShardReader:
    """Reads shards front to back, each beside its part of the index."""

    def __init__(self, manifest: Manifest, found: DataReport, document_read: Callable[[], None]) -> None:
        self.dtype = np.dtype(manifest.dtype)
        self.dim = manifest.codec.dim
        self.found = found
        self.document_read = document_read
        self.texts: dict[bytes, str] = {}

    def check(self, path: Path, record: ShardRecord, number: int, entries: list[tuple[int, int]] | None) -> None:
        """Check one shard; what it is cut off from is counted once."""
        try:
            check_shard(path, record.bytes)
        except DataError as error:
            self.found.error(path.name, str(error))
        else:
            if _sha256(path) != record.sha256:
                self.found.error(path.name, "other content than when it was built (SHA-256)")
        if path.is_file():
            documents = self._read(path, number, entries)
            if documents is not None and documents != record.documents:
                self.found.error(path.name, f"{documents} whole documents, the manifest says {record.documents}")

    def _read(self, path: Path, number: int, entries: list[tuple[int, int]] | None) -> int | None:
        """Check the documents of a shard and count them; None if it is not the shard that it should be."""
        embeddings = None
        documents = 0
        array_next = True
        for name, content, end in _members(path, self.found):
            key = document_key(number, documents)
            where = f"{path.name} {key}"
            expected = f"{key}.emb.npy" if array_next else f"{key}.json"
            if name != expected:
                self.found.error(f"{path.name} {name}", f"stands where {expected} should: the rest was not read")
                return None
            if array_next:
                embeddings = self._array(where, content)
                if entries is not None and embeddings is not None:
                    indexed = entries[documents] if documents < len(entries) else None
                    if indexed != (end - embeddings.nbytes, len(embeddings)):
                        self.found.error(where, "not where the index says, or of another length")
            else:
                self._text(where, content, embeddings)
                documents += 1
                self.found.documents += 1
                self.found.concepts += 0 if embeddings is None else len(embeddings)
                self.document_read()
            array_next = not array_next
        return documents

    def _array(self, where: str, content: bytes) -> np.ndarray | None:
        try:
            embeddings = np.load(io.BytesIO(content), allow_pickle=False)
        except Exception as error:  # noqa: BLE001  numpy's parser of a damaged header raises nearly anything
            self.found.error(where, f"not an array: {error}")
            return None
        if not isinstance(embeddings, np.ndarray) or embeddings.dtype != self.dtype or embeddings.ndim != 2:
            self.found.error(where, f"not an array [n, dim] of {self.dtype}")
            return None
        if embeddings.shape[1] != self.dim:
            self.found.error(where, f"{embeddings.shape[1]} dimensions, expected {self.dim}")
            return None
        not_finite = ~np.isfinite(embeddings).all(axis=1)
        zero = ~embeddings.any(axis=1)
        for what, sentences in (("NaN or infinity", not_finite), ("zero vector", zero)):
            if sentences.any():
                shown = ", ".join(map(str, np.flatnonzero(sentences)[:5]))
                self.found.error(where, f"{what} in {sentences.sum()} of its embeddings, at sentence {shown}")
        return embeddings

    def _text(self, where: str, content: bytes, embeddings: np.ndarray | None) -> None:
        try:
            document = json.loads(content)
            sentences = document["sentences"]
            texts = [document["id"], document["lang"], document["title"], *sentences]
        except (ValueError, KeyError, TypeError) as error:
            self.found.error(where, f"its JSON is damaged or lacks a field ({error!r})")
            return
        if not isinstance(sentences, list) or not all(isinstance(text, str) for text in texts):
            self.found.error(where, "its JSON has a field of the wrong type")
            return
        if embeddings is not None and len(sentences) != len(embeddings):
            self.found.error(where, f"{len(sentences)} sentences for {len(embeddings)} embeddings")
        digest = hashlib.sha256("\n".join(sentences).encode(errors="replace")).digest()
        first = self.texts.setdefault(digest, where)
        if first != where:
            self.found.warn(where, f"the same text as {first}")


def _members(path: Path, found: DataReport) -> Iterator[tuple[str, bytes, int]]:
    """Each readable member of a tar: name, content, position of the content's end."""
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                file = tar.extractfile(member)
                content = b"" if file is None else file.read()
                if len(content) < member.size:
                    found.error(f"{path.name} {member.name}", "cut off")
                    return
                yield member.name, content, member.offset_data + member.size
    except (tarfile.TarError, OSError, EOFError) as error:
        found.error(path.name, f"not a whole tar: {error}")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
