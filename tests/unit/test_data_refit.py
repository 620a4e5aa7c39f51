from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lexalcm.data.normalizer.fit import NormalizerSettings, fit_normalizer, read_stats
from lexalcm.data.normalizer.refit import fit_mixture, parse_weighted, refit_normalizer
from lexalcm.errors import CodecError, ConfigError, DataError, UserError
from lexalcm.model.presets import DEFAULT_PRESET
from lexalcm.train.bootstrap import BootstrapRequest, bootstrap_model


def documents(seed: int, center: float) -> list[tuple[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [("eng_Latn", rng.normal(center, 1, (30, 4))) for _ in range(20)]


def test_a_mixture_is_fitted_into_a_file(make_dataset: Any, tmp_path: Path) -> None:
    a, b = (make_dataset({"train": documents(seed, center)}) for seed, center in ((0, 0.0), (1, 10.0)))
    before = (a.path / "normalizer.safetensors").read_bytes()
    file, stats = fit_mixture([f"{a.path}:3", f"{b.path}:1"], NormalizerSettings(), tmp_path / "normalizer")
    assert file == tmp_path / "normalizer.safetensors"
    np.testing.assert_array_equal(read_stats(file)["center"], stats["center"])
    # of 0.75 N(0, 1) + 0.25 N(10, 1), the median is where N(0, 1) has 2/3 of its mass
    np.testing.assert_allclose(stats["center"], 0.4307, atol=0.15)
    assert (a.path / "normalizer.safetensors").read_bytes() == before
    _, of_one = fit_mixture([str(a.path)], NormalizerSettings(), tmp_path / "alone.safetensors")
    expected = fit_normalizer(np.concatenate([vectors for _, vectors in documents(0, 0.0)]).astype(np.float32))
    np.testing.assert_allclose(of_one["scale"], expected["scale"], rtol=1e-6)


def test_a_model_is_made_with_the_normalizer_of_a_mixture(make_dataset: Any, tmp_path: Path) -> None:
    dataset = make_dataset({"train": documents(0, 0.0)})
    file, stats = fit_mixture([str(dataset.path)], NormalizerSettings(quantiles=(0.1, 0.9)), tmp_path / "n")
    request = BootstrapRequest.of(DEFAULT_PRESET, dataset, 0, (), file)
    assert request != BootstrapRequest.of(DEFAULT_PRESET, dataset, 0, ())
    model = bootstrap_model(request, dataset, tmp_path / "model", normalizer=file)
    np.testing.assert_allclose(model.normalizer.scale.numpy(), stats["scale"])
    other = make_dataset({"train": [("eng_Latn", vectors[:, :3]) for _, vectors in documents(0, 0.0)]})
    with pytest.raises(DataError, match=r"is for 4 dimensions, .* has 3"):
        bootstrap_model(request, other, tmp_path / "other", normalizer=file)


def test_refitting_replaces_the_data_sets_normalizer(make_dataset: Any) -> None:
    dataset = make_dataset({"train": documents(0, 0.0)})
    stats = refit_normalizer(dataset.path, NormalizerSettings(clip_probability=0.01))
    assert set(dataset.normalizer()) == set(stats) == {"center", "scale", "clip_min", "clip_max"}


def test_mistakes(make_dataset: Any, tmp_path: Path) -> None:
    a = make_dataset({"train": documents(0, 0.0)})
    b = make_dataset({"train": documents(0, 0.0)}, fingerprint="1" * 64)
    with pytest.raises(CodecError, match="different codecs"):
        fit_mixture([str(a.path), str(b.path)], NormalizerSettings(), tmp_path / "n")
    with pytest.raises(ConfigError, match="give all a weight, or none"):
        fit_mixture([f"{a.path}:1", str(a.path)], NormalizerSettings(), tmp_path / "n")
    with pytest.raises(UserError, match="give a file with --out"):
        refit_normalizer("s3://bucket/set", NormalizerSettings())


def test_weights_stand_behind_the_last_colon() -> None:
    assert parse_weighted("data/wiki:4") == ("data/wiki", 4)
    assert parse_weighted("s3://bucket/wiki:0.5") == ("s3://bucket/wiki", 0.5)
    assert parse_weighted("s3://bucket/wiki") == ("s3://bucket/wiki", None)
    assert parse_weighted("data/2024") == ("data/2024", None)
    with pytest.raises(ConfigError, match="above zero"):
        parse_weighted("data/wiki:-1")
