"""SHA-256 of files of any size."""

import hashlib
from pathlib import Path

_BLOCK = 1 << 20  # bytes


def file_sha256(path: Path) -> str:
    """A file's SHA-256, in hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
