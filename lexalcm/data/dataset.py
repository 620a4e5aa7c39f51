"""Open a data set folder and read its documents by number.

Opening reads the manifest, the indices and the shards' sizes: a missing or truncated shard is an error here, before any
work is begun. Numbers are mapped into memory, so that reading a document costs one page fault where it is not cached,
and processes on one machine share the pages.
"""

import json
import mmap
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from lexalcm.codec.base import Codec
from lexalcm.codec.registry import CODEC_FOLDER, load_codec
from lexalcm.codec.special import SPECIAL_FILE
from lexalcm.data.manifest import Manifest, SplitRecord, read_manifest
from lexalcm.data.normalize import load_normalizer
from lexalcm.data.shards import TAR_BLOCK, read_index
from lexalcm.errors import DataError


class Split:
    """The documents of one split, by number 0, 1, ... in the order of the shards."""

    def __init__(self, folder: Path, name: str, record: SplitRecord, dim: int, dtype: str) -> None:
        self.folder = folder
        self.name = name
        self.record = record
        self.dim = dim
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self._shard, self._offset, self.lengths = read_index(folder, name)
        self._maps: dict[int, mmap.mmap] = {}
        if len(self.lengths) != record.documents or int(self.lengths.sum()) != record.sentences:
            raise DataError(f"the index of {folder} does not fit its manifest ({name}): build the data set again")

    def __len__(self) -> int:
        return len(self.lengths)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": {}}  # a loader process maps the files itself

    def embeddings(self, i: int) -> np.ndarray:
        """Concepts of document i: [n, dim] in the stored type, read-only, not copied."""
        shard = self._map(int(self._shard[i]))
        return np.ndarray((int(self.lengths[i]), self.dim), self.dtype, shard, int(self._offset[i]))

    def document(self, i: int) -> dict[str, Any]:
        """What is written about document i: `id`, `lang`, `title`, `sentences`, `metadata`."""
        shard = self._map(int(self._shard[i]))
        end = int(self._offset[i]) + int(self.lengths[i]) * self.dim * self.dtype.itemsize
        start = -(-end // TAR_BLOCK) * TAR_BLOCK + TAR_BLOCK  # behind the padding and the JSON member's own header
        try:
            member = tarfile.TarInfo.frombuf(shard[start - TAR_BLOCK : start], "utf-8", "strict")
            return json.loads(shard[start : start + member.size])
        except (tarfile.HeaderError, ValueError) as error:
            name = self.record.shards[int(self._shard[i])].file
            raise DataError(f"{self.folder / name} is damaged at document {i}: run `lcm verify data`") from error

    def _map(self, shard: int) -> mmap.mmap:
        if shard not in self._maps:
            path = self.folder / self.record.shards[shard].file
            try:
                with path.open("rb") as file:
                    self._maps[shard] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except OSError as error:
                raise DataError(f"cannot read {path}: {error.strerror}") from error
        return self._maps[shard]


class Dataset:
    """A data set folder."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self.dim = manifest.codec.dim

    @classmethod
    def open(cls, path: Path | str) -> "Dataset":
        """Open a data set folder.

        Raises:
            DataError: no data set there, another format version, a missing or truncated shard.
        """
        path = Path(path)
        manifest = read_manifest(path)
        for split in manifest.splits.values():
            for shard in split.shards:
                check_shard(path / shard.file, shard.bytes)
        return cls(path, manifest)

    def split(self, name: str = "train") -> Split:
        """One split.

        Raises:
            DataError: no such split, or its index is missing or damaged.
        """
        if name not in self.manifest.splits:
            raise DataError(f"{self.path} has no split {name!r}: it has {', '.join(self.manifest.splits)}")
        return Split(self.path, name, self.manifest.splits[name], self.dim, self.manifest.dtype)

    def normalizer(self) -> dict[str, np.ndarray]:
        """`center`, `scale`, and where fitted `clip_min`, `clip_max`: float32 [dim] each."""
        return load_normalizer(self.path)

    def special_concepts(self) -> dict[str, np.ndarray]:
        """Embeddings of the special concepts by name, e.g. `end_of_text`: float32 [dim] each."""
        try:
            return load_file(self.path / SPECIAL_FILE)
        except (FileNotFoundError, SafetensorError) as error:
            raise DataError(f"{self.path / SPECIAL_FILE} is missing or damaged: build the data set again") from error

    def codec(self) -> Codec:
        """The codec that made the embeddings."""
        return load_codec(self.manifest.codec, self.path / CODEC_FOLDER)


def check_shard(path: Path, size: int) -> None:
    """Make sure that a shard is there in full length.

    Raises:
        DataError: it is missing, unreadable, or of another size.
    """
    try:
        found = path.stat().st_size
    except FileNotFoundError as error:
        raise DataError(f"the shard {path} is missing: copy it here again or build the data set again") from error
    except OSError as error:
        raise DataError(f"cannot read the shard {path}: {error.strerror}") from error
    if found != size:
        kind = "truncated" if found < size else "too long"
        advice = "copy it here again or build the data set again"
        raise DataError(f"the shard {path} is {kind} ({found} bytes, expected {size}): {advice}")
