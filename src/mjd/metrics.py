"""Distances between human and model judgment distributions, and classification scores.

Distributions are rows of [n_items, K] arrays in label order; P is the human, Q the model distribution; every logarithm
is natural. Definitions: arXiv 2412.13942, section 4 (metrics), and docs/method.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import rel_entr, xlogy

from mjd.caches import import_dcor
from mjd.distributions import Floats, Ints
from mjd.errors import DataError

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

    A label that is neither gold nor predicted scores 0, so macro-F1 is always a mean over `n_labels`.

    Args:
        gold: label positions [n_items].
        predicted: label positions [n_items].
        n_labels: K.
        average: how the F1 of the labels are averaged.
    """
    # Imported here: distances alone should not pay for scikit-learn.
    from sklearn.metrics import f1_score

    return float(f1_score(gold, predicted, labels=list(range(n_labels)), average=average, zero_division=0))


def majority(p: npt.ArrayLike) -> Ints:
    """Position of the most probable label per item, the first in label order on ties: [n_items, K] to [n_items]."""
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
