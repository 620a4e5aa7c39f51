from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from safetensors.numpy import load_file
from sklearn.preprocessing import RobustScaler

from lexalcm.data.normalize import NormalizerSettings, fit_normalizer, fit_on_documents, sample_concepts
from lexalcm.errors import DataError

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


def test_above_the_limit_a_uniform_sample_is_used() -> None:
    rng = np.random.default_rng(0)
    arrays = [np.full((n, 1), place) + np.arange(n)[:, None] / 1000 for place, n in enumerate(rng.integers(1, 60, 500))]
    documents = Arrays(arrays)
    everything = np.concatenate(arrays)
    np.testing.assert_array_equal(sample_concepts(documents, len(everything), 0), everything)
    sample = sample_concepts(documents, 2000, 0)
    assert len(np.unique(sample)) == 2000
    assert np.isin(sample, everything).all()
    np.testing.assert_array_equal(sample, sample_concepts(documents, 2000, 0))
    assert (sample != sample_concepts(documents, 2000, 1)).any()
    exact = fit_normalizer(everything)
    sampled = fit_on_documents(documents, NormalizerSettings(max_concepts=2000))
    np.testing.assert_allclose(sampled["center"], exact["center"], rtol=0.1)
    np.testing.assert_allclose(sampled["scale"], exact["scale"], rtol=0.1)


def test_an_empty_split_and_wrong_settings() -> None:
    with pytest.raises(DataError, match="no sentence"):
        sample_concepts(Arrays([]), 10, 0)
    with pytest.raises(ValidationError, match="ascend"):
        NormalizerSettings(quantiles=(0.75, 0.25))
