"""The two small files that stand beside a data set's shards, and their checksums in the manifest.

`dataset.json` notes the SHA-256 of the normalizer and of the special concepts, which are some 40 KB together, so that
they can be compared each time that the data set is opened: one flipped bit in either goes into every number that a
model sees, and nothing else would tell. Manifests without checksums have nothing to compare.
"""

from collections.abc import Mapping
from pathlib import Path

from lexalcm.codec.special import SPECIAL_FILE
from lexalcm.data.normalizer.fit import NORMALIZER_FILE
from lexalcm.errors import DataError
from lexalcm.io.hashing import file_sha256

SIDECAR_FILES = (NORMALIZER_FILE, SPECIAL_FILE)


def sidecar_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of those sidecar files that a folder has, by file name.

    Raises:
        DataError: one cannot be read.
    """
    hashes = {name: file_hash(folder / name) for name in SIDECAR_FILES}
    return {name: found for name, found in hashes.items() if found is not None}


def changed_sidecar_files(folder: Path, noted: Mapping[str, str]) -> list[str]:
    """Names of the sidecar files that are there but are not what was noted of them.

    Raises:
        DataError: one cannot be read.
    """
    found = sidecar_hashes(folder) if noted else {}
    return [name for name, digest in found.items() if noted.get(name, digest) != digest]


def file_hash(file: Path) -> str | None:
    """SHA-256 of a file; None where there is none.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return file_sha256(file)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error
