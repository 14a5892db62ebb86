"""From scores to model judgment distributions, and from votes to label distributions."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mjd.config.schema import Norm, Softmax
from mjd.errors import DataError
from mjd.labels import LabelSet

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


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


def from_counts(items: pd.DataFrame, prefix: str, labels: LabelSet) -> pd.DataFrame:
    """Distributions (uid, p_*) from vote counts or shares `prefix_*`; items without them are left out."""
    given = items.dropna(subset=labels.columns(prefix))
    votes = given[labels.columns(prefix)].to_numpy(np.float64)
    return distribution_frame(given["uid"], votes / votes.sum(axis=1, keepdims=True), labels)


def uniform(items: pd.DataFrame, labels: LabelSet) -> pd.DataFrame:
    """The uniform distribution for every item (uid, p_*)."""
    return distribution_frame(items["uid"], np.full((len(items), len(labels)), 1 / len(labels)), labels)


def distribution_frame(uid: pd.Series, p: Floats, labels: LabelSet) -> pd.DataFrame:
    """A frame uid, p_* from probabilities [n, K] in label order."""
    return pd.DataFrame(p, columns=labels.columns("p")).assign(uid=uid.to_numpy())[["uid", *labels.columns("p")]]


def items_of_all(items: pd.DataFrame, distributions: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The items that all of several distributions have; a warning names the others.

    Args:
        items: with column uid.
        distributions: name (for the warning) -> frame with column uid.

    Raises:
        DataError: no item is in all of them.
    """
    lacking = {name: set(items["uid"]) - set(frame["uid"]) for name, frame in distributions.items()}
    left_out = set().union(*lacking.values())
    if not left_out:
        return items
    if len(left_out) == len(items):
        most = max(lacking, key=lambda name: len(lacking[name]))
        raise DataError(
            f"No item has an MJD in every system; {most} lacks {len(lacking[most])} of {len(items)}.",
            "Ask for the missing ones (unanswered: stop lists them), or take the system out of the configuration.",
        )
    by_system = "; ".join(f"{name} lacks {len(uids)}" for name, uids in lacking.items() if uids)
    shown = ", ".join(sorted(map(str, left_out))[:10]) + (", ..." if len(left_out) > 10 else "")
    log.warning(
        "%d of %d items have no MJD in some system and are left out for all (%s): %s",
        len(left_out),
        len(items),
        by_system,
        shown,
    )
    return items[~items["uid"].isin(left_out)].reset_index(drop=True)


def aligned(uids: pd.Series, distribution: pd.DataFrame, labels: LabelSet, where: str) -> Floats:
    """Probabilities [n, K] of `distribution` in the order of `uids`, joined one to one.

    Raises:
        DataError: an item lacks a distribution or has two, or a row is not a distribution.
    """
    columns = labels.columns("p")
    if distribution["uid"].duplicated().any():
        uid = distribution.loc[distribution["uid"].duplicated(), "uid"].iloc[0]
        raise DataError(f"{where}: item {uid} appears twice.", "Keep one row an item.")
    p = distribution.set_index("uid")[columns].reindex(uids).to_numpy(np.float64)
    if np.isnan(p).any():
        uid = uids.iloc[int(np.flatnonzero(np.isnan(p).any(axis=1))[0])]
        raise DataError(
            f"{where}: item {uid} has no distribution.",
            "Run the rule that makes this file again (--forcerun); where it was made with unanswered: drop, set that.",
        )
    if (p < 0).any() or not np.allclose(p.sum(axis=1), 1, atol=1e-6):
        row = int(np.flatnonzero((p < 0).any(axis=1) | ~np.isclose(p.sum(axis=1), 1, atol=1e-6))[0])
        raise DataError(
            f"{where}: item {uids.iloc[row]} is not a distribution: {p[row].tolist()}.", "Probabilities must sum to 1."
        )
    return p
