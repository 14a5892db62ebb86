"""Fitted temperatures: recovered where they are known, and never from the item they are used for."""

import numpy as np
import pandas as pd
import pytest

from mjd.config.files import read_config
from mjd.config.scoring import FittedSoftmax, Softmax
from mjd.errors import DataError
from mjd.estimators.aggregation import softmax
from mjd.estimators.calibration import HIGHEST, LOWEST, cross_fitted_judgments, fit_temperature, judge

LABELS = read_config("config/config.yaml").labels
FOLDS = FittedSoftmax(kind="softmax-cv", folds=4)


def tables(n: int, temperature: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores of two equal prompts an item, and items whose HJD is their softmax at `temperature`."""
    values = np.random.default_rng(1).normal(0, 3, size=(n, 3))
    uids = [f"i{k}" for k in range(n)]
    scores = pd.DataFrame(np.repeat(values, 2, axis=0), columns=LABELS.columns("score"))
    items = pd.DataFrame(softmax(values, temperature), columns=LABELS.columns("hjd"))
    return scores.assign(uid=np.repeat(uids, 2)), items.assign(uid=uids)


def test_the_temperature_that_made_the_hjds_is_found() -> None:
    scores, items = tables(40, 2.5)
    human = items[LABELS.columns("hjd")].to_numpy()
    values = scores[LABELS.columns("score")].to_numpy()
    assert fit_temperature(values, np.repeat(np.arange(40), 2), human) == pytest.approx(2.5, rel=1e-3)


def test_scores_that_are_wrong_get_the_highest_temperature(caplog: pytest.LogCaptureFixture) -> None:
    """HJDs of opposite scores: the flatter the MJDs, the better."""
    scores, items = tables(40, -2.5)
    fitted = cross_fitted_judgments(scores, items, FOLDS, LABELS, seed=1)
    assert fitted.temperatures == [HIGHEST] * 4
    assert "4 of 4 fitted temperatures are the highest tried (500)" in caplog.text


def test_the_best_of_several_minima_is_found() -> None:
    """Two prompts of each item of very different scale: a search that starts anywhere can end in the wrong valley."""
    random = np.random.default_rng(1)
    values = np.repeat(random.normal(0, 3, size=(30, 3)), 2, axis=0)
    values[1::2] = -0.03 * values[1::2] + random.normal(0, 0.02, size=(30, 3))
    item_of = np.repeat(np.arange(30), 2)
    for truth in (0.05, 0.4, 3.0, 60.0):
        human = softmax(values, truth).reshape(30, 2, 3).mean(axis=1)
        assert fit_temperature(values, item_of, human) == pytest.approx(truth, rel=1e-2)


def test_scores_whose_size_says_nothing_get_the_lowest_temperature(caplog: pytest.LogCaptureFixture) -> None:
    scores, items = tables(40, 1e-4)
    scores[LABELS.columns("score")] *= 0.1
    fitted = cross_fitted_judgments(scores, items, FOLDS, LABELS, seed=1)
    assert LOWEST in fitted.temperatures
    assert "of 4 fitted temperatures are the lowest tried (0.02)" in caplog.text


def test_every_fold_finds_it_and_the_mjds_are_the_hjds() -> None:
    scores, items = tables(40, 2.5)
    fitted = cross_fitted_judgments(scores, items, FOLDS, LABELS, seed=1)
    assert fitted.temperatures == pytest.approx([2.5] * 4, rel=1e-3)
    np.testing.assert_allclose(fitted.mjd[LABELS.columns("p")], items[LABELS.columns("hjd")], atol=1e-3)
    assert fitted.mjd["n_prompts"].tolist() == [2] * 40


def test_an_items_own_hjd_does_not_change_its_mjd() -> None:
    scores, items = tables(20, 2.5)
    before = cross_fitted_judgments(scores, items, FOLDS, LABELS, seed=1).mjd
    changed = items.copy()
    changed.loc[7, LABELS.columns("hjd")] = [0.0, 0.0, 1.0]
    after = cross_fitted_judgments(scores, changed, FOLDS, LABELS, seed=1).mjd
    columns = LABELS.columns("p")
    np.testing.assert_array_equal(after.loc[7, columns], before.loc[7, columns])
    assert (after[columns].to_numpy() != before[columns].to_numpy()).any()


def test_items_without_an_hjd_get_a_fitted_mjd_too() -> None:
    scores, items = tables(20, 2.5)
    items.loc[3, LABELS.columns("hjd")] = np.nan
    fitted = cross_fitted_judgments(scores, items, FOLDS, LABELS, seed=1)
    expected = softmax(scores[LABELS.columns("score")].to_numpy()[6], 2.5)
    np.testing.assert_allclose(fitted.mjd.loc[3, LABELS.columns("p")].astype(float), expected, atol=1e-3)


def test_fewer_items_than_folds_make_a_fold_each() -> None:
    scores, items = tables(3, 2.5)
    assert cross_fitted_judgments(scores, items, FOLDS, LABELS, seed=1).temperatures == pytest.approx(
        [2.5] * 3, rel=1e-3
    )


def test_one_item_cannot_be_fitted() -> None:
    scores, items = tables(1, 1.0)
    with pytest.raises(
        DataError, match=r"only 1 item\(s\) have one\. Remove the estimator with the softmax-cv transform"
    ):
        cross_fitted_judgments(scores, items, FOLDS, LABELS, seed=1)


def test_provenance_of_a_fitted_transform_names_its_temperatures() -> None:
    scores, items = tables(20, 2.5)
    _, applied = judge(scores, items, FOLDS, LABELS, seed=1)
    assert applied["temperature"] == pytest.approx(np.exp(np.mean(np.log(applied["temperatures"]))))
    _, applied = judge(scores, items, Softmax(temperature=3), LABELS, seed=1)
    assert applied == {"kind": "softmax", "temperature": 3.0, "bounded_prompts": 0}
