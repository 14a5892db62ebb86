"""The vectorised bootstrap agrees with doing it one resample at a time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mjd.evaluation import statistics as stats
from mjd.runtime.caches import import_dcor


def distributions(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet([1, 1, 1], size=n)


def test_resamples_draw_every_item_n_times_in_all() -> None:
    counts = stats.resample_counts(7, 50, seed=1)
    assert counts.shape == (50, 7)
    np.testing.assert_array_equal(counts.sum(axis=1), 7)


def test_resampled_means_by_hand() -> None:
    np.testing.assert_allclose(stats.resampled_means(np.array([1.0, 3.0]), np.array([[2.0, 0], [1, 1]])), [1, 2])


def test_resampled_distance_correlation_equals_dcor_on_the_resample() -> None:
    p, q = distributions(12, 1), distributions(12, 2)
    counts = stats.resample_counts(12, 5, seed=3)
    expected = []
    for row in counts.astype(int):
        index = np.repeat(np.arange(12), row)
        expected.append(import_dcor().distance_correlation(p[index], q[index]))
    found = stats.resampled_distance_correlations(p, q[None], counts)
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-4)


def test_distance_correlation_with_a_constant_resample_is_nan() -> None:
    p, counts = distributions(6, 1), stats.resample_counts(6, 3, seed=1)
    assert np.isnan(stats.resampled_distance_correlations(p, np.full((1, 6, 3), 1 / 3), counts)).all()


def test_two_sided_p_by_hand() -> None:
    assert stats.two_sided_p([1.0] * 9) == pytest.approx(2 * 1 / 10)
    assert stats.two_sided_p([-1.0, 1.0, 1.0, 1.0]) == pytest.approx(2 * 2 / 5)
    assert stats.two_sided_p([-1.0, 1.0]) == 1
    assert stats.two_sided_p([np.nan, *[1.0] * 9]) == pytest.approx(2 * 1 / 10)
    assert np.isnan(stats.two_sided_p([np.nan, np.nan]))


def test_undefined_resamples_are_left_out_of_an_interval() -> None:
    assert stats.interval([np.nan, *np.arange(101.0)], 0.9) == pytest.approx((5, 95))
    assert np.isnan(stats.interval([np.nan, np.nan], 0.9)).all()


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(stats.holm([0.01, np.nan, 0.04, 0.03]), [0.03, np.nan, 0.06, 0.06])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_keeps_the_order_and_never_lowers_a_p(p: list[float]) -> None:
    adjusted = stats.holm(p)
    assert (adjusted >= np.array(p)).all()
    assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0).all()


def test_t_half_width_is_students() -> None:
    # t(0.975, 2 degrees of freedom) = 4.3026527, n = 3
    found = stats.t_half_width([1.0, 2.0, np.nan], [3, 3, 1], 0.95)
    np.testing.assert_allclose(found, [4.3026527 / 3**0.5, 2 * 4.3026527 / 3**0.5, np.nan])


def test_paired_t_p_by_hand() -> None:
    assert stats.paired_t_p([1.0, 2.0, 3.0]) == pytest.approx(0.0741799)
    assert np.isnan(stats.paired_t_p([0.3]))
    assert stats.paired_t_p([0.0, 0.0]) == 1


def test_differences_equal_up_to_rounding_have_no_spread_to_test_with() -> None:
    assert np.isnan(stats.paired_t_p([0.4 - 0.3, 0.3 - 0.2]))
    assert stats.paired_t_p([0.1 + 0.2 - 0.3, 0.0]) == 1


def test_permuted_distance_correlations_are_those_of_shuffled_items() -> None:
    p, models = distributions(15, 1), np.stack([distributions(15, 2), distributions(15, 1), np.full((15, 3), 1 / 3)])
    found = stats.permuted_distance_correlations(p, models, 4, seed=3)
    random = np.random.default_rng(3)
    for row in found:
        shuffled = p[random.permutation(15)]
        expected = [import_dcor().distance_correlation(shuffled, q) for q in models[:2]]
        np.testing.assert_allclose(row, [*expected, np.nan], atol=1e-5)


def test_permuted_distance_correlations_do_not_depend_on_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    p, models = distributions(10, 1), np.stack([distributions(10, seed) for seed in range(2, 7)])
    whole = stats.permuted_distance_correlations(p, models, 7, seed=3)
    monkeypatch.setattr(stats, "_BLOCK", 200)
    np.testing.assert_allclose(stats.permuted_distance_correlations(p, models, 7, seed=3), whole, atol=1e-6)


def test_permutation_p_by_hand() -> None:
    permuted = np.array([[0.1, np.nan], [0.2, np.nan], [0.3, np.nan]])
    np.testing.assert_allclose(stats.permutation_p(np.array([0.2, np.nan]), permuted), [3 / 4, np.nan])


def test_interval_covers_the_middle() -> None:
    assert stats.interval(np.arange(101.0), 0.9) == pytest.approx((5, 95))
    low, high = stats.interval(np.stack([np.arange(101.0), np.arange(101.0) + 1], axis=1), 0.9)
    assert low == pytest.approx([5, 6])
    assert high == pytest.approx([95, 96])


def test_recentred_samples_have_the_estimates_mean_and_stay_a_correlation() -> None:
    samples = np.array([[0.4, np.nan, 0.9], [0.6, np.nan, 1.0]])
    found = stats.recentred(samples, np.array([0.3, np.nan, 0.99]))
    np.testing.assert_allclose(found, [[0.2, np.nan, 0.94], [0.4, np.nan, 1.0]])
