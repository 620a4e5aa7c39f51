"""The small files of a remote data set, kept in the local cache: manifest, index, normalizer, codec.

The manifest is read from afar each time that a data set is opened. The folder's name comes from the address and the
manifest's content, so that files of a changed data set never stand beside those of the old one.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from lexalcm.data.format.manifest import MANIFEST_FILE
from lexalcm.data.format.sidecar_files import file_hash
from lexalcm.errors import DataError
from lexalcm.io.disk_cache import DiskCache
from lexalcm.io.folders import inside
from lexalcm.io.remote import RemoteFolder


class RemoteMetadata:
    """A local folder with those files of a remote data set that were asked for."""

    def __init__(self, remote: RemoteFolder, cache: DiskCache) -> None:
        """Read the manifest and find the folder that belongs to it.

        Raises:
            DataError: there is no manifest.
            RemoteError: the address does not answer.
        """
        self.remote = remote
        self.cache = cache
        try:
            manifest = remote.read(MANIFEST_FILE)
        except DataError as error:
            raise DataError(f"no data set at {remote.address}: {error}") from error
        key = hashlib.sha256(f"{remote.address}\n".encode() + manifest).hexdigest()[:40]
        self._held = cache.hold_folder(key)
        self.path = self._held.path
        if not (self.path / MANIFEST_FILE).exists():
            cache.add_to_folder(self.path / MANIFEST_FILE, lambda goal: goal.write_bytes(manifest))

    def fetch(self, name: str, sha256: str | None = None) -> None:
        """Bring a file here if it is not, or is another than the one with this SHA-256.

        Raises:
            DataError: it does not exist, or its name leads out of the folder.
        """
        goal = inside(self.path, name)
        if not _is_here(goal, sha256):
            with self.cache.fetching(str(goal)):
                if not _is_here(goal, sha256):
                    self.cache.add_to_folder(goal, lambda beside: self.remote.download(name, beside))

    def fetch_folder(self, name: str, files: Iterable[str] = ()) -> None:
        """Bring a folder here if it is not and exists.

        Args:
            name: of the folder.
            files: what is in it; without them it is listed, which plain web servers do not always do.

        Raises:
            DataError: one of `files` does not exist, or its name leads out of the folder.
        """
        goal = inside(self.path, name)
        if goal.exists():
            return
        with self.cache.fetching(str(goal)):
            files = list(files) or self.remote.names(name)
            if not files or goal.exists():
                return

            def write(beside: Path) -> None:
                for file in files:
                    path = inside(beside, file)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    self.remote.download(f"{name}/{file}", path)

            self.cache.add_to_folder(goal, write)


def _is_here(file: Path, sha256: str | None) -> bool:
    return file.exists() if sha256 is None else file_hash(file) == sha256
