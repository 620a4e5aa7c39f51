"""Open a data set, a folder or a remote address, and read its documents by number.

Opening a folder reads the manifest and the shards' sizes, and compares normalizer and special concepts with their
checksums: a missing or truncated shard or a damaged file is an error here, before any work is begun. Numbers are mapped
into memory, so that reading a document costs one page fault where it is not cached, and processes on one machine share
the pages. The index takes 16 bytes a document, and a bit that says whether its numbers were compared with their
checksum.

Opening an address, e.g. `s3://bucket/set`, reads the manifest and what stands beside the shards; shards are asked for
when they are read first, in blocks that a cache on the local disk keeps (see `lexalcm.data.format.storage`).
"""

import hashlib
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from lexalcm.codec.base import Codec
from lexalcm.codec.registry import CODEC_FOLDER, load_codec
from lexalcm.codec.special import SPECIAL_FILE
from lexalcm.data.format.index import Index, index_name, read_annotations, read_columns, read_index
from lexalcm.data.format.manifest import Dtype, Manifest, SplitRecord, read_manifest
from lexalcm.data.format.remote_metadata import RemoteMetadata
from lexalcm.data.format.shards import document_key
from lexalcm.data.format.sidecar_files import SIDECAR_FILES, changed_sidecar_files
from lexalcm.data.format.storage import CachedShards, LocalShards, Shards, block_size, check_shard
from lexalcm.data.format.tar import TAR_BLOCK, npy_header, padded
from lexalcm.data.format.target_spans import Annotations
from lexalcm.data.normalizer.fit import NORMALIZER_FILE, load_normalizer
from lexalcm.errors import DataError, ShardError, UserError
from lexalcm.io.disk_cache import DiskCache
from lexalcm.io.folders import inside
from lexalcm.io.reading import reading
from lexalcm.io.remote import RemoteFolder, is_remote, local_path
from lexalcm.json_text import parse_json
from lexalcm.registries import CODECS

_HASHED_AT_ONCE = 1 << 20  # bytes


class Split:
    """The documents of one split, by number 0, 1, ... in the order of the shards.

    Loader processes may be handed one: what it holds open is opened anew there.
    """

    def __init__(
        self,
        address: str,
        record: SplitRecord,
        dim: int,
        dtype: Dtype,
        index: Index,
        crc32: np.ndarray | None,
        shards: Shards,
    ) -> None:
        """Read documents.

        Args:
            address: of the data set, for messages.
            record: what the manifest says of the split.
            dim: numbers of a concept.
            dtype: their type as stored.
            index: where the documents are.
            crc32: uint32 [documents] of their numbers; None in data sets that have none.
            shards: their bytes.
        """
        self.address = address
        self.record = record
        self.dim = dim
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self._stored = dtype
        self._ends = np.searchsorted(index.shard, np.arange(len(record.shards)), side="right")
        """The number of the document behind the last of each shard."""
        self._offset, self.lengths = index.offset, index.n
        self._crc32 = crc32
        self._checked = bytearray(len(index.n) // 8 + 1)
        """A bit for each document whose numbers were compared with their checksum."""
        self._shards = shards
        self.check_hashes = False
        """Whether a shard's bytes are compared with its SHA-256 before the first document of it is read."""
        self._recognised: set[int] = set()
        self._bad: dict[int, ShardError] = {}

    def __len__(self) -> int:
        return len(self.lengths)

    def embeddings(self, i: int) -> np.ndarray:
        """Concepts of document i: [n, dim] in the stored type, read-only; of local shards not copied.

        Raises:
            ShardError: its shard is missing, truncated, or not the one that the index speaks of; or a byte of it is
                another than when it was written.
            RemoteError: a remote address does not answer.
        """
        shard, n = self._shard_of(i), self.lengths.item(i)  # twice as fast as int(array[i])
        if shard not in self._recognised:
            self._check(shard, i)
        if not self._checked[i >> 3] & 1 << (i & 7):
            self._check_numbers(shard, i)
        content = self._shards.view(shard, self._offset.item(i), n * self.dim * self.dtype.itemsize)
        return np.ndarray((n, self.dim), self.dtype, content)

    def spans(self, documents: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> Iterator[memoryview | ShardError]:
        """Bytes of some consecutive concepts of each of several documents, or why they cannot be had.

        What `embeddings` gives, at a third of its cost for each document.

        Args:
            documents: int [n], numbers.
            starts: int [n], the first concept of each.
            counts: int [n], how many.
        """
        width = self.dim * self.dtype.itemsize
        shards = np.searchsorted(self._ends, documents, side="right").tolist()
        offsets = (self._offset[documents] + starts * width).tolist()
        sizes = (counts * width).tolist()
        view, checked = self._shards.view, self._checked
        for i, shard, offset, size in zip(documents.tolist(), shards, offsets, sizes, strict=True):
            try:
                if shard not in self._recognised:
                    self._check(shard, i)
                if not checked[i >> 3] & 1 << (i & 7):
                    self._check_numbers(shard, i)
                yield view(shard, offset, size)
            except ShardError as error:
                yield error

    def document(self, i: int) -> dict[str, Any]:
        """What is written about document i: `id`, `lang`, `title`, `sentences`, `metadata`.

        Raises:
            ShardError: as `embeddings`, or its JSON is damaged.
            RemoteError: a remote address does not answer.
        """
        shard = self._shard_of(i)
        end = int(self._offset[i]) + int(self.lengths[i]) * self.dim * self.dtype.itemsize
        header = padded(end)
        try:
            size = tarfile.TarInfo.frombuf(self._bytes(shard, header, TAR_BLOCK), "utf-8", "strict").size
            return parse_json(self._bytes(shard, header + TAR_BLOCK, size))
        except (tarfile.HeaderError, ValueError) as error:
            name = self.record.shards[shard].file
            raise ShardError(
                f"{self.address}/{name} is damaged at document {i}: run `lcm verify data`", name
            ) from error

    def where(self, i: int) -> str:
        """Shard and key of document i, e.g. `train-000001.tar 000001-000042`."""
        shard = self._shard_of(i)
        return f"{self.record.shards[shard].file} {self._key(shard, i)}"

    def _shard_of(self, i: int) -> int:
        return int(np.searchsorted(self._ends, i, side="right"))

    def _key(self, shard: int, i: int) -> str:
        return document_key(shard, i - (int(self._ends[shard - 1]) if shard else 0))

    def prefetch(self, documents: Iterable[int]) -> None:
        """Bring documents that are read next near, several at a time; costs nothing where shards are local."""
        if not isinstance(self._shards, LocalShards):
            width = self.dim * self.dtype.itemsize
            self._shards.prefetch(
                (self._shard_of(i), int(self._offset[i]), int(self.lengths[i]) * width) for i in documents
            )

    def _bytes(self, shard: int, offset: int, size: int) -> bytes:
        return bytes(self._shards.view(shard, offset, size))

    def _check(self, shard: int, i: int) -> None:
        """Make sure, once for each shard, that it is whole as far as asked for, and the right one."""
        if shard in self._bad:
            raise self._bad[shard]
        try:
            self._recognise(shard, i)
            if self.check_hashes:
                self._compare_hash(shard)
        except ShardError as error:
            self._bad[shard] = error
            raise
        self._recognised.add(shard)

    def _check_numbers(self, shard: int, i: int) -> None:
        """Compare, once for each document, its numbers with their checksum: at 4 GB/s."""
        place = shard, self._offset.item(i), self.lengths.item(i) * self.dim * self.dtype.itemsize

        def is_whole() -> bool:
            return self._crc32 is None or zlib.crc32(self._shards.view(*place)) == self._crc32.item(i)

        if not is_whole() and not (self._shards.refetch(*place) and is_whole()):
            name = self.record.shards[shard].file
            raise ShardError(
                f"{self.address}/{name} is damaged at document {self._key(shard, i)} (checksum): run "
                f"`lcm verify data {self.address}`",
                name,
            )
        self._checked[i >> 3] |= 1 << (i & 7)

    def _compare_hash(self, shard: int) -> None:
        record = self.record.shards[shard]
        digest = hashlib.sha256()
        for begin in range(0, record.bytes, _HASHED_AT_ONCE):
            digest.update(self._shards.view(shard, begin, min(_HASHED_AT_ONCE, record.bytes - begin)))
        if digest.hexdigest() != record.sha256:
            raise ShardError(
                f"{self.address}/{record.file} is damaged: run `lcm verify data {self.address}`", record.file
            )

    def _recognise(self, shard: int, i: int) -> None:
        """Make sure that a shard's tar names document i where the index has it."""
        expected = f"{self._key(shard, i)}.emb.npy"
        begin = int(self._offset[i]) - len(npy_header(int(self.lengths[i]), self.dim, self._stored)) - TAR_BLOCK
        header = self._bytes(shard, begin, TAR_BLOCK)
        try:
            found = tarfile.TarInfo.frombuf(header, "utf-8", "strict").name
        except tarfile.HeaderError:
            found = "nothing"
        if found != expected:
            name = self.record.shards[shard].file
            raise ShardError(
                f"{self.address}/{name} is damaged or another shard (it has {found} where the index has {expected}): "
                f"run `lcm verify data {self.address}`",
                name,
            )


class Dataset:
    """A data set."""

    def __init__(
        self, path: Path, manifest: Manifest, remote_metadata: RemoteMetadata | None = None, block: int | None = None
    ) -> None:
        """Wrap what `open` read; see there."""
        self.path = path
        """Folder with all but the shards: the data set itself, or the copy of its metadata in the cache."""
        self.manifest = manifest
        self.dim = manifest.codec.dim
        self.address = str(path) if remote_metadata is None else remote_metadata.remote.address
        """What a user calls it: the folder or the remote address."""
        self._remote_metadata = remote_metadata
        self._block = block

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        check_shards: bool = True,
        check_sidecar_files: bool = True,
        block: int | None = None,
    ) -> "Dataset":
        """Open a data set.

        Args:
            path: a folder, or an address that fsspec knows (`s3://`, `hf://`, `https://`, ...).
            check_shards: make sure that all shards of a folder are there in full length. Those of a remote data set,
                which may be thousands, are checked when first read.
            check_sidecar_files: make sure that normalizer and special concepts, where they are there, are those that
                the manifest notes.
            block: bytes of a remote shard that are fetched at a time, default `LEXALCM_CACHE_BLOCK` or 4 MiB.

        Raises:
            DataError: no data set there, another format version, a missing or truncated shard, a changed sidecar file.
            MissingExtraError: reading such addresses needs a package that is not installed.
            RemoteError: the address does not answer.
        """
        if is_remote(path):
            dataset = cls._open_remote(str(path), block or block_size())
        else:
            path = local_path(path)
            dataset = cls(path, read_manifest(path))
            if check_shards:
                for split in dataset.manifest.splits.values():
                    for shard in split.shards:
                        check_shard(inside(path, shard.file), shard.bytes)
        if check_sidecar_files:
            dataset._check_sidecar_files()
        return dataset

    @classmethod
    def _open_remote(cls, address: str, block: int) -> "Dataset":
        remote_metadata = RemoteMetadata(RemoteFolder(address), DiskCache.from_environment())
        with _speaking_of(remote_metadata):
            manifest = read_manifest(remote_metadata.path)
        for name in SIDECAR_FILES:
            with suppress(DataError):  # who needs it will say that it is missing
                remote_metadata.fetch(name, manifest.companions.get(name))
        with suppress(UserError):
            remote_metadata.fetch_folder(CODEC_FOLDER, CODECS.load(manifest.codec.name).files)
        return cls(remote_metadata.path, manifest, remote_metadata, block)

    def _check_sidecar_files(self) -> None:
        for name in changed_sidecar_files(self.path, self.manifest.companions):
            if self._remote_metadata is not None:
                advice = "upload it again"
            elif name == NORMALIZER_FILE:
                advice = f"copy it here again or run `lcm data normalize {self.address}`"
            else:
                advice = "copy it here again or build the data set again"
            raise DataError(f"{self.address}/{name} is not the one that dataset.json notes (SHA-256): {advice}")

    def split(self, name: str = "train") -> Split:
        """One split.

        Raises:
            DataError: no such split, or its index is missing or damaged.
        """
        if name not in self.manifest.splits:
            raise DataError(f"{self.address} has no split {name!r}: it has {', '.join(self.manifest.splits)}")
        record = self.manifest.splits[name]
        index = self.index(name)
        crc32 = self.columns(name, ("crc32", "lang", "languages", "source")).get("crc32")  # each is checked
        fits = len(index.n) == record.documents and int(index.n.sum()) == record.sentences
        ordered = not (index.shard[1:] < index.shard[:-1]).any()
        ends = np.searchsorted(index.shard, np.arange(len(record.shards)), side="right")
        if not (fits and ordered and np.array_equal(ends, np.cumsum([shard.documents for shard in record.shards]))):
            raise DataError(f"the index of {self.address} does not fit its manifest ({name}): build the data set again")
        split = Split(self.address, record, self.dim, self.manifest.dtype, index, crc32, self.shards(name))
        # a remote one would be fetched whole for it
        split.check_hashes = crc32 is None and self._remote_metadata is None
        return split

    def index(self, name: str) -> Index:
        """Where the documents of a split are, as its index says.

        Raises:
            DataError: missing or damaged.
        """
        with self._index_here(name):
            return read_index(self.path, name)

    def columns(self, name: str, columns: Iterable[str]) -> dict[str, np.ndarray]:
        """Further arrays of a split's index, one entry a document (`lexalcm.data.format.shards`); absent ones left out.

        Raises:
            DataError: the index is missing or damaged.
        """
        with self._index_here(name):
            return read_columns(self.path, name, columns)

    def annotations(self, name: str, column: str) -> Annotations | None:
        """What a split's index notes under a name of `target_spans.ANNOTATIONS`; None where no document has such.

        Raises:
            DataError: the index is missing or damaged.
        """
        with self._index_here(name):
            return read_annotations(self.path, name, column)

    @contextmanager
    def _index_here(self, name: str) -> Iterator[None]:
        with _speaking_of(self._remote_metadata):
            if self._remote_metadata is not None:
                self._remote_metadata.fetch(index_name(name))
            yield

    def shards(self, name: str) -> Shards:
        """The bytes of a split's shards."""
        records = self.manifest.splits[name].shards
        if self._remote_metadata is None:
            return LocalShards(self.path, records)
        return CachedShards(
            self._remote_metadata.remote, self._remote_metadata.cache, records, self._block or block_size()
        )

    def normalizer(self) -> dict[str, np.ndarray]:
        """`center`, `scale`, and where fitted `clip_min`, `clip_max`: float32 [dim] each."""
        with _speaking_of(self._remote_metadata):
            return load_normalizer(self.path)

    def special_concepts(self) -> dict[str, np.ndarray]:
        """Embeddings of the special concepts by name, e.g. `end_of_text`: float32 [dim] each."""
        with _speaking_of(self._remote_metadata), reading(self.path / SPECIAL_FILE, "build the data set again"):
            return load_file(self.path / SPECIAL_FILE)

    def codec(self) -> Codec:
        """The codec that made the embeddings."""
        with _speaking_of(self._remote_metadata):
            return load_codec(self.manifest.codec, self.path / CODEC_FOLDER)


@contextmanager
def _speaking_of(remote_metadata: RemoteMetadata | None) -> Iterator[None]:
    """Let errors name the address that the user gave, not the folder of the cache."""
    try:
        yield
    except UserError as error:
        if remote_metadata is None or str(remote_metadata.path) not in str(error):
            raise
        raise type(error)(str(error).replace(str(remote_metadata.path), remote_metadata.remote.address)) from error
