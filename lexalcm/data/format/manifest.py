"""`dataset.json`: what a data set folder holds, typed and checked.

The manifest lists every shard with its size and hash, so that a missing or truncated one is noticed when the data set
is opened and any other damage by `lcm verify data`; the small files beside the shards are compared at every opening.
The format version is checked before anything else.
"""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from lexalcm.codec.base import CodecRecord
from lexalcm.config import Count, Settings, validate
from lexalcm.data.normalizer.fit import NormalizerSettings
from lexalcm.errors import DataError
from lexalcm.io.atomic import write_text
from lexalcm.io.folders import is_plain_name
from lexalcm.json_text import JSONError, parse_json

FORMAT_VERSION = 1
MANIFEST_FILE = "dataset.json"
UNFINISHED_FOLDER = "unfinished"  # of a data set that workers are still making

Dtype = Literal["float16", "float32"]


class ShardRecord(Settings):
    """One tar."""

    file: str
    documents: Count
    sentences: Count
    bytes: Count
    sha256: str


class LanguageCount(Settings):
    """How much of a split is in one language."""

    documents: Count
    sentences: Count


class SplitRecord(Settings):
    """The documents for one purpose, `train` or `validation`."""

    languages: dict[str, LanguageCount]
    shards: list[ShardRecord]

    @property
    def documents(self) -> int:
        """Documents in all shards."""
        return sum(shard.documents for shard in self.shards)

    @property
    def sentences(self) -> int:
        """Sentences (concepts) in all shards."""
        return sum(shard.sentences for shard in self.shards)

    @property
    def bytes(self) -> int:
        """Size of all shards on disk."""
        return sum(shard.bytes for shard in self.shards)


class Manifest(Settings):
    """A data set folder."""

    format_version: int = FORMAT_VERSION
    codec: CodecRecord
    dtype: Dtype
    text: bool = True
    """Whether the documents' sentences are stored beside their embeddings."""
    normalizer: NormalizerSettings
    splits: dict[str, SplitRecord]
    companions: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of normalizer and special concepts by file name (see `sidecar_files`); none in older ones."""
    build: dict[str, Any] = Field(default_factory=dict)
    """How it was made: settings and source. Nothing reads it but people and `lcm data sample`."""


def read_manifest(folder: Path) -> Manifest:
    """Read a data set's manifest.

    Raises:
        DataError: no manifest, another format version, or a damaged one, also one whose names lead out of the folder.
    """
    file = folder / MANIFEST_FILE
    try:
        tree = parse_json(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        if (folder / UNFINISHED_FOLDER).is_dir():
            raise DataError(f"{folder} is unfinished: run the same `lcm data embed` again to go on") from error
        missing = "has no dataset.json" if folder.exists() else "does not exist"
        advice = "make one with `lcm data sample` or `lcm data build`"
        raise DataError(f"no data set in {folder} (it {missing}): {advice}") from error
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error
    except JSONError as error:
        raise DataError(f"{file} is damaged (not valid JSON, {error}): build the data set again") from error
    version = tree.get("format_version") if isinstance(tree, dict) else None
    if version != FORMAT_VERSION:
        newer = isinstance(version, int) and version > FORMAT_VERSION
        advice = "upgrade lexalcm" if newer else "build the data set again"
        raise DataError(f"{folder} has data format version {version}, this lexalcm reads {FORMAT_VERSION}: {advice}")
    manifest = validate(Manifest, tree, source=str(file))
    for split, record in manifest.splits.items():
        for kind, name in (("split", split), *(("shard", shard.file) for shard in record.shards)):
            if not is_plain_name(name):
                raise DataError(f"{file} is damaged: a {kind} is called {name!r}")
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a data set's manifest in one step."""
    text = json.dumps(manifest.model_dump(mode="json"), ensure_ascii=False, indent=2)
    write_text(folder / MANIFEST_FILE, text + "\n")
