"""Uncertainty: bootstrap over items, vectorised over resamples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def resample_counts(n_items: int, resamples: int, seed: int) -> Floats:
    """How often each item appears in each bootstrap resample: [resamples, n_items], rows sum to n_items."""
    random = np.random.default_rng(seed)
    return random.multinomial(n_items, np.full(n_items, 1 / n_items), size=resamples).astype(np.float64)


def interval(samples: Floats, confidence: float) -> tuple[float, float]:
    """Percentile interval of bootstrap samples [resamples]."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    return float(low), float(high)


def resampled_means(values: Floats, counts: Floats) -> Floats:
    """Mean of per-item values [n_items] in every resample: [resamples]."""
    return np.asarray(counts @ values / values.shape[0])


def _distances(points: Floats) -> Floats:
    """Euclidean distances [n, n] between the rows of points [n, K]."""
    squares = np.square(points[:, None, :] - points[None, :, :]).sum(axis=-1)
    return np.asarray(np.sqrt(squares))


def _covariances(a: Floats, b: Floats, counts: Floats) -> Floats:
    """Squared distance covariance of distance matrices a, b [n, n] in every resample: [resamples].

    With weights w = counts / n it equals  w'(a*b)w + (w'aw)(w'bw) - 2 sum_i w_i (aw)_i (bw)_i,  which needs matrix
    products only (Szekely, Rizzo and Bakirov 2007, V-statistic).
    """
    w = counts / counts.shape[1]
    aw, bw = w @ a, w @ b
    mean_a, mean_b = (w * aw).sum(axis=1), (w * bw).sum(axis=1)
    return np.asarray((w * (w @ (a * b))).sum(axis=1) + mean_a * mean_b - 2 * (w * aw * bw).sum(axis=1))


def resampled_distance_correlations(p: Floats, q: Floats, counts: Floats) -> Floats:
    """Distance correlation between p and q [n_items, K] in every resample: [resamples], NaN where one is constant."""
    a, b = _distances(p), _distances(q)
    covariance = np.clip(_covariances(a, b, counts), 0, None)
    product = np.clip(_covariances(a, a, counts), 0, None) * np.clip(_covariances(b, b, counts), 0, None)
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = np.sqrt(covariance / np.sqrt(product))
    return np.where(product > 1e-24, correlation, np.nan)
