"""Fit the normalizer again: of one data set, in its place, or of a mixture, into a file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lexalcm.data.batches.mixture import TRAIN_SPLIT, check_one_codec
from lexalcm.data.format.dataset import Dataset
from lexalcm.data.format.manifest import write_manifest
from lexalcm.data.format.sidecar_files import sidecar_hashes
from lexalcm.data.normalizer.fit import (
    NORMALIZER_FILE,
    NormalizerSettings,
    fit_on_documents,
    fit_on_mixture,
    save_normalizer,
    write_stats,
)
from lexalcm.data.normalizer.sentence_concepts import sentence_concepts
from lexalcm.errors import ConfigError, UserError
from lexalcm.io.atomic import check_output_file
from lexalcm.io.remote import is_remote

_SUFFIX = ".safetensors"


def refit_normalizer(path: Path | str, settings: NormalizerSettings) -> dict[str, np.ndarray]:
    """Fit a data set's normalizer again and put it in its place.

    Models made before keep the normalizer that they were made with.

    Raises:
        UserError: no data set there, a dimension without spread, or no permission to write.
    """
    if is_remote(path):
        raise UserError(f"{path} is remote and cannot be written: give a file with --out")
    dataset = Dataset.open(path, check_sidecar_files=False)  # a damaged normalizer is what this mends
    stats = fit_on_documents(sentence_concepts(dataset, TRAIN_SPLIT), settings)
    try:
        save_normalizer(dataset.path, stats)
        hashes = {NORMALIZER_FILE: sidecar_hashes(dataset.path)[NORMALIZER_FILE]}  # the other file was not made here
        update = {"normalizer": settings, "companions": dataset.manifest.companions | hashes}
        write_manifest(dataset.path, dataset.manifest.model_copy(update=update))
    except PermissionError as error:
        raise UserError(f"no permission to write in {path}: change its permissions") from error
    return stats


def fit_mixture(sets: Sequence[str], settings: NormalizerSettings, out: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """Fit a normalizer on the train splits of one or several data sets and write it to a file.

    Args:
        sets: data sets, all as `PATH:WEIGHT` or all as `PATH`; without weights every concept counts the same.
        settings: how.
        out: the file; `.safetensors` is added if it is missing.

    Returns:
        The file, and what is in it.

    Raises:
        CodecError: two data sets have different codecs.
        UserError: no data set there, some weights but not all, a dimension without spread, or `out` cannot be written.
    """
    out = out if out.suffix == _SUFFIX else out.with_name(out.name + _SUFFIX)
    check_output_file(out)
    parsed = [parse_weighted(one) for one in sets]
    datasets = [Dataset.open(path) for path, _ in parsed]
    check_one_codec(datasets)
    weights = [weight for _, weight in parsed if weight is not None]
    if weights and len(weights) < len(parsed):
        raise ConfigError("some data sets have a weight and some have none: give all a weight, or none")
    stats = fit_on_mixture([sentence_concepts(dataset, TRAIN_SPLIT) for dataset in datasets], weights or None, settings)
    write_stats(out, stats)
    return out, stats


def parse_weighted(text: str) -> tuple[str, float | None]:
    """Path and weight of `data/wiki:4`; a path alone has no weight.

    Raises:
        ConfigError: the weight is not above zero.
    """
    path, separator, number = text.rpartition(":")
    try:
        weight = float(number)
    except ValueError:
        return text, None
    if not separator:
        return text, None
    if not 0 < weight < float("inf"):
        raise ConfigError(f"{text}: a weight must be a number above zero")
    return path, weight
