"""Softmax temperatures fitted to human judgment distributions by cross-validation."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.stats import gmean

from mjd.config.scoring import FittedSoftmax, Transform
from mjd.distributions import Floats, Ints
from mjd.errors import DataError
from mjd.estimators.aggregation import fill_bounds, model_judgments, score_matrix, softmax
from mjd.evaluation.metrics import kl_divergence
from mjd.labels import LabelSet

log = logging.getLogger(__name__)

# Bounds of the search: far beyond what turns scores into one-hot or uniform distributions.
LOWEST, HIGHEST = 0.02, 500.0
# Temperatures tried first, evenly spaced in log: a factor of 1.29 apart.
GRID = np.geomspace(LOWEST, HIGHEST, 41)


@dataclass(frozen=True)
class CrossFitted:
    """MJDs (uid, p_*, n_prompts), and the temperature of each fold [folds]."""

    mjd: pd.DataFrame
    temperatures: list[float]


def judge(
    scores: pd.DataFrame, items: pd.DataFrame, how: Transform, labels: LabelSet, seed: int
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """MJDs (uid, p_*, n_prompts) by any transform, and what was applied, for provenance.

    A fitted temperature is given as `temperatures`, one a fold, and their geometric mean as `temperature`;
    `bounded_prompts` is the number of prompts in which a label's upper bound stood in for its score
    (`fill_bounds`).
    """
    scores, n_bounded = fill_bounds(scores, labels)
    applied = how.model_dump() | {"bounded_prompts": n_bounded}
    if not isinstance(how, FittedSoftmax):
        return model_judgments(scores, how, labels), applied
    fitted = cross_fitted_judgments(scores, items, how, labels, seed)
    found = {"temperature": float(gmean(fitted.temperatures)), "temperatures": fitted.temperatures}
    return fitted.mjd, applied | found


def fit_temperature(scores: Floats, item_of: Ints, human: Floats) -> float:
    """The temperature at which the mean KL from the HJDs to the MJDs is smallest, between `LOWEST` and `HIGHEST`.

    `HIGHEST` means that uniform distributions are nearer to the HJDs, `LOWEST` that only the best label of each prompt
    counts, not by how much. The mean over prompts can have several minima: the best of `GRID` is refined.

    Args:
        scores: [n_prompts, K], prompts of one item next to each other.
        item_of: item of each prompt [n_prompts], 0, 1, 2, ... without gaps, ascending.
        human: HJDs [n_items, K].
    """

    def loss(log_temperature: float) -> float:
        return float(kl_divergence(human, _judgments(scores, item_of, float(np.exp(log_temperature)))).mean())

    grid = np.log(GRID)
    best = int(np.argmin([loss(x) for x in grid]))
    around = (grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
    found = minimize_scalar(loss, bounds=around, method="bounded", options={"xatol": 1e-4})
    # The search comes close to an end but never gets there.
    return float(GRID[best] if loss(grid[best]) <= found.fun else np.exp(found.x))


def cross_fitted_judgments(
    scores: pd.DataFrame, items: pd.DataFrame, how: FittedSoftmax, labels: LabelSet, seed: int
) -> CrossFitted:
    """MJDs whose temperature was fitted on the items of the other folds.

    Items are dealt into folds at random (`seed`); fewer items than folds make a fold each. An item without an HJD
    takes part in no fit.

    Args:
        scores: schema `scores`.
        items: uid and `hjd_*`.

    Raises:
        DataError: fewer than two items have an HJD, or a score is not finite.
    """
    uids, item_of, values = score_matrix(scores, labels)
    human = items.set_index("uid")[labels.columns("hjd")].reindex(uids).to_numpy(np.float64)
    known = ~np.isnan(human).any(axis=1)
    folds = min(how.folds, int(known.sum()))
    if folds < 2:
        raise DataError(
            f"A temperature is fitted on the HJDs of other items, but only {known.sum()} item(s) have one.",
            "Remove the estimator with the softmax-cv transform, or give more items with an HJD.",
        )
    random = np.random.default_rng(seed)
    fold = random.integers(folds, size=len(uids))
    fold[known] = random.permutation(int(known.sum())) % folds
    p = np.empty((len(uids), len(labels)))
    temperatures = []
    for number in range(folds):
        fitted_on = known & (fold != number)
        rows = fitted_on[item_of]
        position = np.cumsum(fitted_on) - 1
        temperature = fit_temperature(values[rows], position[item_of[rows]], human[fitted_on])
        p[fold == number] = _judgments(values, item_of, temperature)[fold == number]
        temperatures.append(temperature)
    for end, meaning in (
        (HIGHEST, "highest tried (%g): uniform distributions would be nearer to the HJDs."),
        (LOWEST, "lowest tried (%g): only the best label of each prompt counts, not by how much."),
    ):
        if end in temperatures:
            log.warning("%d of %d fitted temperatures are the " + meaning, temperatures.count(end), folds, end)
    mjd = pd.DataFrame(p, columns=labels.columns("p")).assign(n_prompts=np.bincount(item_of))
    mjd.insert(0, "uid", uids)
    return CrossFitted(mjd, temperatures)


def _judgments(scores: Floats, item_of: Ints, temperature: float) -> Floats:
    """MJDs [n_items, K]: the mean over an item's prompts of softmax(score / temperature)."""
    starts = np.flatnonzero(np.diff(item_of, prepend=-1))
    sums = np.add.reduceat(softmax(scores, temperature), starts, axis=0)
    return np.asarray(sums / np.diff(starts, append=len(scores))[:, None])
