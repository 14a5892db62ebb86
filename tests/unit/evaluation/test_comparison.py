"""The distribution comparison: metrics, intervals and tests of systems against the human distributions."""

import numpy as np
import pandas as pd
import pytest

from mjd.config.analyses import Statistics
from mjd.config.files import read_config
from mjd.errors import DataError
from mjd.evaluation import statistics as stats
from mjd.evaluation.comparison import bootstrap, compare, for_people, schema
from mjd.io import to_table
from mjd.systems import System

LABELS = read_config("config/config.yaml").labels


def distributions(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet([1, 1, 1], size=n)


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


def test_interval_of_a_weak_distance_correlation_encloses_it() -> None:
    """Without recentring it lies above the estimate: every item that a resample holds twice raises it."""
    p, q = distributions(20, 1), distributions(20, 2)
    found = bootstrap(p, q[None], stats.resample_counts(20, 1000, seed=1))
    low, high = stats.interval(found.samples["dcor"], 0.95)
    assert low[0] < found.estimate["dcor"][0] < high[0]


def test_distance_correlation_with_a_constant_is_undefined() -> None:
    assert np.isnan(comparison().iloc[1]["dcor"])


def test_independence_is_told_from_dependence() -> None:
    random = np.random.default_rng(1)
    items = pd.DataFrame(random.dirichlet([1, 1, 1], 80), columns=LABELS.columns("hjd"))
    items = items.assign(uid=[f"i{k}" for k in range(80)])
    own = items.rename(columns=dict(zip(LABELS.columns("hjd"), LABELS.columns("p"), strict=True)))
    other = own.assign(uid=random.permutation(own["uid"]))
    systems = [System("own", "own", "mjd"), System("other", "other", "mjd")]
    frames = {"own": own, "other": other}
    table = compare(items, systems, frames, LABELS, Statistics(resamples=200), 1, "made up").set_index("slug")
    assert table.loc["own", "dcor_null_p"] == 1 / 1000
    assert table.loc["other", "dcor_null_p"] > 0.05
    assert 0.1 < table.loc["other", "dcor_null_95"] < 0.5


def test_single_item_has_no_interval_and_no_p() -> None:
    items = pd.DataFrame({"uid": ["i1"], "hjd_e": [0.5], "hjd_n": [0.3], "hjd_c": [0.2]})
    human, far = ({"uid": ["i1"], "p_e": [e], "p_n": [0.3], "p_c": [0.7 - e]} for e in (0.5, 0.1))
    systems = [System("human", "human", "mjd"), System("far", "far", "mjd", reference="human")]
    frames = {"human": pd.DataFrame(human), "far": pd.DataFrame(far)}
    table = compare(items, systems, frames, LABELS, Statistics(resamples=200), 1, "made up").set_index("slug")
    assert table.loc["far", ["kl_low", "kl_high", "kl_p", "tvd_p_holm"]].isna().all()
    assert for_people(table.reset_index())["differs_from_human_ex"].tolist() == ["", ""]


def test_fitted_temperatures_show_their_range() -> None:
    items = pd.DataFrame(distributions(5, 1), columns=LABELS.columns("hjd")).assign(uid=list("abcde"))
    own = items.rename(columns=dict(zip(LABELS.columns("hjd"), LABELS.columns("p"), strict=True)))
    settings = Statistics(resamples=200)
    systems = [System("cv", "cv", "mjd"), System("hjd", "HJD", "distribution")]
    frames = {"cv": own, "hjd": own}
    table = compare(items, systems, frames, LABELS, settings, 1, "made up", {"cv": [1.0, 4.0]})
    found = table[["temperature", "temperature_least", "temperature_most"]].to_numpy(float)
    np.testing.assert_allclose(found, [[2, 1, 4], [np.nan] * 3])


def test_too_few_resamples_for_any_mark_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    items = pd.DataFrame(distributions(5, 1), columns=LABELS.columns("hjd")).assign(uid=list("abcde"))
    own = items.rename(columns=dict(zip(LABELS.columns("hjd"), LABELS.columns("p"), strict=True)))
    slugs = [f"s{k}" for k in range(5)]
    systems = [System("human", "h", "mjd"), *(System(slug, slug, "mjd", reference="human") for slug in slugs)]
    compare(items, systems, dict.fromkeys(["human", *slugs], own), LABELS, Statistics(resamples=150), 1, "made up")
    assert "With 150 resamples no difference can be significant" in caplog.text
    assert "Raise statistics.resamples above 200." in caplog.text


def test_comparing_needs_an_hjd() -> None:
    items = pd.DataFrame({"uid": ["i1"], "hjd_e": [np.nan], "hjd_n": [np.nan], "hjd_c": [np.nan]})
    with pytest.raises(DataError, match=r"No training item has an HJD .*ask for tables that need none"):
        compare(items, [System("s", "s", "mjd")], {}, LABELS, Statistics(), 1, "made up")


def test_systems_are_tested_against_their_reference() -> None:
    items = pd.DataFrame(distributions(60, 1), columns=LABELS.columns("hjd")).assign(uid=[f"i{k}" for k in range(60)])
    own = items.rename(columns=dict(zip(LABELS.columns("hjd"), LABELS.columns("p"), strict=True)))
    far = own.assign(p_e=own["p_c"], p_c=own["p_e"])
    systems = [
        System("human", "+ human-ex", "mjd"),
        System("same", "same", "mjd", reference="human"),
        System("far", "far", "mjd", reference="human"),
        System("none", "no reference here", "mjd", reference="elsewhere"),
    ]
    frames = {"human": own, "same": own, "far": far, "none": far}
    table = compare(items, systems, frames, LABELS, Statistics(resamples=500), 1, "made up").set_index("slug")
    assert table.loc["far", "kl_difference"] == pytest.approx(table.loc["far", "kl"])
    assert table.loc["far", "kl_difference_low"] > 0
    assert table.loc["far", "kl_p_holm"] == pytest.approx(2 * table.loc["far", "kl_p"])
    assert table.loc["same", ["kl_p", "dcor_p"]].tolist() == [1, 1]
    assert pd.isna(table.loc["none", "reference"])
    marks = for_people(table.reset_index()).set_index("system")["differs_from_human_ex"]
    assert marks.tolist() == ["", "", "kl higher; js_distance higher; tvd higher", ""]  # swapped labels: an isometry


NOISE_DIFFERS = (17, 26)


def noise() -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """60 items and two systems that know nothing of them, found among 40 such: their D.Corr differ by chance."""
    random = np.random.default_rng(3)
    uids = [f"i{k}" for k in range(60)]
    items = pd.DataFrame(random.dirichlet([1, 1, 1], 60), columns=LABELS.columns("hjd")).assign(uid=uids)
    drawn = [random.dirichlet([1, 1, 1], 60) for _ in range(40)]
    names = dict(zip(("human", "other"), NOISE_DIFFERS, strict=True))
    return items, {
        name: pd.DataFrame(drawn[place], columns=LABELS.columns("p")).assign(uid=uids) for name, place in names.items()
    }


def test_dcor_difference_of_two_systems_at_the_level_of_independence_has_no_mark() -> None:
    items, frames = noise()
    systems = [System("human", "+ human-ex", "mjd"), System("other", "other", "mjd", reference="human")]
    table = compare(items, systems, frames, LABELS, Statistics(resamples=400), 1, "made up").set_index("slug")
    assert (table["dcor"] <= table["dcor_null_95"]).all()
    assert table.loc["other", "dcor_p_holm"] < 0.05  # what the bootstrap, which does not know the floor, calls it
    marks = for_people(table.reset_index())["differs_from_human_ex"]
    assert "dcor" not in marks[1]


def test_dcor_difference_is_marked_where_one_system_is_above_independence() -> None:
    items, frames = noise()
    own = items.rename(columns=dict(zip(LABELS.columns("hjd"), LABELS.columns("p"), strict=True)))
    systems = [System("human", "+ human-ex", "mjd"), System("other", "other", "mjd", reference="human")]
    found = [
        for_people(compare(items, systems, given, LABELS, Statistics(resamples=400), 1, "made up"))
        for given in (frames | {"human": own}, frames | {"other": own})
    ]
    assert "dcor lower" in found[0]["differs_from_human_ex"][1]
    assert "dcor higher" in found[1]["differs_from_human_ex"][1]
