"""Uncertainty: bootstrap over items, vectorised over resamples, paired comparisons, and intervals over seeds."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Squared distance covariances below this are zero up to rounding: one side is constant.
_CONSTANT = 1e-24
# Scores that differ by less are equal up to rounding.
_EQUAL = 1e-12
# Most numbers in a block of `permuted_distance_correlations`: 128 MiB.
_BLOCK = 2**25


def resample_counts(n_items: int, resamples: int, seed: int) -> Floats:
    """How often each item appears in each bootstrap resample: [resamples, n_items], rows sum to n_items."""
    random = np.random.default_rng(seed)
    return random.multinomial(n_items, np.full(n_items, 1 / n_items), size=resamples).astype(np.float64)


def interval(samples: npt.ArrayLike, confidence: float) -> tuple[Floats, Floats]:
    """Percentile interval of bootstrap samples [resamples, ...]: lower and upper ends [...].

    Resamples in which the statistic is undefined (NaN) are left out; NaN where it is undefined in all.
    """
    values = np.asarray(samples, np.float64)
    tail = (1 - confidence) / 2
    undefined = np.isnan(values)
    quantile = np.nanquantile if undefined.any() else np.quantile
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice")
        low, high = quantile(values, [tail, 1 - tail], axis=0)
    return np.asarray(low), np.asarray(high)


def resampled_means(values: Floats, counts: Floats) -> Floats:
    """Mean of per-item values [n_items, ...] in every resample: [resamples, ...]."""
    return np.asarray(counts @ values / values.shape[0])


def recentred(samples: Floats, estimate: Floats) -> Floats:
    """Bootstrap samples [resamples, n] of a statistic within [0, 1], freed of their bias.

    They are shifted so that their mean is the estimate [n] (bias-corrected by the bootstrap itself; Efron and
    Tibshirani 1993, chapter 10), and kept within [0, 1].
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice")
        bias = np.nanmean(samples, axis=0) - estimate
    return np.asarray(np.clip(samples - bias, 0.0, 1.0))


def two_sided_p(differences: npt.ArrayLike) -> Floats:
    """Bootstrap p-values of the hypothesis that a difference is 0: [resamples, ...] to [...].

    Twice the share of resamples on the rarer side of 0, with one added to count and total so that no p is 0 (Davison
    and Hinkley 1997, section 4.2); at most 1. Undefined differences (NaN) are left out; NaN where all are.
    """
    samples = np.asarray(differences, np.float64)
    below, above = (samples <= 0).sum(axis=0), (samples >= 0).sum(axis=0)
    known = (~np.isnan(samples)).sum(axis=0)
    p = np.minimum(1.0, 2 * (np.minimum(below, above) + 1) / (known + 1))
    return np.where(known > 0, p, np.nan)


def permutation_p(observed: Floats, permuted: Floats) -> Floats:
    """One-sided p of observed statistics [n] from their values [permutations, n] under the hypothesis; NaN stays.

    The share of permutations with at least the observed value, the observed one counted among them (Phipson and Smyth
    2010).
    """
    p = (1 + (permuted >= observed).sum(axis=0)) / (1 + len(permuted))
    return np.where(np.isnan(observed), np.nan, p)


def holm(p: npt.ArrayLike) -> Floats:
    """Holm-adjusted p-values of one family [n]: they control the family-wise error rate. NaN stays and is not counted.

    Holm, A simple sequentially rejective multiple test procedure, 1979.
    """
    values = np.asarray(p, np.float64)
    adjusted = np.full(values.shape, np.nan)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * factors))
    return adjusted


def t_half_width(sd: npt.ArrayLike, n: npt.ArrayLike, confidence: float) -> Floats:
    """Half the width of the Student-t interval of a mean of n independent values, e.g. over seeds; NaN for n < 2.

    Args:
        sd: sample standard deviations [...]; n: numbers of values [...].
    """
    from scipy.stats import t  # imported here: half a second that bootstrap-only jobs need not pay

    count = np.asarray(n, np.float64)
    with np.errstate(invalid="ignore"):
        half = t.ppf((1 + confidence) / 2, count - 1) * np.asarray(sd, np.float64) / np.sqrt(count)
    return np.where(count > 1, half, np.nan)


def paired_t_p(differences: npt.ArrayLike) -> float:
    """Two-sided p of a paired t-test on differences [n] of runs that share a seed; NaN for fewer than two.

    Differences that are all equal, up to rounding, have no spread to test with: p is 1 when they are 0, else NaN.
    """
    from scipy.stats import ttest_1samp

    samples = np.asarray(differences, np.float64)
    if len(samples) < 2:
        return float("nan")
    if np.ptp(samples) < _EQUAL:
        return 1.0 if abs(samples[0]) < _EQUAL else float("nan")
    return float(ttest_1samp(samples, 0.0).pvalue)


def resampled_distance_correlations(p: Floats, models: Floats, counts: Floats) -> Floats:
    """Distance correlation of p with each model in every resample, NaN where one side is constant.

    With weights w = counts / n the squared distance covariance of distance matrices a, b is
    w'(a*b)w + (w'aw)(w'bw) - 2 sum_i w_i (aw)_i (bw)_i,  which needs matrix products only (Székely, Rizzo and
    Bakirov 2007, V-statistic).

    Args:
        p: [n_items, K]; models: [n_models, n_items, K].
        counts: [resamples, n_items], from `resample_counts`.

    Returns:
        [resamples, n_models].
    """
    # Single precision: the ends of an interval of 10,000 resamples are not known to six digits anyway.
    w = (counts / counts.shape[1]).astype(np.float32)
    a = _distances(p)
    aw = w @ a
    variance_p = _covariance(_mean_squared_distance(w, p), w, aw, aw)
    correlations = np.empty((len(counts), len(models)))
    for index, q in enumerate(models):
        b = _distances(q)
        bw = w @ b
        covariance = _covariance((w * (w @ (a * b))).sum(axis=1), w, aw, bw)
        product = variance_p * _covariance(_mean_squared_distance(w, q), w, bw, bw)
        with np.errstate(invalid="ignore", divide="ignore"):
            correlations[:, index] = np.sqrt(covariance / np.sqrt(product))
        correlations[product <= _CONSTANT, index] = np.nan
    return correlations


def permuted_distance_correlations(p: Floats, models: Floats, permutations: int, seed: int) -> Floats:
    """Distance correlation of p with each model when the items of p are shuffled: its values under independence.

    They are far from 0 for a few hundred items: the statistic is a root of something that cannot be negative. NaN where
    one side is constant.

    Args:
        p: [n_items, K]; models: [n_models, n_items, K].
        permutations: shuffles, the same for all models; seed: of the shuffles.

    Returns:
        [permutations, n_models].
    """
    n = len(p)
    random = np.random.default_rng(seed)
    shuffles = np.stack([random.permutation(n) for _ in range(permutations)])
    a = _distances(p)
    block = max(_BLOCK // n**2, 1)
    found, variances = np.empty((permutations, len(models))), np.empty(len(models))
    for first in range(0, len(models), block):
        # Rows and columns of a centred matrix sum to 0, so one side need not be centred.
        b = np.stack([_centred(_distances(q)) for q in models[first : first + block]]).reshape(-1, n**2)
        variances[first : first + block] = np.square(b, dtype=np.float64).sum(axis=1)
        for start in range(0, permutations, block):
            shuffled = np.stack([a[np.ix_(order, order)] for order in shuffles[start : start + block]])
            found[start : start + block, first : first + block] = shuffled.reshape(-1, n**2) @ b.T
    product = np.square(_centred(a), dtype=np.float64).sum() * variances
    with np.errstate(invalid="ignore", divide="ignore"):
        correlations = np.sqrt(np.clip(found, 0, None) / np.sqrt(product))
    return np.where(product > _CONSTANT * n**4, correlations, np.nan)


def _centred(distances: NDArray[np.float32]) -> NDArray[np.float32]:
    """A distance matrix [n, n] without its row, column and grand means."""
    means = distances.mean(axis=0, dtype=np.float64)
    return np.asarray(distances - means[:, None] - means[None, :] + means.mean(), np.float32)


def _distances(points: Floats) -> NDArray[np.float32]:
    """Euclidean distances [n, n] between the rows of points [n, K]."""
    squares = np.square(points[:, None, :] - points[None, :, :]).sum(axis=-1)
    return np.asarray(np.sqrt(squares), np.float32)


def _mean_squared_distance(w: NDArray[np.float32], points: Floats) -> Floats:
    """Weighted mean of squared distances sum_ij w_i w_j |x_i - x_j|^2 in every resample [resamples]."""
    centred = points - points.mean(axis=0)
    return np.asarray(2 * (w @ np.square(centred).sum(axis=1) - np.square(w @ centred).sum(axis=1)))


def _covariance(
    mean_ab: npt.NDArray[np.floating], w: NDArray[np.float32], aw: NDArray[np.float32], bw: NDArray[np.float32]
) -> Floats:
    """Squared distance covariance in every resample [resamples], at least 0, from the mean of a*b and the row means."""
    mean_a, mean_b = np.einsum("rn,rn->r", w, aw), np.einsum("rn,rn->r", w, bw)
    covariance = mean_ab + mean_a.astype(np.float64) * mean_b - 2 * np.einsum("rn,rn,rn->r", w, aw, bw)
    return np.asarray(np.clip(covariance, 0, None))
