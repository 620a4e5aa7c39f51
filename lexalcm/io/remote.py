"""Read from any address that fsspec knows: `s3://`, `hf://`, `https://`, `gs://`, ...

A read that fails is tried again with growing pauses, unless the answer says that asking again is of no use. What is
wrong in the end is one line. File systems are looked up anew for every read: fsspec keeps one for each process, and one
that a process made is of no use to those it forks.
"""

import importlib
import io
import random
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from lexalcm.errors import DataError, MissingExtraError, RemoteError, import_extra

ATTEMPTS = 5
FIRST_PAUSE = 0.5  # seconds; doubles with each attempt

EXTRAS = {"s3": ("s3fs", "s3"), "s3a": ("s3fs", "s3"), "http": ("aiohttp", "http"), "https": ("aiohttp", "http")}
"""What fsspec needs for an address, and the extra of this project that brings it."""

_TRANSIENT = {408, 425, 429}
"""HTTP answers below 500 that may be another the next time."""

_NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError"}
_PERMANENT = {"InvalidURL", "UnsupportedProtocol"}

T = TypeVar("T")


def is_remote(address: Path | str) -> bool:
    """Whether an address is for fsspec: it has a protocol, and not that of local files."""
    return isinstance(address, str) and "://" in address and not address.startswith("file://")


def local_path(address: Path | str) -> Path:
    """The folder of an address that is not remote; `file:///data` is `/data`."""
    if isinstance(address, str) and address.startswith("file://"):
        return Path(unquote(urlsplit(address).path))
    return Path(address)


class RemoteFolder:
    """A folder at an address."""

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")

    def read(self, name: str, start: int | None = None, stop: int | None = None) -> bytes:
        """A file, or its bytes `start` to before `stop`.

        Fewer bytes come back where the file ends before; more (the whole file) from servers that know no ranges.

        Raises:
            DataError: no such file, or no right to read it.
            RemoteError: no answer, also when asked again.
        """

        def read(system: Any, path: str) -> bytes:
            options = {} if start is None or _is_async(system) else {"cache_type": "none"}  # or it reads ahead
            return system.cat_file(path, start=start, end=stop, **options)

        return self._ask(name, read)

    def download(self, name: str, goal: Path) -> None:
        """Write a file to `goal`. Raises as `read`."""
        self._ask(name, lambda system, path: system.get_file(path, str(goal)))

    def size(self, name: str) -> int | None:
        """Bytes of a file, or None where the server does not say. Raises as `read`."""
        return self._ask(name, lambda system, path: system.info(path)["size"])

    def names(self, folder: str) -> list[str]:
        """Paths, relative to `folder`, of all files below it; none if there is no such folder. Raises as `read`."""

        def find(system: Any, path: str) -> list[str]:
            system.invalidate_cache()
            try:
                files = system.find(path)
            except FileNotFoundError:
                return []
            top = PurePosixPath(system._strip_protocol(path))
            found = [PurePosixPath(system._strip_protocol(file)) for file in files]
            return sorted(str(file.relative_to(top)) for file in found if file.is_relative_to(top))

        return self._ask(folder, find)

    def _ask(self, name: str, question: Callable[[Any, str], T]) -> T:
        address = f"{self.address}/{name}"
        system, path = _file_system(address)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return question(system, path)
            except Exception as error:  # every file system has errors of its own
                status = _status(error)
                if (
                    isinstance(error, PermissionError)
                    or status in (401, 403)
                    or type(error).__name__ in _NO_CREDENTIALS
                ):
                    raise DataError(f"no permission to read {address}: {_advice(address)}") from error
                if isinstance(error, FileNotFoundError) and not _is_unreachable(error):
                    raise DataError(f"{address} does not exist") from error
                if status == 416:  # the file ends before the range begins
                    raise DataError(f"{address} is shorter than expected") from error
                permanent = type(error).__name__ in _PERMANENT or (
                    status is not None and 400 <= status < 500 and status not in _TRANSIENT
                )
                if permanent or attempt == ATTEMPTS:
                    asked = "" if permanent else f" (asked {attempt} times)"
                    raise RemoteError(f"cannot read {address}{asked}: {_reason(error)}") from error
                time.sleep(FIRST_PAUSE * 2 ** (attempt - 1) * random.uniform(0.8, 1.2))
        raise AssertionError("unreachable")


def _file_system(address: str) -> tuple[Any, str]:
    import fsspec  # takes a tenth of a second, which local data sets need not wait for

    protocol = address.partition("://")[0]
    options: dict[str, Any] = {}
    if protocol in EXTRAS:
        module = import_extra(*EXTRAS[protocol], purpose=f"reading {protocol}:// addresses")
        if protocol in ("http", "https"):  # a total limit, aiohttp's default, would cut off large files
            timeout = module.ClientTimeout(total=None, sock_connect=30, sock_read=60)
            options = {"client_kwargs": {"timeout": timeout}}
    try:
        return fsspec.core.url_to_fs(address, **options)
    except ImportError as error:
        raise MissingExtraError(f"cannot read {protocol}:// addresses: {_reason(error)}") from error
    except ValueError as error:
        raise DataError(f"cannot read {address}: {_reason(error)}") from error


def _is_async(system: Any) -> bool:
    return isinstance(system, importlib.import_module("fsspec.asyn").AsyncFileSystem)


def _status(error: BaseException | None) -> int | None:
    """The HTTP status behind an error, wherever its library keeps it."""
    if error is None:
        return None
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        status = getattr(error, "status", None) or getattr(response, "status_code", None)
    return status if isinstance(status, int) else _status(error.__cause__)


def _is_unreachable(error: FileNotFoundError) -> bool:
    """Whether "not found" is what fsspec makes of a server that does not answer."""
    cause = error.__cause__
    is_network = isinstance(cause, OSError) or type(cause).__module__.startswith(("aiohttp", "asyncio"))
    return is_network and not isinstance(cause, FileNotFoundError) and _status(cause) is None


def _advice(address: str) -> str:
    if address.startswith("s3"):
        return "set your AWS credentials, or FSSPEC_S3='{\"anon\": true}' for a public bucket"
    return "check your credentials"


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text or type(error).__name__


class RemoteFile(io.RawIOBase):
    """A remote file read front to back, some megabytes at a time."""

    PIECE = 16 * 2**20

    def __init__(self, folder: RemoteFolder, name: str, size: int) -> None:
        """Read the first `size` bytes of a file."""
        self._folder = folder
        self._name = name
        self._size = size
        self._asked = 0
        self._ahead = memoryview(b"")

    def readable(self) -> bool:
        """It is."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Some bytes, at most `size`; none at the end. Raises as `RemoteFolder.read`."""
        if not self._ahead and self._asked < self._size:
            stop = min(self._asked + self.PIECE, self._size)
            content = self._folder.read(self._name, self._asked, stop)
            if len(content) > stop - self._asked:  # a server that knows no ranges sent all of it
                content, stop = content[self._asked :], self._size
            self._ahead, self._asked = memoryview(content), stop
        size = len(self._ahead) if size < 0 else size
        content, self._ahead = bytes(self._ahead[:size]), self._ahead[size:]
        return content
