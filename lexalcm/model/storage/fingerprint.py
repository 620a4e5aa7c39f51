"""What tells one model folder from another, at once also for large ones."""

import hashlib
import os
from pathlib import Path

from lexalcm.model.storage.folder import WEIGHTS_FILE
from lexalcm.model.storage.locate import CONFIG_FILE

PIECES = 64
PIECE_BYTES = 65_536


def model_fingerprint(folder: Path) -> str:
    """A digest of the config and of 64 pieces spread over the weights: 4 MB, whatever the model's size.

    Training changes all weights, so that any later state of a model has another digest.
    """
    digest = hashlib.sha256((folder / CONFIG_FILE).read_bytes())
    size = (folder / WEIGHTS_FILE).stat().st_size
    digest.update(str(size).encode())
    with (folder / WEIGHTS_FILE).open("rb") as file:
        for piece in range(PIECES):
            file.seek(max(0, size - PIECE_BYTES) * piece // (PIECES - 1), os.SEEK_SET)
            digest.update(file.read(PIECE_BYTES))
    return digest.hexdigest()
