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

COMPANIONS = (NORMALIZER_FILE, SPECIAL_FILE)


def companion_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of those companions that a folder has, by file name.

    Raises:
        DataError: one cannot be read.
    """
    hashes = {name: file_hash(folder / name) for name in COMPANIONS}
    return {name: found for name, found in hashes.items() if found is not None}


def changed_companions(folder: Path, noted: Mapping[str, str]) -> list[str]:
    """Names of the companions that are there but are not what was noted of them.

    Raises:
        DataError: one cannot be read.
    """
    found = companion_hashes(folder) if noted else {}
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
