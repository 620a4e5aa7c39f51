"""Where the bytes of shards come from: memory maps of local files, or blocks of remote ones in the local cache.

Both check the first time that a shard is touched that it is there, of the size that the manifest says. To touch what a
map no longer has a file behind would end the process with SIGBUS, so a local file's size is asked for again before each
document, in less than a microsecond: one that was cut short since is an error that names it. What is left is a cut in
the microseconds in which that document is copied, and a disk that fails. Reading instead of mapping would have neither,
but took 1.7 times as long.

A remote shard is read in blocks of `LEXALCM_CACHE_BLOCK` (4 MiB): a request for each document would spend its time
waiting, and a document's neighbours are wanted soon. A block's key holds the address, the size and the SHA-256 that the
manifest gives of the shard, so that blocks of a changed data set are never taken for those of the old one.
"""

import hashlib
import mmap
import os
import resource
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from lexalcm.data.format.manifest import ShardRecord
from lexalcm.errors import ConfigError, DataError, ShardError
from lexalcm.io.disk_cache import DiskCache, size_from_environment
from lexalcm.io.folders import inside
from lexalcm.io.remote import RemoteFolder

BLOCK_VARIABLE = "LEXALCM_CACHE_BLOCK"
DEFAULT_BLOCK = "4MiB"

SPARSE_BLOCK = 256 * 1024
"""Bytes of a block for those who read a few documents here and there."""

_FETCHERS = 8
_ADVICE = "copy it here again or build the data set again"


class Shards(Protocol):
    """The shards of a split, by number."""

    def view(self, shard: int, offset: int, size: int) -> memoryview:
        """Bytes of a shard, read-only; of local shards not copied, so that they are to be used at once.

        Raises:
            ShardError: the shard is missing, unreadable or of the wrong size, or the bytes lie outside it.
            RemoteError: its server does not answer.
        """

    def refetch(self, shard: int, offset: int, size: int) -> bool:
        """Read these bytes from where they come from the next time; False where that is what was read already."""

    def prefetch(self, spans: Iterable[tuple[int, int, int]]) -> None:
        """Bring (shard, offset, size) spans near, several at a time, before they are looked at one by one."""


def check_shard(path: Path, size: int) -> None:
    """Make sure that a local shard is there in full length.

    Raises:
        ShardError: it is missing, unreadable, or of another size.
    """
    try:
        found = path.stat().st_size
    except FileNotFoundError as error:
        raise ShardError(f"the shard {path} is missing: {_ADVICE}", path.name) from error
    except OSError as error:
        raise ShardError(f"cannot read the shard {path}: {error.strerror}", path.name) from error
    if found != size:
        raise _of_other_size(path, found, size)


class LocalShards:
    """Shards in a folder, mapped into memory when first read; processes on one machine share the pages.

    Attributes:
        most_open: how many are mapped at a time: a terabyte is 4000 shards, each takes two open files while it is
            mapped, and often a process may have but 1024.
    """

    def __init__(self, folder: Path, records: Sequence[ShardRecord]) -> None:
        self.folder = folder
        self.records = records
        self.most_open = max(16, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 16)
        self._files: dict[int, _MappedFile] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": {}}  # a loader process maps the files itself

    def view(self, shard: int, offset: int, size: int) -> memoryview:
        """See `Shards`."""
        file = self._files.get(shard) or self._map(shard)
        stop = offset + size
        if not 0 <= offset <= stop <= len(file.content):
            raise _outside(str(self.folder), self.records[shard])
        if (size_now := os.lseek(file.number, 0, os.SEEK_END)) < stop:  # half the time of fstat
            raise _of_other_size(self.folder / self.records[shard].file, size_now, len(file.content))
        return file.content[offset:stop]

    def refetch(self, shard: int, offset: int, size: int) -> bool:
        """See `Shards`."""
        return False

    def prefetch(self, spans: Iterable[tuple[int, int, int]]) -> None:
        """See `Shards`: the system reads ahead by itself."""

    def _map(self, shard: int) -> "_MappedFile":
        record = self.records[shard]
        path = inside(self.folder, record.file)
        check_shard(path, record.bytes)
        while len(self._files) >= self.most_open:
            del self._files[next(iter(self._files))]
        try:
            self._files[shard] = _MappedFile(os.open(path, os.O_RDONLY))
        except (OSError, ValueError) as error:  # ValueError: an empty file
            raise ShardError(f"cannot read the shard {path}: {error}", record.file) from error
        return self._files[shard]


class _MappedFile:
    """A file mapped into memory, open for as long as somebody has it, so that its size can be asked for."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.content = memoryview(mmap.mmap(number, 0, access=mmap.ACCESS_READ))

    def __del__(self) -> None:
        os.close(self.number)


class CachedShards:
    """Shards at a remote address, read in blocks that are kept in the cache of this machine."""

    def __init__(self, remote: RemoteFolder, cache: DiskCache, records: Sequence[ShardRecord], block: int) -> None:
        """Read remote shards.

        Args:
            remote: where they are.
            cache: where their blocks are kept.
            records: what the manifest says of them.
            block: bytes that are fetched at a time.

        Raises:
            ConfigError: the cache has no room for a few blocks of each of a machine's processes.
        """
        if cache.limit < 16 * block:
            raise ConfigError(
                f"a cache of {cache.limit:,} bytes is too small for blocks of {block:,}: make LEXALCM_CACHE_SIZE at "
                f"least 16 times {BLOCK_VARIABLE}"
            )
        self.remote = remote
        self.cache = cache
        self.records = records
        self.block = block
        self._shard_keys: dict[int, str] = {}

    def view(self, shard: int, offset: int, size: int) -> memoryview:
        """See `Shards`."""
        stop = offset + size
        if not 0 <= offset <= stop <= self.records[shard].bytes:
            raise _outside(self.remote.address, self.records[shard])
        parts = []
        for number in self._blocks(offset, size):
            start = number * self.block
            parts.append(self._read(shard, number, max(offset - start, 0), min(stop - start, self.block)))
        return memoryview(parts[0] if len(parts) == 1 else b"".join(parts))

    def refetch(self, shard: int, offset: int, size: int) -> bool:
        """See `Shards`: the disk may have damaged what is kept here."""
        for number in self._blocks(offset, size):
            self.cache.drop(self._key(shard, number))
        return True

    def prefetch(self, spans: Iterable[tuple[int, int, int]]) -> None:
        """See `Shards`."""
        wanted = {(shard, number) for shard, offset, size in spans for number in self._blocks(offset, size)}
        missing = [place for place in sorted(wanted) if not self.cache.holds(self._key(*place))]
        if len(missing) > 1:
            with ThreadPoolExecutor(min(_FETCHERS, len(missing))) as pool:
                list(pool.map(lambda place: self._read(place[0], place[1], 0, 1), missing))

    def _blocks(self, offset: int, size: int) -> range:
        return range(offset // self.block, -(-(offset + size) // self.block))

    def _key(self, shard: int, block: int) -> str:
        if shard not in self._shard_keys:
            record = self.records[shard]
            identity = f"{self.remote.address}\n{record.file}\n{record.bytes}\n{record.sha256}\n{self.block}"
            self._shard_keys[shard] = hashlib.sha256(identity.encode()).hexdigest()[:40]
        return f"{self._shard_keys[shard]}-{block:06d}"

    def _read(self, shard: int, block: int, start: int, stop: int) -> bytes:
        key = self._key(shard, block)
        content = self.cache.read(key, start, stop)
        if content is None:
            with self.cache.fetching(key):
                content = self.cache.read(key, start, stop)  # another process may have fetched it meanwhile
                if content is None:
                    content = self._fetch(shard, block)[start:stop]
        return content

    def _fetch(self, shard: int, block: int) -> bytes:
        """Get a block from afar and keep it."""
        record = self.records[shard]
        start, stop = block * self.block, min((block + 1) * self.block, record.bytes)
        try:
            content = self.remote.read(record.file, start, stop)
        except DataError as error:
            raise ShardError(str(error), record.file) from error
        if len(content) == stop - start:
            self.cache.store(self._key(shard, block), content)
            return content
        if len(content) != record.bytes:
            misfit = _misfit(len(content), stop - start)
            raise ShardError(
                f"the shard {self.remote.address}/{record.file} is not what the manifest says (a part of it is "
                f"{misfit}): upload it again, then see `lcm verify data {self.remote.address}`",
                record.file,
            )
        for number in self._blocks(0, record.bytes):  # the server knows no ranges and has sent all of it
            self.cache.store(self._key(shard, number), content[number * self.block : (number + 1) * self.block])
        return content[start:stop]


def block_size() -> int:
    """Bytes of a block as `LEXALCM_CACHE_BLOCK` asks for.

    Raises:
        ConfigError: its value is not a valid size.
    """
    return size_from_environment(BLOCK_VARIABLE, DEFAULT_BLOCK)


def _of_other_size(path: Path, found: int, expected: int) -> ShardError:
    return ShardError(f"the shard {path} is {_misfit(found, expected)}: {_ADVICE}", path.name)


def _misfit(found: int, expected: int) -> str:
    return f"{'truncated' if found < expected else 'too long'} ({found} bytes, expected {expected})"


def _outside(place: str, record: ShardRecord) -> ShardError:
    return ShardError(
        f"the index of {place} points outside of {record.file}: run `lcm verify data {place}`", record.file
    )
