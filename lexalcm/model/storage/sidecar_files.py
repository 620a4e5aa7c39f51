"""What stands beside a model's weights so that its folder is complete: the embedded codec and the special concepts.

A data set keeps both under the same names, so that one function serves whoever makes a model folder.
"""

import shutil
from pathlib import Path

from lexalcm.codec.registry import CODEC_FOLDER
from lexalcm.codec.special import SPECIAL_FILE


def copy_sidecar_files(source: Path, target: Path) -> None:
    """Copy the codec's folder (absent for codecs with weights elsewhere) and the special concepts to `target`."""
    if (source / CODEC_FOLDER).is_dir():
        shutil.copytree(source / CODEC_FOLDER, target / CODEC_FOLDER, copy_function=shutil.copyfile, dirs_exist_ok=True)
    if (source / SPECIAL_FILE).is_file():
        shutil.copyfile(source / SPECIAL_FILE, target / SPECIAL_FILE)
