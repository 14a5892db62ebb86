"""Distributions of items as frames `uid, p_*`: from votes, aligned with items, joined one to one."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mjd.errors import DataError
from mjd.labels import LabelSet

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


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
