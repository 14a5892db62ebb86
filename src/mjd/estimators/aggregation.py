"""From scores to model judgment distributions: bounds of letters that an API did not list, transforms, means."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd

from mjd.config.scoring import Norm, Softmax
from mjd.distributions import Floats, Ints
from mjd.errors import DataError
from mjd.labels import LabelSet

log = logging.getLogger(__name__)


def softmax(scores: Floats, temperature: float) -> Floats:
    """softmax(scores / temperature) over the last axis, stable for scores of any size."""
    scaled = np.asarray(scores, dtype=np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def transform(scores: Floats, how: Softmax | Norm) -> Floats:
    """Turn scores [n, K] into distributions [n, K].

    Raises:
        DataError: `norm` on a negative score or on scores that are all zero, which has no meaning as a distribution.
    """
    if isinstance(how, Softmax):
        return softmax(scores, how.temperature)
    scores = np.asarray(scores, dtype=np.float64)
    bad = (scores < 0).any(axis=-1) | (scores.sum(axis=-1) == 0)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise DataError(
            f"The norm transform needs scores that are not negative and not all 0; {int(bad.sum())} of {len(scores)} "
            f"prompts have others, the first in row {row + 1}: {np.round(scores[row], 4).tolist()}.",
            "Use a softmax transform for this scorer.",
        )
    return np.asarray(scores / scores.sum(axis=-1, keepdims=True))


def fill_bounds(scores: pd.DataFrame, labels: LabelSet) -> tuple[pd.DataFrame, int]:
    """Scores with each null one set to its upper bound, and the number of prompts that had any.

    A null score belongs to a letter that an API did not list among the most likely tokens (`mjd.schemas.scores`). The
    bound is the largest value it can have: its label gets at most that much too much probability, never none.
    """
    columns = labels.columns("score")
    if "score_bound" not in scores:
        return scores, 0
    bounded = scores[columns].isna().any(axis=1) & scores["score_bound"].notna()
    filled = scores[columns].apply(lambda column: column.fillna(scores["score_bound"]))
    return scores.assign(**filled), int(bounded.sum())


def fully_crossed(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores (schema `scores`) of the items all of whose prompts have one; a warning counts the others.

    An item's prompts are all its explanation orders with all option orders. A dropped prompt (`unanswered: drop`)
    leaves a gap; an explanation order that is missing whole cannot be told from one that was not asked for, and shows
    in the number of orders.
    """
    n_options = scores["option_order"].nunique()
    sizes = scores.groupby(["uid", "explanation_order"], sort=False).size()
    gaps = set(sizes[sizes != n_options].index.get_level_values("uid"))
    if not gaps:
        return scores
    log.warning(
        "%d of %d items lack scores of dropped prompts and are left out here", len(gaps), scores["uid"].nunique()
    )
    return scores[~scores["uid"].isin(gaps)].reset_index(drop=True)


def score_matrix(scores: pd.DataFrame, labels: LabelSet) -> tuple[list[str], Ints, Floats]:
    """Items, item of each prompt and scores of a scores table, its rows sorted by item.

    Returns:
        uids [n_items] in order of first appearance; item of each prompt [n_prompts], ascending; scores [n_prompts, K].

    Raises:
        DataError: a score is not finite.
    """
    values = scores[labels.columns("score")].to_numpy(np.float64)
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
        raise DataError(
            f"Score row {row + 1} (item {scores['uid'].iloc[row]}) is not a finite number.",
            "Delete the scores file and run its rule again.",
        )
    item_of, uids = pd.factorize(scores["uid"])
    order = np.argsort(item_of, kind="stable")
    return [str(uid) for uid in uids], np.asarray(item_of[order], np.int64), values[order]


def model_judgments(scores: pd.DataFrame, how: Softmax | Norm, labels: LabelSet) -> pd.DataFrame:
    """Average each item's prompts into its MJD: uid, p_*, n_prompts, items in order of first appearance.

    Each prompt's scores become a distribution first; the distributions are then averaged.

    Raises:
        DataError: a score is not finite, or the transform refuses it.
    """
    uids, item_of, values = score_matrix(scores, labels)
    columns = labels.columns("p")
    p = pd.DataFrame(transform(values, how), columns=columns).groupby(item_of)
    mjd = p[columns].mean().assign(n_prompts=p.size())
    mjd.insert(0, "uid", uids)
    return mjd.reset_index(drop=True)
