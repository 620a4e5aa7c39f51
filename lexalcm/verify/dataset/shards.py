"""Read shards for their check: all of one front to back, or some documents of it by the index.

Both walk through the members of the tar and hand them to `DocumentChecks`. Remote shards are read past the cache when
they are read whole: what is checked is what lies at the address.
"""

import hashlib
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np

from lexalcm.data.format.dataset import Dataset
from lexalcm.data.format.manifest import ShardRecord
from lexalcm.data.format.shards import document_key
from lexalcm.data.format.storage import Shards, check_shard
from lexalcm.data.format.tar import TAR_BLOCK, npy_header, padded
from lexalcm.data.format.target_spans import ANNOTATIONS, annotations_of
from lexalcm.errors import DataError, ShardError
from lexalcm.io.folders import entries, inside
from lexalcm.io.remote import RemoteFile, RemoteFolder, is_remote
from lexalcm.verify.dataset.documents import DocumentChecks
from lexalcm.verify.dataset.report import DataVerification

READ_AT_ONCE = 1 << 20
CONTENT_CHANGED = "content has changed since it was built (SHA-256)"
TAR_BUFFER = 64 * 1024  # tarfile copies what is left of it at every read


class ShardIndex(NamedTuple):
    """What the index says of the documents of one shard."""

    offset: np.ndarray
    n: np.ndarray
    columns: dict[str, np.ndarray]
    """Further columns: `lang` as text, `source`, `crc32` of the numbers."""
    annotations: dict[str, list[list[list[int]]]]
    """Of each document the targets and the turns; absent where no document has such."""


class ShardReader:
    """Checks the shards of a data set."""

    def __init__(
        self, dataset: Dataset, found: DataVerification, checks: DocumentChecks, document_read: Callable[[], None]
    ) -> None:
        self.dataset = dataset
        self.remote = RemoteFolder(dataset.address) if is_remote(dataset.address) else None
        self.found = found
        self.checks = checks
        self.document_read = document_read

    def check_file(self, record: ShardRecord) -> int | None:
        """Make sure that a shard is there in full length; its bytes, or None if it is not there at all."""
        try:
            if self.remote is None:
                path = inside(self.dataset.path, record.file)
                check_shard(path, record.bytes)
                return record.bytes
            size = self.remote.size(record.file)
            if size not in (None, record.bytes):
                self.found.error(record.file, f"{size} bytes, the manifest says {record.bytes}")
            return record.bytes if size is None else size
        except DataError as error:
            self.found.error(record.file, str(error))
        return path.stat().st_size if self.remote is None and path.is_file() else None

    def read_whole(self, record: ShardRecord, number: int, index: ShardIndex | None) -> None:
        """Read a shard once, from its first byte to its last."""
        size = self.check_file(record)
        if size is None:
            return
        self.checks.begin_shard(record.file, number)
        try:
            with self._open(record.file, size) as file:
                hashed = _Hashed(file)
                documents = self._members(hashed, record.file, number, index)
                hashed.drain()
        except (DataError, OSError) as error:
            self.found.error(record.file, f"cannot be read to its end: {error}")
            return
        if size == record.bytes and hashed.digest.hexdigest() != record.sha256:
            self.found.error(record.file, CONTENT_CHANGED)
        if documents is not None and documents != record.documents:
            self.found.error(record.file, f"{documents} whole documents, the manifest says {record.documents}")

    def _open(self, name: str, size: int) -> BinaryIO:
        if self.remote is None:
            return inside(self.dataset.path, name).open("rb")
        return cast(BinaryIO, RemoteFile(self.remote, name, size))

    def _members(self, file: "_Hashed", name: str, number: int, index: ShardIndex | None) -> int | None:
        """Check the documents of a shard and count them; None if it is not the shard that it should be."""
        embeddings = None
        documents = 0
        array_next = True
        for member, content, end in _members(file, name, self.found):
            key = document_key(number, documents)
            where = f"{name} {key}"
            expected = f"{key}.emb.npy" if array_next else f"{key}.json"
            if member != expected:
                self.found.error(f"{name} {member}", f"found where {expected} was expected: the rest was not read")
                return None
            if array_next:
                embeddings = self.checks.array(where, content)
                if index is not None and embeddings is not None:
                    known = documents < len(index.n)
                    indexed = (int(index.offset[documents]), int(index.n[documents])) if known else None
                    if indexed != (end - embeddings.nbytes, len(embeddings)):
                        self.found.error(where, "not where the index says, or of another length")
            else:
                self._document(where, documents, content, embeddings, index)
                documents += 1
            array_next = not array_next
        return documents

    def _document(
        self, where: str, place: int, content: bytes, embeddings: np.ndarray | None, index: ShardIndex | None
    ) -> None:
        document = self.checks.document(where, place, content, embeddings)
        self.document_read()
        if document is None or index is None or place >= len(index.n):
            return
        crc32 = None if embeddings is None else zlib.crc32(np.ascontiguousarray(embeddings).data)
        about = document | {"crc32": crc32}
        for column, values in index.columns.items():
            stored = about.get(column, 0 if column == "source" else None)
            indexed = values[place].item()
            if stored != indexed:
                self.found.error(where, f"its {column} is {stored!r}, the index says {indexed!r}")
        self._compare_annotations(where, place, document, int(index.n[place]), index)

    def _compare_annotations(self, where: str, place: int, document: dict[str, Any], n: int, index: ShardIndex) -> None:
        for name in ANNOTATIONS:
            try:
                stored = annotations_of(document, name)
            except (TypeError, ValueError):
                self.found.error(where, f"its {name} are damaged")
                continue
            if name == "targets" and name in index.annotations:
                stored = stored or [[document.get("source", 0), n]]
            if stored != (index.annotations[name][place] if name in index.annotations else []):
                self.found.error(where, f"its {name} are others than the index says")

    def read_some(self, shards: Shards, record: ShardRecord, number: int, index: ShardIndex, places: range) -> bool:
        """Read some documents of a shard where the index says that they are; False if it cannot be read."""
        self.checks.begin_shard(record.file, number)
        for place in places:
            where = f"{record.file} {document_key(number, place)}"
            try:
                self._read_document(shards, number, place, where, index)
            except ShardError as error:
                self.found.error(record.file, str(error))
                return False
            except tarfile.HeaderError:
                self.found.error(where, "not where the index says, or its header is damaged")
        return True

    def _read_document(self, shards: Shards, number: int, place: int, where: str, index: ShardIndex) -> None:
        n, offset = int(index.n[place]), int(index.offset[place])
        key = document_key(number, place)
        begin = offset - len(npy_header(n, self.checks.dim, self.checks.dtype.name))
        array = _read_member(shards, number, begin - TAR_BLOCK)
        if array.name != f"{key}.emb.npy":
            self.found.error(where, f"{array.name} is at the indexed position: damaged, or another shard")
            return
        embeddings = self.checks.array(where, array.content)
        if embeddings is not None and len(embeddings) != n:
            self.found.error(where, "not where the index says, or of another length")
        text = _read_member(shards, number, padded(begin + len(array.content)))
        if text.name != f"{key}.json":
            self.found.error(where, f"{text.name} found where {key}.json was expected")
            return
        self._document(where, place, text.content, embeddings, index)


class _Member(NamedTuple):
    name: str
    content: bytes


def _read_member(shards: Shards, shard: int, header: int) -> _Member:
    member = tarfile.TarInfo.frombuf(bytes(shards.view(shard, header, TAR_BLOCK)), "utf-8", "strict")
    return _Member(member.name, bytes(shards.view(shard, header + TAR_BLOCK, member.size)))


def _members(file: "_Hashed", shard: str, found: DataVerification) -> Iterator[tuple[str, bytes, int]]:
    """Each readable member of a tar: name, content, position of the content's end."""
    try:
        with tarfile.open(fileobj=cast(BinaryIO, file), mode="r|", bufsize=TAR_BUFFER) as tar:
            for member in tar:
                content = tar.extractfile(member)
                yield member.name, b"" if content is None else content.read(), member.offset_data + member.size
    except (tarfile.TarError, EOFError) as error:
        found.error(shard, f"not a complete tar: {error}")


class _Hashed:
    """A file whose SHA-256 is taken as it is read."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()

    def read(self, size: int) -> bytes:
        content = self.file.read(size)
        self.digest.update(content)
        return content

    def drain(self) -> None:
        """Read what is left."""
        while self.read(READ_AT_ONCE):
            pass


def stray_shards(folder: Path, split: str, records: list[ShardRecord]) -> list[str]:
    """Files of a folder that look like a split's shards but are not in the manifest."""
    known = {record.file for record in records}
    names = (file.name for file in entries(folder))
    return [name for name in names if name.startswith(f"{split}-") and name.endswith(".tar") and name not in known]
