"""Distances between human and model judgment distributions, and classification scores.

Distributions are rows of [n_items, K] arrays in label order; P is the human, Q the model distribution; every logarithm
is natural. Definitions: arXiv 2412.13942, section 4 (metrics), and docs/method.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import rel_entr, xlogy

from mjd.distributions import Floats, Ints
from mjd.errors import DataError
from mjd.runtime.caches import import_dcor

# Human shares tie within what a file of six decimals loses (0.333333 beside 0.333334; HJDs are checked to 1e-6): shares
# of n annotators differ by at least 1 / n. Predictions tie within the rounding of float64 arithmetic.
HUMAN_TIE = 2e-6
PREDICTED_TIE = 1e-9
ROUNDED_TO_3_DECIMALS = 1e-3 + 1e-9

Bools = npt.NDArray[np.bool_]

# Smallest probability in KL and cross-entropy: keeps both finite where a distribution has a zero.
CLIP = 1e-10


def kl_divergence(p: npt.ArrayLike, q: npt.ArrayLike) -> Floats:
    """KL(P‖Q) per item in nats, both clipped to [1e-10, 1] and renormalised.

    Args:
        p: human distributions [n_items, K].
        q: model distributions [n_items, K].

    Returns:
        [n_items], 0 (equal) to about 23 (= -ln 1e-10).

    Raises:
        DataError: shapes differ, or a value is negative or not finite.
    """
    p, q = _pair(p, q)
    return np.asarray(rel_entr(clipped(p), clipped(q)).sum(axis=1))


def cross_entropy(p: npt.ArrayLike, q: npt.ArrayLike) -> Floats:
    """Soft cross-entropy -Σ P ln Q per item in nats, Q clipped to [1e-10, 1] and renormalised.

    Equals the entropy of P plus KL(P‖Q), up to clipping. Shapes and errors as in `kl_divergence`.
    """
    p, q = _pair(p, q)
    return np.asarray(-(p * np.log(clipped(q))).sum(axis=1))


def entropy(p: npt.ArrayLike) -> Floats:
    """Entropy -Σ P ln P per item in nats (0 ln 0 = 0): [n_items, K] to [n_items], 0 to ln K."""
    p = _checked(p, "p")
    return np.asarray(-xlogy(p, p).sum(axis=1))


def js_divergence(p: npt.ArrayLike, q: npt.ArrayLike) -> Floats:
    """Jensen-Shannon divergence (KL(P‖M) + KL(Q‖M)) / 2, M = (P + Q) / 2, per item in nats: 0 to ln 2.

    Not clipped: M is positive wherever P or Q is. Shapes and errors as in `kl_divergence`.
    """
    p, q = _pair(p, q)
    m = (p + q) / 2
    # Rounding can leave a tiny negative sum for equal distributions.
    return np.asarray(np.maximum((rel_entr(p, m) + rel_entr(q, m)).sum(axis=1) / 2, 0.0))


def js_distance(p: npt.ArrayLike, q: npt.ArrayLike) -> Floats:
    """Square root of `js_divergence` per item (a metric; the paper's "JSD"): 0 to sqrt(ln 2) = 0.8326."""
    return np.sqrt(js_divergence(p, q))


def total_variation_distance(p: npt.ArrayLike, q: npt.ArrayLike) -> Floats:
    """½ Σ |P - Q| per item: [n_items], 0 to 1. Shapes and errors as in `kl_divergence`."""
    p, q = _pair(p, q)
    return np.asarray(np.abs(p - q).sum(axis=1) / 2)


def distance_correlation(p: npt.ArrayLike, q: npt.ArrayLike) -> float:
    """Distance correlation of the two [n_items, K] matrices (Székely et al. 2007), 0 to 1 (V-statistic, not squared).

    Independent data do not give 0 but a value that falls with n, about 0.1 for 341 items
    (`stats.permuted_distance_correlations`).
    A property of the data set, not a mean over items. NaN for fewer than 2 items; 0 when one side does not vary.
    Shapes and errors as in `kl_divergence`.
    """
    # Imported here: dcor brings numba, seconds that jobs which only need KL should not pay.
    dcor = import_dcor()
    p, q = _pair(p, q)
    return float(dcor.distance_correlation(p, q)) if len(p) > 1 else float("nan")


def f1(gold: npt.ArrayLike, predicted: npt.ArrayLike, n_labels: int, average: Literal["macro", "weighted"]) -> float:
    """F1 over all K labels (scikit-learn): `macro` weighs labels equally, `weighted` by their number in `gold`.

    Each side is label positions [n_items], or sets of labels, bool [n_items, K] (`top_labels`), where labels tie:

    - *gold sets*: any label of the set is right. A prediction outside it counts as missing each of them in equal parts.
    - *predicted sets*: each label of the set is predicted in equal parts, the expected value of drawing one of them.

    A label that is neither gold nor predicted has no F1. It scores 0, so that macro-F1 is a mean over K labels; but it
    is left out where gold sets hold it beside the labels that were predicted, or where no prediction is wrong. So a
    classifier that is always right about gold sets has exactly 1, and no number depends on the order of the labels.

    Args:
        gold: the right labels.
        predicted: the predicted labels.
        n_labels: K.
        average: how the F1 of the labels are averaged.
    """
    # Imported here: distances alone should not pay for scikit-learn.
    from sklearn.metrics import f1_score

    counts, labels = confusion(gold, predicted, n_labels), np.arange(n_labels)
    by_label = f1_score(
        np.repeat(labels, n_labels),
        np.tile(labels, n_labels),
        labels=labels,
        average=None,
        sample_weight=counts.ravel(),
        zero_division=np.nan,
    )
    counted = ~np.isnan(by_label)
    if average == "weighted":
        return float(np.average(by_label[counted], weights=counts.sum(axis=1)[counted]))
    if np.ndim(gold) == 2:
        sets = np.asarray(gold, dtype=bool)
        tied = sets[sets.sum(axis=1) > 1].any(axis=0)
        all_right = not counts[labels[:, None] != labels].any()
        counted |= ~(tied | all_right)
    else:
        counted[:] = True
    return float(np.nan_to_num(by_label)[counted].mean())


def accuracy(gold: npt.ArrayLike, predicted: npt.ArrayLike, n_labels: int) -> float:
    """Share of items whose predicted label is right; arguments, and what ties count, as in `f1`."""
    right, chosen = _as_sets(gold, n_labels), _as_sets(predicted, n_labels)
    return float(((right & chosen).sum(axis=1) / chosen.sum(axis=1)).mean())


def confusion(gold: npt.ArrayLike, predicted: npt.ArrayLike, n_labels: int) -> Floats:
    """Number of items by gold label (rows) and predicted label (columns): [K, K]; arguments and ties as in `f1`."""
    right, chosen = _as_sets(gold, n_labels), _as_sets(predicted, n_labels)
    parts = chosen / chosen.sum(axis=1, keepdims=True)
    hits, misses = parts * right, parts * ~right
    return np.asarray(np.diag(hits.sum(axis=0)) + (right / right.sum(axis=1, keepdims=True)).T @ misses)


def _as_sets(labels: npt.ArrayLike, n_labels: int) -> Bools:
    values = np.asarray(labels)
    return values.astype(bool) if values.ndim == 2 else values[:, None] == np.arange(n_labels)


def top_labels(p: npt.ArrayLike, tolerance: float) -> Bools:
    """The labels that tie for the highest probability of each item, at least one: [n_items, K] to bool [n_items, K].

    Args:
        p: distributions [n_items, K].
        tolerance: how far below the highest a probability may be and still tie: `HUMAN_TIE` or `PREDICTED_TIE`.
    """
    values = np.asarray(p, dtype=np.float64)
    return np.asarray(values >= values.max(axis=1, keepdims=True) - tolerance)


def share_of_ties(sets: Bools) -> float:
    """Share of items with more than one label in their set (`top_labels`)."""
    return float((sets.sum(axis=1) > 1).mean())


def near_ties(p: npt.ArrayLike) -> Bools:
    """Items whose two highest shares differ by no more than rounding to three decimals does, but do not tie.

    0.333, 0.333, 0.334 may be a tie that was rounded to sum to 1, or 334 of 1000 annotators: the file cannot tell, and
    it is read as a majority of the third label. [n_items, K] to bool [n_items].
    """
    values = np.asarray(p, dtype=np.float64)
    rounded = top_labels(values, ROUNDED_TO_3_DECIMALS).sum(axis=1) > top_labels(values, HUMAN_TIE).sum(axis=1)
    return np.asarray(rounded)


def majority(p: npt.ArrayLike) -> Ints:
    """Position of the most probable label per item, the first in label order on ties: [n_items, K] to [n_items].

    What the paper's reference implementation takes as gold; `top_labels` does not depend on the label order.
    """
    return np.asarray(np.asarray(p).argmax(axis=1), dtype=np.int64)


def clipped(p: npt.ArrayLike) -> Floats:
    """Distributions clipped to [1e-10, 1], then renormalised: [n_items, K]."""
    bounded = np.clip(np.asarray(p, dtype=np.float64), CLIP, 1.0)
    return np.asarray(bounded / bounded.sum(axis=1, keepdims=True))


def _checked(p: npt.ArrayLike, name: str) -> Floats:
    values = np.asarray(p, dtype=np.float64)
    if values.ndim != 2:
        raise DataError(f"Distributions {name} have shape {values.shape}, not [n_items, K].", "Give one row an item.")
    bad = ~(np.isfinite(values) & (values >= 0))
    if bad.any():
        row, column = (int(index) for index in np.argwhere(bad)[0])
        raise DataError(
            f"Distributions {name}: row {row + 1}, column {column + 1} is {values[row, column]}, not a probability.",
            "Give finite values of at least 0.",
        )
    return values


def _pair(p: npt.ArrayLike, q: npt.ArrayLike) -> tuple[Floats, Floats]:
    first, second = _checked(p, "p"), _checked(q, "q")
    if first.shape != second.shape:
        raise DataError(
            f"Distributions p and q have shapes {first.shape} and {second.shape}.",
            "Join them on uid and use the same labels.",
        )
    return first, second
