"""A cache on the local disk, bounded in size and shared by all processes of a machine.

    CACHE/blocks/KK/KEY    a piece of a remote file; whole as soon as it has this name
    CACHE/folders/KEY/     the small files of a remote data set
    CACHE/locks/           who is fetching what, and which folders are in use
    CACHE/used             bytes in all

Everything is written beside its place and renamed. The processes of a machine agree by file locks: what two of them
want at once is fetched once, and `used` is counted before a byte is written, so that the limit holds for all of them
together. What was not used for longest goes first; a block that another process has open stays readable for it, and a
folder in use is not removed. The system's page cache keeps what is read often in memory.
"""

import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lexalcm.errors import ConfigError
from lexalcm.io.file_lock import FileLock
from lexalcm.io.sizes import parse_size

CACHE_VARIABLE = "LEXALCM_CACHE"
SIZE_VARIABLE = "LEXALCM_CACHE_SIZE"
DEFAULT_FOLDER = "~/.cache/lexalcm"
DEFAULT_SIZE = "64GiB"

KEPT = 0.9
"""When the limit is reached, things are removed until this share of it is used."""

_LOCKS = 256
_USE_NOTED_EVERY = 60.0  # seconds
_LEFTOVER_AGE = 3600.0  # seconds after which a file being written is one that a killed process left


class DiskCache:
    """Blocks of bytes and folders by key. Holds no open file, so that it can be handed to other processes."""

    def __init__(self, folder: Path | str, limit: int) -> None:
        """Use a folder as cache, making it if need be.

        Args:
            folder: where.
            limit: bytes that all of it may take.

        Raises:
            ConfigError: the folder cannot be made.
        """
        self.root = Path(folder).expanduser().absolute()
        self.limit = limit
        self._blocks = str(self.root / "blocks")
        with self._writing():
            for name in ("blocks", "folders", "locks", "new"):
                (self.root / name).mkdir(parents=True, exist_ok=True)

    @classmethod
    def from_environment(cls) -> "DiskCache":
        """The cache that `LEXALCM_CACHE` and `LEXALCM_CACHE_SIZE` ask for.

        Raises:
            ConfigError: a size that is not valid, or a folder that cannot be made.
        """
        return cls(os.environ.get(CACHE_VARIABLE) or DEFAULT_FOLDER, size_from_environment(SIZE_VARIABLE, DEFAULT_SIZE))

    def read(self, key: str, start: int, stop: int) -> bytes | None:
        """Bytes `start` to before `stop` of a block, or None where it is not here (or not so long)."""
        try:
            file = os.open(self._block_name(key), os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            if time.time() - os.fstat(file).st_mtime > _USE_NOTED_EVERY:
                with suppress(PermissionError):  # another user's
                    os.utime(file)
            content = os.pread(file, stop - start, start)
        finally:
            os.close(file)
        return content if len(content) == stop - start else None

    def holds(self, key: str) -> bool:
        """Whether a block is here."""
        return os.path.exists(self._block_name(key))  # noqa: PTH110  asked for each document

    def drop(self, key: str) -> None:
        """Forget a block, if it is here."""
        with self._writing(), suppress(FileNotFoundError):
            self._block(key).unlink()

    def store(self, key: str, content: bytes) -> None:
        """Keep a block.

        Raises:
            ConfigError: it cannot be written.
        """
        with self._writing():
            self._reserve(len(content))
            beside = self._beside()
            try:
                with beside.open("xb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())  # or a power cut could leave the name without the content
                goal = self._block(key)
                goal.parent.mkdir(exist_ok=True)
                beside.replace(goal)
            finally:
                beside.unlink(missing_ok=True)

    @contextmanager
    def fetching(self, key: str) -> Iterator[None]:
        """Let one process at a time fetch what is kept under a key; the others wait, then find it here."""
        number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % _LOCKS
        lock = FileLock(self.root / "locks" / f"{number:02x}")
        with self._writing():
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def hold_folder(self, key: str) -> "HeldFolder":
        """A folder by key, made empty if it is not here; it is not removed while this process lives."""
        with self._writing():
            lock = FileLock(self.root / "locks" / f"{key}.folder", shared=True)
            lock.acquire()
            os.utime(lock.path)
            folder = self.root / "folders" / key
            folder.mkdir(exist_ok=True)
        return HeldFolder(folder, lock)

    def add_to_folder(self, goal: Path, write: Callable[[Path], object]) -> None:
        """Make a file or a folder inside a held folder, whole or not at all.

        Args:
            goal: the path to make.
            write: writes it to the path that it is given.

        Raises:
            ConfigError: it cannot be written.
        """
        beside = self._beside()
        with self._writing():
            try:
                write(beside)
                self._reserve(_size(beside))
                beside.replace(goal)
            finally:
                shutil.rmtree(beside, ignore_errors=True) if beside.is_dir() else beside.unlink(missing_ok=True)

    def _block(self, key: str) -> Path:
        return Path(self._block_name(key))

    def _block_name(self, key: str) -> str:
        return f"{self._blocks}/{key[:2]}/{key}"  # a Path costs more than the read

    def _beside(self) -> Path:
        return self.root / "new" / uuid.uuid4().hex

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ConfigError(
                f"cannot write to the cache {self.root}: {error.strerror or error}: set {CACHE_VARIABLE} to a folder "
                f"with room, or {SIZE_VARIABLE} to less than {self.limit:,} bytes"
            ) from error

    def _reserve(self, size: int) -> None:
        """Count bytes that are about to be written, and make room for them."""
        if size > self.limit:
            raise ConfigError(
                f"the cache {self.root} may hold {self.limit:,} bytes, {size:,} are needed at "
                f"once: raise {SIZE_VARIABLE}"
            )
        with FileLock(self.root / "used") as file:
            try:
                used = int(os.pread(file, 32, 0))
            except ValueError:  # a new cache, or a damaged file
                used = self._remove_down_to(self.limit)
            used += size
            if used > self.limit:
                used = self._remove_down_to(max(0, int(self.limit * KEPT) - size)) + size
            os.pwrite(file, f"{used:32d}".encode(), 0)

    def _remove_down_to(self, goal: int) -> int:
        """Remove what was not used for longest until `goal` bytes are left; returns how many are."""
        entries = []
        for entry in _files(self.root / "blocks"):
            with suppress(FileNotFoundError):  # somebody tidies up by hand
                entries.append((entry.stat().st_mtime, entry.stat().st_size, Path(entry.path)))
        for folder in (self.root / "folders").iterdir():
            lock = self.root / "locks" / f"{folder.name}.folder"
            used_at = lock.stat().st_mtime if lock.exists() else 0.0
            entries.append((used_at, _size(folder), folder))
        total = sum(size for _, size, _ in entries)
        for leftover in (self.root / "new").iterdir():
            with suppress(FileNotFoundError):
                if time.time() - leftover.stat().st_mtime < _LEFTOVER_AGE:
                    total += _size(leftover)
                else:
                    shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        for _, size, path in sorted(entries):
            if total <= goal:
                break
            if self._remove(path):
                total -= size
        return total

    def _remove(self, path: Path) -> bool:
        if path.parent.name != "folders":
            path.unlink(missing_ok=True)
            return True
        lock = FileLock(self.root / "locks" / f"{path.name}.folder")
        try:
            if not lock.acquire(wait=0) or not lock.excludes:  # in use, or on a file system that cannot tell
                return False
            shutil.rmtree(path, ignore_errors=True)
            return True
        finally:
            lock.release()


@dataclass(frozen=True)
class HeldFolder:
    """A folder of the cache that is in use as long as this object lives."""

    path: Path
    lock: FileLock


def size_from_environment(variable: str, default: str) -> int:
    """Bytes that an environment variable asks for.

    Raises:
        ConfigError: its value is not a valid size.
    """
    text = os.environ.get(variable) or default
    try:
        return parse_size(text)
    except ConfigError as error:
        raise ConfigError(f"{variable}={text}: {error}") from error


def _files(folder: Path) -> Iterator[os.DirEntry[str]]:
    for part in os.scandir(folder):
        yield from os.scandir(part)


def _size(path: Path) -> int:
    size = 0
    for file in [path] if path.is_file() else path.rglob("*"):
        with suppress(FileNotFoundError):
            size += file.stat().st_size
    return size
