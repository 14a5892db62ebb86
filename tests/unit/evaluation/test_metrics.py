"""Distances against values computed by hand, and their mathematical properties."""

from __future__ import annotations

import math
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mjd.distributions import Floats
from mjd.errors import DataError
from mjd.evaluation.metrics import (
    HUMAN_TIE,
    PREDICTED_TIE,
    accuracy,
    clipped,
    cross_entropy,
    distance_correlation,
    entropy,
    f1,
    js_distance,
    js_divergence,
    kl_divergence,
    majority,
    near_ties,
    share_of_ties,
    top_labels,
    total_variation_distance,
)

LN2 = math.log(2)


@st.composite
def distributions(draw: st.DrawFn, n_arrays: int = 2) -> list[Floats]:
    """`n_arrays` arrays [n_items, K] of distributions, zeros included."""
    shape = (draw(st.integers(1, 5)), draw(st.integers(2, 10)))
    values = st.one_of(st.just(0.0), st.floats(1e-6, 1.0))
    drawn = [draw(hnp.arrays(np.float64, shape, elements=values)) for _ in range(n_arrays)]
    return [(array + 1e-300) / (array + 1e-300).sum(axis=1, keepdims=True) for array in drawn]


# -- by hand -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p", "q", "expected"),
    [
        ([0.5, 0.5, 0.0], [0.25, 0.25, 0.5], LN2),
        ([1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3], math.log(3)),
        ([0.5, 0.5, 0.0], [0.5, 0.5, 0.0], 0.0),
        ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], math.log(1e10)),
    ],
)
def test_kl_by_hand(p: list[float], q: list[float], expected: float) -> None:
    assert kl_divergence([p], [q]) == pytest.approx([expected], abs=1e-7)


def test_kl_runs_from_human_to_model() -> None:
    # KL(P||Q) = 1 ln(1 / 0.5); the other direction has 0.5 ln(0.5 / 1e-10).
    assert kl_divergence([[1.0, 0.0]], [[0.5, 0.5]])[0] == pytest.approx(LN2, abs=1e-7)


def test_cross_entropy_by_hand() -> None:
    expected = -0.5 * math.log(0.25) - 0.5 * math.log(0.75)
    assert cross_entropy([[0.5, 0.5]], [[0.25, 0.75]]) == pytest.approx([expected])


def test_entropy_of_a_certain_and_a_uniform_item() -> None:
    assert entropy([[1.0, 0.0], [0.5, 0.5]]) == pytest.approx([0.0, LN2])


def test_js_divergence_by_hand() -> None:
    # M = (0.75, 0.25): KL(P||M) = ln 4/3, KL(Q||M) = (ln 2/3 + ln 2) / 2.
    expected = (math.log(4 / 3) + (math.log(2 / 3) + LN2) / 2) / 2
    assert js_divergence([[1.0, 0.0]], [[0.5, 0.5]]) == pytest.approx([expected])


def test_js_distance_of_disjoint_distributions_is_its_maximum() -> None:
    assert js_distance([[1.0, 0.0]], [[0.0, 1.0]]) == pytest.approx([math.sqrt(LN2)])


def test_total_variation_by_hand() -> None:
    assert total_variation_distance([[0.7, 0.2, 0.1]], [[0.5, 0.3, 0.2]]) == pytest.approx([0.2])


def test_distances_are_per_item() -> None:
    assert total_variation_distance([[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]]).tolist() == [1.0, 0.0]


def test_clipping_renormalises() -> None:
    assert clipped([[1.0, 0.0, 0.0]]).sum() == pytest.approx(1.0, abs=1e-15)


def test_distance_correlation_by_hand() -> None:
    # Centred distances of 0, 1, 3: diagonal -4/3, -2/3, -2, rest 0, 4/3, 2/3; of 0, 1, 2: -10/9, -4/9, -10/9, rest
    # 2/9, 8/9, 2/9. Sums of products: p·q 20/3, p·p 96/9, q·q 40/9.
    expected = math.sqrt((20 / 3) / math.sqrt(96 / 9 * 40 / 9))
    assert distance_correlation([[0.0], [1.0], [3.0]], [[0.0], [1.0], [2.0]]) == pytest.approx(expected)


def test_distance_correlation_of_similar_matrices_is_one() -> None:
    p = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])
    assert distance_correlation(p, p[:, ::-1]) == pytest.approx(1.0)


def test_distance_correlation_with_a_constant_is_zero() -> None:
    assert distance_correlation([[0.7, 0.3], [0.1, 0.9], [0.4, 0.6]], np.full((3, 2), 0.5)) == 0.0


def test_distance_correlation_of_one_item_is_undefined() -> None:
    assert math.isnan(distance_correlation([[0.7, 0.3]], [[0.5, 0.5]]))


@pytest.mark.parametrize(
    ("average", "expected"),
    # F1 by label: 2/3 (precision 1, recall 1/2), 1/2 (1/3, 1), 0.
    [("macro", (2 / 3 + 1 / 2 + 0) / 3), ("weighted", (2 * 2 / 3 + 1 / 2 + 0) / 4)],
)
def test_f1_by_hand(average: str, expected: float) -> None:
    assert f1([0, 0, 1, 2], [0, 1, 1, 1], 3, average) == pytest.approx(expected)  # type: ignore[arg-type]


def test_macro_f1_counts_labels_that_never_occur() -> None:
    assert f1([0, 0], [0, 0], 3, "macro") == pytest.approx(1 / 3)


def test_majority_takes_the_first_label_on_ties() -> None:
    assert majority([[0.2, 0.4, 0.4], [0.1, 0.1, 0.8]]).tolist() == [1, 2]


# -- errors ------------------------------------------------------------------------------------------------------


def test_distributions_of_different_shapes_are_refused() -> None:
    with pytest.raises(DataError, match=r"\(1, 2\) and \(1, 3\)"):
        kl_divergence([[0.5, 0.5]], [[0.5, 0.25, 0.25]])


def test_single_vector_is_refused() -> None:
    with pytest.raises(DataError, match="not \\[n_items, K\\]"):
        js_divergence([0.5, 0.5], [0.5, 0.5])


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_impossible_probabilities_are_named(value: float) -> None:
    with pytest.raises(DataError, match="q: row 2, column 1"):
        total_variation_distance([[0.5, 0.5], [0.5, 0.5]], [[0.5, 0.5], [value, 0.5]])


# -- properties --------------------------------------------------------------------------------------------------


@given(distributions(1))
def test_kl_of_a_distribution_with_itself_is_zero(drawn: list[Floats]) -> None:
    assert kl_divergence(drawn[0], drawn[0]).tolist() == [0.0] * len(drawn[0])


@given(distributions())
def test_cross_entropy_is_entropy_plus_kl(drawn: list[Floats]) -> None:
    p, q = drawn
    assert cross_entropy(p, q) == pytest.approx(entropy(p) + kl_divergence(p, q), abs=1e-6)


@given(distributions())
def test_pinsker_bounds_kl_from_below(drawn: list[Floats]) -> None:
    p, q = drawn
    assert (kl_divergence(p, q) >= 2 * total_variation_distance(p, q) ** 2 - 1e-7).all()


@given(distributions())
def test_js_divergence_is_symmetric(drawn: list[Floats]) -> None:
    assert js_divergence(*drawn) == pytest.approx(js_divergence(*drawn[::-1]), abs=1e-12)


@given(distributions())
def test_js_divergence_is_at_most_ln_2(drawn: list[Floats]) -> None:
    assert (js_divergence(*drawn) <= LN2 + 1e-12).all()


@given(distributions(3))
def test_js_distance_obeys_the_triangle_inequality(drawn: list[Floats]) -> None:
    p, q, r = drawn
    assert (js_distance(p, r) <= js_distance(p, q) + js_distance(q, r) + 1e-7).all()


@given(distributions())
def test_total_variation_is_between_0_and_1(drawn: list[Floats]) -> None:
    distance = total_variation_distance(*drawn)
    assert ((distance >= 0) & (distance <= 1 + 1e-12)).all()


@given(distributions(), st.randoms(use_true_random=False))
def test_kl_does_not_depend_on_label_order(drawn: list[Floats], random: object) -> None:
    p, q = drawn
    order = list(range(p.shape[1]))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert kl_divergence(p[:, order], q[:, order]) == pytest.approx(kl_divergence(p, q), abs=1e-9)


@settings(max_examples=25)
@given(distributions())
def test_distance_correlation_is_symmetric(drawn: list[Floats]) -> None:
    p, q = (np.vstack([array, np.eye(array.shape[1])]) for array in drawn)
    assert distance_correlation(p, q) == pytest.approx(distance_correlation(q, p), abs=1e-9)


# -- ties ----------------------------------------------------------------------------------------------------------


@st.composite
def votes(draw: st.DrawFn) -> np.ndarray:
    """Votes of 1 to 6 annotators [n_items, K]: many ties."""
    n_items, n_labels, n_votes = draw(st.integers(1, 12)), draw(st.integers(2, 5)), draw(st.integers(1, 6))
    drawn = draw(hnp.arrays(np.int64, (n_items, n_votes), elements=st.integers(0, n_labels - 1)))
    return np.stack([np.bincount(row, minlength=n_labels) for row in drawn])


def shares(counts: np.ndarray) -> np.ndarray:
    return np.asarray(counts / counts.sum(axis=1, keepdims=True))


@given(votes(), st.randoms(use_true_random=False))
def test_f1_perfect_classifier_any_label_order_is_exactly_one(counts: np.ndarray, random: Random) -> None:
    """Three perfect classifiers: the HJDs themselves, the first of the tied labels, and any of them."""
    n_labels = counts.shape[1]
    order = random.sample(range(n_labels), n_labels)
    hjd = shares(counts[:, order])
    gold = top_labels(hjd, HUMAN_TIE)
    drawn = np.array([random.choice(np.flatnonzero(row).tolist()) for row in gold])
    for predicted in (top_labels(hjd, PREDICTED_TIE), majority(hjd), drawn):
        assert f1(gold, predicted, n_labels, "macro") == 1.0
        assert f1(gold, predicted, n_labels, "weighted") == 1.0
        assert accuracy(gold, predicted, n_labels) == 1.0


@given(votes(), st.data())
def test_f1_any_classifier_does_not_depend_on_the_label_order(counts: np.ndarray, data: st.DataObject) -> None:
    n_items, n_labels = counts.shape
    p = shares(data.draw(hnp.arrays(np.int64, (n_items, n_labels), elements=st.integers(1, 3))))
    order = data.draw(st.permutations(range(n_labels)))
    for average in ("macro", "weighted"):
        found = [
            f1(top_labels(shares(counts)[:, o], HUMAN_TIE), top_labels(p[:, o], PREDICTED_TIE), n_labels, average)
            for o in (list(range(n_labels)), list(order))
        ]
        assert found[0] == pytest.approx(found[1], abs=1e-12)


@given(st.data())
def test_f1_without_ties_equals_the_f1_of_positions(data: st.DataObject) -> None:
    gold, predicted = (np.array(data.draw(st.lists(st.integers(0, 2), min_size=5, max_size=5))) for _ in range(2))
    sets = gold[:, None] == np.arange(3)
    if (gold != predicted).any():
        for average in ("macro", "weighted"):
            assert f1(sets, predicted, 3, average) == pytest.approx(f1(gold, predicted, 3, average))


def test_f1_prediction_outside_a_tie_by_hand() -> None:
    # Gold e, then n or c; predicted e, e: precision of e 1/2, recall 1; n and c missed half each.
    gold = [[True, False, False], [False, True, True]]
    assert f1(gold, [0, 0], 3, "macro") == pytest.approx((2 / 3) / 3)
    assert f1(gold, [0, 0], 3, "weighted") == pytest.approx((2 / 3) / 2)
    assert accuracy(gold, [0, 0], 3) == pytest.approx(1 / 2)


def test_accuracy_of_uniform_predictions_is_that_of_chance() -> None:
    uniform = top_labels(np.full((4, 3), 1 / 3), PREDICTED_TIE)
    assert accuracy([0, 0, 0, 1], uniform, 3) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        ([0.4, 0.4, 0.2], [True, True, False]),
        ([1 / 3, 1 / 3, 1 - 2 / 3], [True, True, True]),
        ([0.1 + 0.2, 0.3, 0.4 - 1e-12], [False, False, True]),
        ([0.3333333, 0.3333333, 0.3333334], [True, True, True]),
        ([0.333333, 0.333333, 0.333334], [True, True, True]),
        ([0.333, 0.333, 0.334], [False, False, True]),
        ([0.49, 0.5, 0.01], [False, True, False]),
    ],
)
def test_top_labels_of_shares_as_files_write_them(p: list[float], expected: list[bool]) -> None:
    assert top_labels([p], HUMAN_TIE)[0].tolist() == expected


def test_near_ties_are_what_three_decimals_hide() -> None:
    p = [[0.333, 0.333, 0.334], [0.33, 0.33, 0.34], [0.4, 0.4, 0.2], [0.25, 0.375, 0.375]]
    assert near_ties(p).tolist() == [True, False, False, False]


def test_share_of_ties_by_hand() -> None:
    assert share_of_ties(top_labels([[0.5, 0.5], [1, 0], [0.4, 0.6], [0.5, 0.5]], HUMAN_TIE)) == 0.5
