"""Special concepts by name or sentence: embedded once, then read from a file.

Names are those of `lexalcm.codec.special`, whose embeddings every data set has. Any other sentence is embedded by the
data set's codec the first time that it is asked for, and kept in `concepts.safetensors` in the data set's folder, or,
where that cannot be written, in `concepts/FINGERPRINT.safetensors` in the user's cache (`~/.cache/lexalcm`). Loading a
codec takes time and some fetch their weights, so that it is announced.
"""

import difflib
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from lexalcm.codec.special import SPECIAL_CONCEPTS, SPECIAL_LANGUAGE
from lexalcm.data.format.dataset import Dataset
from lexalcm.errors import ConfigError, DataError
from lexalcm.io.atomic import atomic_file
from lexalcm.io.disk_cache import CACHE_VARIABLE, DEFAULT_FOLDER
from lexalcm.io.remote import is_remote

CONCEPTS_FILE = "concepts.safetensors"

_NAME = re.compile(r"[a-z]+(_[a-z]+)*")


def special_vectors(dataset: Dataset, names: Sequence[str]) -> np.ndarray:
    """Embeddings of special concepts: float32 [names, dim].

    Args:
        dataset: whose codec embeds them.
        names: names such as `end_of_text`, or sentences, which are embedded as English.

    Raises:
        ConfigError: an unknown name.
        DataError: the data set lacks a special concept.
        CodecError: a sentence is to be embedded, and the codec cannot be loaded.
    """
    if not names:
        return np.empty((0, dataset.dim), np.float32)
    sentences = [name for name in names if not _is_name(name, dataset)]
    vectors = _embedded(dataset, sentences) if sentences else {}
    special = dataset.special_concepts() if len(sentences) < len(names) else {}
    if missing := [name for name in names if name not in vectors and name not in special]:
        raise DataError(f"{dataset.address} has no special concept {missing[0]}: build the data set again")
    return np.stack([vectors[name] if name in vectors else special[name] for name in names]).astype(np.float32)


def _is_name(name: str, dataset: Dataset) -> bool:
    if name in SPECIAL_CONCEPTS:
        return True
    if not name.strip():
        raise ConfigError("a special concept is empty: give a name such as end_of_text, or a sentence")
    if _NAME.fullmatch(name):
        known = dataset.special_concepts()
        if name in known:
            return True
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}, or give a sentence"
        raise ConfigError(f"unknown special concept {name!r}: {hint}")
    return False


def _embedded(dataset: Dataset, sentences: Sequence[str]) -> dict[str, np.ndarray]:
    files = _files(dataset)
    known: dict[str, np.ndarray] = {}
    for file in files:
        try:
            known |= load_file(file)
        except (OSError, SafetensorError):
            continue
    new = [sentence for sentence in dict.fromkeys(sentences) if sentence not in known]
    if new:
        codec = dataset.manifest.codec.name
        logging.getLogger(__name__).warning("embedding %d sentences with the codec %s, once", len(new), codec)
        known |= dict(zip(new, dataset.codec().encode(new, SPECIAL_LANGUAGE), strict=True))
        _keep(files, known)
    return known


def _files(dataset: Dataset) -> list[Path]:
    """Where embedded sentences may be kept, the first choice first."""
    cache = Path(os.environ.get(CACHE_VARIABLE) or DEFAULT_FOLDER).expanduser() / "concepts"
    own = cache / f"{dataset.manifest.codec.fingerprint}.safetensors"
    return [own] if is_remote(dataset.address) else [dataset.path / CONCEPTS_FILE, own]


def _keep(files: Sequence[Path], vectors: dict[str, np.ndarray]) -> None:
    for file in files:
        try:
            if file.parent.name == "concepts":
                file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(file) as temporary:
                save_file({name: np.ascontiguousarray(vector) for name, vector in vectors.items()}, temporary)
        except (OSError, SafetensorError):
            continue
        return
