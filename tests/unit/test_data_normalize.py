from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from safetensors.numpy import load_file
from sklearn.preprocessing import RobustScaler

from lexalcm.data.normalizer import fit as normalize
from lexalcm.data.normalizer.fit import (
    NormalizerSettings,
    fit_normalizer,
    fit_on_documents,
    fit_on_mixture,
    sample_concepts,
)
from lexalcm.errors import ConfigError, DataError

REFERENCE = Path(__file__).parents[1] / "data" / "reference_lcm" / "normalizer.safetensors"


class Arrays:
    """Documents in memory."""

    def __init__(self, arrays: list[np.ndarray]) -> None:
        self.arrays = arrays
        self.lengths = np.array([len(array) for array in arrays])

    def embeddings(self, i: int) -> np.ndarray:
        return self.arrays[i]


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    return load_file(REFERENCE)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("robust", {"quantiles": (0.0025, 0.0075)}),  # the published code's quartiles, see the module's docstring
        ("clipped", {"quantiles": (0.0025, 0.0075), "clip_probability": 0.001}),
        ("standard", {"method": "standard"}),
    ],
)
def test_fits_of_the_published_code(reference: dict[str, np.ndarray], name: str, settings: dict) -> None:
    stats = fit_normalizer(reference["fit_data"], NormalizerSettings(**settings))
    expected = {key.removeprefix(f"{name}_"): value for key, value in reference.items() if key.startswith(f"{name}_")}
    for key, value in stats.items():
        np.testing.assert_allclose(value, expected[key], rtol=0, atol=1e-5 * np.abs(expected[key]).max())
    assert set(expected) - set(stats) == {"normalized", "denormalized"}


def test_quartiles_as_scikit_learn(reference: dict[str, np.ndarray]) -> None:
    stats = fit_normalizer(reference["fit_data"])
    scaler = RobustScaler(unit_variance=True).fit(reference["fit_data"].astype(np.float64))
    np.testing.assert_allclose(stats["center"], scaler.center_, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(stats["scale"], scaler.scale_, rtol=1e-6)


def test_normal_numbers_have_unit_scale() -> None:
    concepts = np.random.default_rng(0).normal(3, 2, (200_000, 2))
    stats = fit_normalizer(concepts)
    np.testing.assert_allclose(stats["center"], 3, atol=0.03)
    np.testing.assert_allclose(stats["scale"], 2, rtol=0.01)


def test_a_dimension_without_spread_is_named() -> None:
    concepts = np.random.default_rng(0).normal(size=(100, 70))
    concepts[:, [2, 68]] = 1
    for clip in (None, 0.01):
        with pytest.raises(DataError, match=r"zero in 2 of 70 dimensions \(2, 68\)"):
            fit_normalizer(concepts, NormalizerSettings(clip_probability=clip))


def fit_reference(concepts: np.ndarray) -> RobustScaler:
    return RobustScaler(unit_variance=True).fit(concepts.astype(np.float64))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_large_split_in_blocks_is_fitted_exactly(dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normalize, "_BLOCK_CONCEPTS", 100)
    rng = np.random.default_rng(0)
    arrays = [rng.standard_t(3, (n, 5)).astype(dtype) for n in rng.integers(1, 60, 300)]
    settings = NormalizerSettings(clip_probability=0.01)
    stats = fit_on_documents(Arrays(arrays), settings)
    concepts = np.concatenate(arrays).astype(np.float64)
    scaler = fit_reference(concepts)
    np.testing.assert_allclose(stats["center"], scaler.center_, rtol=1e-6)
    np.testing.assert_allclose(stats["scale"], scaler.scale_, rtol=1e-6)
    bounds = np.quantile(scaler.transform(concepts), [0.01, 0.99], axis=0)
    np.testing.assert_allclose([stats["clip_min"], stats["clip_max"]], bounds, rtol=1e-6)
    standard = fit_on_documents(Arrays(arrays), NormalizerSettings(method="standard"))
    np.testing.assert_allclose(standard["center"], concepts.mean(axis=0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(standard["scale"], concepts.std(axis=0), rtol=1e-6)


def test_above_the_limit_a_uniform_sample_is_used() -> None:
    rng = np.random.default_rng(0)
    arrays = [np.full((n, 1), place) + np.arange(n)[:, None] / 1000 for place, n in enumerate(rng.integers(1, 60, 500))]
    documents, everything = Arrays(arrays), np.concatenate(arrays)

    def sample(count: int, seed: int) -> np.ndarray:
        return np.concatenate(list(sample_concepts(documents, count, seed)))

    np.testing.assert_array_equal(sample(len(everything), 0), everything)
    assert len(np.unique(sample(2000, 0))) == 2000
    assert np.isin(sample(2000, 0), everything).all()
    np.testing.assert_array_equal(sample(2000, 0), sample(2000, 0))
    assert (sample(2000, 0) != sample(2000, 1)).any()
    often = np.zeros(len(everything))
    for seed in range(300):
        often[np.searchsorted(everything[:, 0], sample(1000, seed)[:, 0])] += 1
    expected = 300 * 1000 / len(everything)
    assert abs(often[:5000].mean() - expected) < 0.6  # the first and the last are chosen as often: 4 standard errors
    assert often.max() < expected + 6 * np.sqrt(expected)


def test_the_error_of_a_sample_is_what_is_stated() -> None:
    """Of a normal variable a quartile's standard error is sqrt(p (1 - p) / n) / density = 1.363 / sqrt(n)."""
    documents = Arrays(list(np.random.default_rng(0).normal(size=(500, 200, 40)).astype(np.float16)))
    exact = fit_on_documents(documents, NormalizerSettings())
    n = 10_000
    stats = [fit_on_documents(documents, NormalizerSettings(max_concepts=n, seed=seed)) for seed in range(5)]
    centers = np.concatenate([one["center"] - exact["center"] for one in stats])
    scales = np.concatenate([one["scale"] / exact["scale"] - 1 for one in stats])
    assert centers.std() == pytest.approx(1.2533 / np.sqrt(n), rel=0.25)  # of the median: sqrt(pi / 2)
    assert scales.std() == pytest.approx(1.166 / np.sqrt(n), rel=0.25)  # of the distance of the quartiles, per sigma
    assert np.abs(centers).max() < 5 * 1.2533 / np.sqrt(n)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_weights_of_a_mixture_are_shares_of_concepts(dtype: type) -> None:
    rng = np.random.default_rng(0)
    small, large = rng.normal(0, 1, (400, 3)).astype(dtype), rng.normal(5, 2, (3000, 3)).astype(dtype)
    sets = [Arrays(np.array_split(small, 17)), Arrays(np.array_split(large, 50))]
    stats = fit_on_mixture(sets, [3, 1], NormalizerSettings())
    together = np.concatenate([np.repeat(small, 3 * 30, axis=0), np.repeat(large, 4, axis=0)])  # 36,000 to 12,000
    scaler = fit_reference(together)
    np.testing.assert_allclose(stats["center"], scaler.center_, atol=0.03)
    np.testing.assert_allclose(stats["scale"], scaler.scale_, rtol=0.03)
    alike = fit_on_mixture(sets, None, NormalizerSettings())
    scaler = fit_reference(np.concatenate([small, large]))
    np.testing.assert_allclose(alike["center"], scaler.center_, rtol=1e-6)
    np.testing.assert_allclose(alike["scale"], scaler.scale_, rtol=1e-6)
    by_size = fit_on_mixture(sets, [400, 3000], NormalizerSettings())
    np.testing.assert_allclose(by_size["scale"], alike["scale"], rtol=1e-6)
    sampled = fit_on_mixture(sets, [3, 1], NormalizerSettings(max_concepts=1000))
    np.testing.assert_allclose(sampled["center"], stats["center"], atol=0.4)


def test_a_fit_that_would_not_fit_in_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normalize, "MAX_KEPT_BYTES", 1 << 10)
    documents = Arrays([np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)])
    with pytest.raises(ConfigError, match="set max_concepts to 64 or less"):
        fit_on_documents(documents, NormalizerSettings())
    fit_on_documents(documents, NormalizerSettings(max_concepts=64))


def test_an_empty_split_and_wrong_settings() -> None:
    with pytest.raises(DataError, match="no sentence"):
        fit_on_documents(Arrays([]), NormalizerSettings())
    with pytest.raises(ValidationError, match="ascend"):
        NormalizerSettings(quantiles=(0.75, 0.25))
