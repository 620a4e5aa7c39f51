import numpy as np
import pytest

from lexalcm.evaluate.metrics import resampling
from lexalcm.evaluate.metrics.resampling import p_value, percentile_interval, ratios, resampled_totals
from lexalcm.evaluate.report.report import Change
from lexalcm.evaluate.run.tally import summarize


def resampled_means(sums, weights, resamples, seed):
    """Of [k, documents] sums and weights, or [documents] weights for all k: [resamples, k]."""
    weights = np.broadcast_to(weights, sums.shape).astype(float)
    totals = resampled_totals([sums, weights], np.arange(sums.shape[1]), resamples, seed)
    return ratios(totals[:, : len(sums)], totals[:, len(sums) :])


def test_spread_is_the_standard_error_of_the_mean():
    values = np.random.default_rng(0).normal(size=200)
    means = resampled_means(values[None], np.ones(200, dtype=int), 20_000, seed=0)[:, 0]
    assert means.std() == pytest.approx(values.std() / np.sqrt(200), rel=0.03)
    assert means.mean() == pytest.approx(values.mean(), abs=0.001)


def test_means_weigh_targets_not_documents():
    # Two documents of 1 and 3 targets with means 0 and 1: a resample holds the second 0, 1 or 2 times in two.
    means = resampled_means(np.array([[0.0, 3.0]]), np.array([1, 3]), 40_000, seed=1)[:, 0]
    values, counts = np.unique(means, return_counts=True)
    assert values.tolist() == [0.0, 0.75, 1.0]
    assert counts / 40_000 == pytest.approx([0.25, 0.5, 0.25], abs=0.01)


def test_rows_share_their_draws_so_a_constant_difference_has_no_spread():
    values = np.random.default_rng(2).normal(size=30)
    counts = np.arange(1, 31)
    means = resampled_means(np.stack([values, values + 2 * counts]), counts, 500, seed=3)
    assert means[:, 1] - means[:, 0] == pytest.approx(np.full(500, 2.0))


def test_blocks_do_not_change_the_draws(monkeypatch):
    values, counts = np.random.default_rng(3).normal(size=(2, 17)), np.arange(1, 18)
    whole = resampled_means(values, counts, 100, seed=5)
    monkeypatch.setattr(resampling, "BLOCK", 17 * 7)
    assert resampled_means(values, counts, 100, seed=5) == pytest.approx(whole)
    assert resampled_means(values, counts, 100, seed=6) != pytest.approx(whole)


def test_documents_that_are_not_drawn_do_not_count():
    values = np.random.default_rng(3).normal(size=(2, 17))
    some = np.array([1, 2, 3, 8, 16])
    alone = resampled_totals([values[:, some]], np.arange(5), 100, seed=5)
    assert resampled_totals([values[:1], values[1:]], some, 100, seed=5) == pytest.approx(alone)


def test_interval_holds_its_share_of_the_values():
    low, high = percentile_interval(np.arange(1001.0), 0.95)
    assert (low, high) == pytest.approx((25.0, 975.0))


def test_intervals_cover_the_true_mean_about_as_often_as_they_say():
    generator = np.random.default_rng(4)
    covered = 0
    for experiment in range(300):
        values = generator.normal(size=60)
        low, high = percentile_interval(resampled_means(values[None], np.ones(60, int), 400, seed=experiment)[:, 0])
        covered += low <= 0 <= high
    assert 0.90 <= covered / 300 <= 0.98


def test_each_mean_may_have_weights_of_its_own():
    generator = np.random.default_rng(6)
    sums, weights = generator.normal(size=(3, 12)), generator.integers(1, 9, size=(3, 12))
    together = resampled_means(sums, weights, 50, seed=7)
    for row in range(3):
        alone = resampled_means(sums[row : row + 1], weights[row], 50, seed=7)
        assert together[:, row] == pytest.approx(alone[:, 0])


def test_a_set_without_weight_has_no_mean():
    means = resampled_means(np.array([[5.0, 0.0]]), np.array([1, 0]), 1000, seed=0)[:, 0]
    assert np.isnan(means).mean() == pytest.approx(0.25, abs=0.05)  # the second document drawn twice


@pytest.mark.parametrize("bins", [1, 3])
def test_what_one_document_carries_has_no_interval(bins):
    """Three documents; the second metric has weight in one of them alone, the third in two."""
    weights = np.array([[1, 2, 1], [0, 5, 0], [0, 1, 1]], dtype=float)
    numbers = np.array([[[3, 2, 4], [0, 9, 0], [0, 1, 3]], [[1, 2, 1], [0, 4, 0], [0, 1, 5]]], dtype=float)
    tallies = np.zeros((2, 2, 3, bins, 4))
    tallies[:, 0, :, -1, :3], tallies[:, 1, :, -1, :3] = numbers, weights
    tallies[..., 3] = 1000  # a document that does not count
    found = summarize(list(tallies), np.arange(3), [(0, 1)], 200, 0, by_position=bins > 1)
    for scores in [found.scores, *found.positions[-1:]]:
        assert [one.value for one in scores[0]] == pytest.approx([9 / 4, 9 / 5, 4 / 2])
        assert [one.low is None for one in scores[0]] == [False, True, False]
        assert [one.high is None for one in scores[1]] == [False, True, False]
        assert (scores[0][2].low, scores[0][2].high) == (1, 3)
    assert [one.p is None for one in found.changes[0, 1]] == [False, True, False]
    assert found.changes[0, 1][1] == Change(pytest.approx(9 / 5 - 4 / 5), None, None, None)
    assert all(estimate is None for place in found.positions[:-1] for row in place for estimate in row)


def test_p_values_of_cases_worked_by_hand():
    assert p_value(np.array([1.0] * 999)) == pytest.approx(2 / 1000)
    assert p_value(np.array([1.0] * 949 + [-1.0] * 50)) == pytest.approx(2 * 51 / 1000)
    assert p_value(np.array([-1.0] * 949 + [1.0] * 50 + [np.nan] * 7)) == pytest.approx(2 * 51 / 1000)
    assert p_value(np.zeros(100)) == 1


def test_without_a_difference_p_is_below_five_percent_about_as_often_as_it_says():
    generator = np.random.default_rng(8)
    found = []
    for experiment in range(400):
        one, other = generator.normal(size=(2, 60)) + generator.normal(size=60)  # a document is hard for both
        means = resampled_means(np.stack([one, other]), np.ones(60, int), 400, seed=experiment)
        found.append(p_value(means[:, 0] - means[:, 1]))
    assert 0.02 <= np.mean(np.array(found) < 0.05) <= 0.09
