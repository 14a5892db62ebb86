"""From scores to model judgment distributions."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mjd.config.files import read_config
from mjd.config.scoring import Norm, Softmax
from mjd.errors import DataError
from mjd.estimators.aggregation import fill_bounds, model_judgments, softmax, transform

LABELS = read_config("config/config.yaml").labels


def scores(rows: list[tuple]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["uid", "score_e", "score_n", "score_c"])


def test_softmax_by_hand() -> None:
    p = softmax(np.array([[20 * np.log(2), 0.0, 0.0]]), 20)
    np.testing.assert_allclose(p, [[0.5, 0.25, 0.25]])


def test_softmax_is_stable_for_large_scores() -> None:
    np.testing.assert_allclose(softmax(np.array([[1e5, 1e5, -1e5]]), 1), [[0.5, 0.5, 0.0]])


@given(arrays(np.float64, (3, 4), elements=st.floats(-1e3, 1e3)), st.floats(0.01, 100))
def test_softmax_gives_distributions_and_ignores_shifts(values: np.ndarray, temperature: float) -> None:
    p = softmax(values, temperature)
    np.testing.assert_allclose(p.sum(axis=1), 1)
    np.testing.assert_allclose(softmax(values + 7, temperature), p, atol=1e-8)


def test_norm_by_hand() -> None:
    np.testing.assert_allclose(transform(np.array([[1.0, 1.0, 2.0]]), Norm(kind="norm")), [[0.25, 0.25, 0.5]])


def test_norm_refuses_negative_scores() -> None:
    with pytest.raises(DataError, match=r"norm transform needs scores that are not negative.*the first in row 2"):
        transform(np.array([[1.0, 1.0, 2.0], [1.0, -0.5, 2.0]]), Norm(kind="norm"))


def test_distributions_are_averaged_not_scores() -> None:
    found = model_judgments(scores([("a", 0, 0, 0), ("a", np.log(4), 0, 0)]), Softmax(temperature=1), LABELS)
    assert found["n_prompts"].tolist() == [2]
    np.testing.assert_allclose(found[["p_e", "p_n", "p_c"]].to_numpy(), [[(1 / 3 + 2 / 3) / 2, 0.25, 0.25]])


def test_items_keep_their_order() -> None:
    found = model_judgments(scores([("b", 0, 0, 0), ("a", 0, 0, 0), ("b", 1, 0, 0)]), Softmax(), LABELS)
    assert found["uid"].tolist() == ["b", "a"]


def test_infinite_score_is_an_error() -> None:
    with pytest.raises(DataError, match=r"Score row 1 \(item a\) is not a finite number"):
        model_judgments(scores([("a", float("-inf"), 0, 0)]), Softmax(), LABELS)


def test_a_null_score_becomes_its_bound() -> None:
    frame = scores([("i1", -1.0, None, None), ("i1", -1.0, -2.0, -3.0)]).assign(score_bound=[-5.0, np.nan])
    filled, n_bounded = fill_bounds(frame, LABELS)
    assert n_bounded == 1
    assert filled[LABELS.columns("score")].to_numpy().tolist() == [[-1, -5, -5], [-1, -2, -3]]
    assert model_judgments(filled, Softmax(temperature=1), LABELS)["p_n"].iloc[0] > 0


def test_a_null_score_without_a_bound_is_still_an_error() -> None:
    filled, n_bounded = fill_bounds(
        scores([("i1", -1.0, None, -2.0)]).assign(score_bound=pd.Series([None], dtype=object)), LABELS
    )
    assert n_bounded == 0
    with pytest.raises(DataError, match="row 1"):
        model_judgments(filled, Softmax(temperature=1), LABELS)


def test_scores_of_an_older_version_have_no_bounds() -> None:
    frame = scores([("i1", 1.0, 2.0, 3.0)])
    assert fill_bounds(frame, LABELS)[0] is frame
