"""The vectorised bootstrap agrees with doing it one resample at a time."""

import dcor
import numpy as np
import pandas as pd
import pytest

from mjd import stats
from mjd.comparison import compare, schema
from mjd.config import Statistics, System, read_config
from mjd.io import to_table

LABELS = read_config("config/config.yaml").labels


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
        expected.append(dcor.distance_correlation(p[index], q[index]))
    np.testing.assert_allclose(stats.resampled_distance_correlations(p, q, counts), expected, atol=1e-7)


def test_interval_covers_the_middle() -> None:
    assert stats.interval(np.arange(101.0), 0.9) == pytest.approx((5, 95))


def comparison() -> pd.DataFrame:
    items = pd.DataFrame(distributions(30, 1), columns=LABELS.columns("hjd")).assign(uid=[f"i{k}" for k in range(30)])
    own = items.rename(columns=dict(zip(LABELS.columns("hjd"), LABELS.columns("p"), strict=True)))
    flat = own.assign(p_e=1 / 3, p_n=1 / 3, p_c=1 / 3)
    systems = [System("hjd", "HJD", "distribution"), System("uniform", "Uniform", "distribution")]
    settings = Statistics(resamples=200)
    return compare(items, systems, {"hjd": own, "uniform": flat}, LABELS, settings, seed=1, data_set="made up")


def test_comparison_fits_its_schema_and_names_its_data() -> None:
    table = to_table(comparison(), schema())
    assert table["data_set"].to_pylist() == ["made up"] * 2
    assert table["n"].to_pylist() == [30, 30]


def test_hjd_is_no_distance_from_itself() -> None:
    row = comparison().iloc[0]
    assert (row["kl"], row["js_distance"], row["tvd"]) == pytest.approx((0, 0, 0), abs=1e-9)
    assert row["dcor"] == pytest.approx(1)


def test_intervals_enclose_the_estimate() -> None:
    row = comparison().iloc[1]
    for metric in ("kl", "js_distance", "tvd"):
        assert row[f"{metric}_low"] < row[metric] < row[f"{metric}_high"]


def test_distance_correlation_with_a_constant_is_undefined() -> None:
    assert np.isnan(comparison().iloc[1]["dcor"])
