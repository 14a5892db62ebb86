"""Texts that stand in a table twice, or in tables that should share none: warnings, and a record for the provenance.

Texts are the same if they differ in white space, case or Unicode normal form only: a model tells such items apart by
accident. Nothing is removed: whether two items are one is for the owner of the data to say.
"""

from __future__ import annotations

import itertools
import logging
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mjd.data.checks import HJD_TOLERANCE, SPLITS
from mjd.labels import LabelSet

# How many examples messages and provenance show.
N_EXAMPLES = 3

_log = logging.getLogger(__name__)


def text_keys(table: pd.DataFrame, text_fields: Sequence[str]) -> pd.Series[str]:
    """What rows of the same texts share: the text fields, white space, case and Unicode normal form aside."""
    columns = [[_folded(str(text)) for text in table[field]] for field in text_fields]
    return pd.Series(["\x1f".join(texts) for texts in zip(*columns, strict=True)], index=table.index, dtype=object)


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", " ".join(text.split()).casefold())


def items_report(
    items: pd.DataFrame, labels: LabelSet, text_fields: Sequence[str], label_sets: Sequence[str], where: str
) -> dict[str, Any]:
    """Warn of items (schema `items`) with the same texts, and of splits whose HJDs are single votes.

    Returns:
        For the provenance, each part only where it applies: `repeated_texts` (n_texts, n_items,
        n_with_different_distributions, examples as lists of uids), `texts_in_two_splits` (by `train, test` and so on:
        n_texts, examples as pairs of uids) and `single_vote_hjds` (split -> number of items).
    """
    found: dict[str, Any] = {}
    keys = text_keys(items, text_fields)
    if (repeated := keys.duplicated(keep=False)).any():
        found["repeated_texts"] = _repeated(items[repeated], keys[repeated], labels, label_sets, where)
    if shared := _shared_by_splits(items, keys, where):
        found["texts_in_two_splits"] = shared
    if single := _single_votes(items, labels, where):
        found["single_vote_hjds"] = single
    return found


def _repeated(
    items: pd.DataFrame, keys: pd.Series[str], labels: LabelSet, label_sets: Sequence[str], where: str
) -> dict[str, Any]:
    columns = [column for name in ("hjd", *label_sets) for column in labels.columns(name)]
    values = items[columns].astype(float)
    spread = (values.groupby(keys).max() - values.groupby(keys).min()).max(axis=1)
    groups = items["uid"].groupby(keys, sort=False).agg(list)
    differing = groups[spread.reindex(groups.index) > HJD_TOLERANCE]
    examples = [uids[:N_EXAMPLES] for uids in (differing if len(differing) else groups)[:N_EXAMPLES]]
    _log.warning(
        "%s: %d items share their texts with another one (%d texts), %d texts with different distributions, e.g. items "
        "%s. Equal prompts get equal MJDs: merge such items, unless they are meant.",
        where, len(items), len(groups), len(differing), _listed(examples),
    )  # fmt: skip
    return {
        "n_texts": len(groups),
        "n_items": len(items),
        "n_with_different_distributions": len(differing),
        "examples": examples,
    }


def _shared_by_splits(items: pd.DataFrame, keys: pd.Series[str], where: str) -> dict[str, Any]:
    found = {}
    first = {split: _first_uids(items[items["split"] == split], keys) for split in SPLITS}
    for one, other in itertools.combinations(SPLITS, 2):
        shared = [key for key in first[one] if key in first[other]]
        if shared:
            examples = [[first[one][key], first[other][key]] for key in shared[:N_EXAMPLES]]
            found[f"{one}, {other}"] = {"n_texts": len(shared), "examples": examples}
            _log.warning(
                "%s: %d texts stand in split %s and in split %s, e.g. items %s. Scores on %s are too good then: remove "
                "such items from one of the two.",
                where, len(shared), one, other, _listed(examples), other,
            )  # fmt: skip
    return found


def _first_uids(table: pd.DataFrame, keys: pd.Series[str]) -> dict[str, str]:
    """Text key -> the first uid that has it."""
    return dict(zip(reversed(keys[table.index].tolist()), reversed(table["uid"].tolist()), strict=True))


def _single_votes(items: pd.DataFrame, labels: LabelSet, where: str) -> dict[str, int]:
    """Splits of two items or more whose every HJD gives one label everything."""
    found = {}
    shares = items[labels.columns("hjd")].to_numpy(float, na_value=np.nan)
    for split in SPLITS:
        known = shares[(items["split"] == split).to_numpy(bool) & ~np.isnan(shares).any(axis=1)]
        if len(known) > 1 and (known.max(axis=1) > 1 - HJD_TOLERANCE).all():
            found[split] = len(known)
            _log.warning(
                "%s: every HJD of split %s (%d items) gives one label everything, as a single vote does. Distances to "
                "such HJDs measure the choice of a label, not a distribution; KL grows without bound.",
                where, split, len(known),
            )  # fmt: skip
    return found


def items_overlap(
    table: pd.DataFrame, items: pd.DataFrame | None, text_fields: Sequence[str], where: str, what: str
) -> dict[str, Any]:
    """Warn of pairs or OOD items that have the texts of items.

    Args:
        table: uid and text fields.
        items: schema `items`; None compares nothing.
        where: names the table.
        what: what its rows are: pairs, or OOD items.

    Returns:
        For the provenance, `texts_of_items`: split -> n_rows, examples as [uid, uid of the item]; empty without any.
    """
    if items is None:
        return {}
    found = {}
    keys, item_keys = text_keys(table, text_fields), text_keys(items, text_fields)
    for split in SPLITS:
        first = _first_uids(items[items["split"] == split], item_keys)
        shared = [row for row, key in enumerate(keys) if key in first]
        if shared:
            uids = table["uid"].iloc[shared[:N_EXAMPLES]]
            examples = [[uid, first[key]] for uid, key in zip(uids, keys.iloc[shared[:N_EXAMPLES]], strict=True)]
            found[split] = {"n_rows": len(shared), "examples": examples}
            _log.warning(
                "%s: %d of %d %s have the texts of %s items, e.g. %s. Classifiers are trained on texts that they are "
                "scored on then: remove them from one of the two.",
                where, len(shared), len(table), what, split, _listed(examples),
            )  # fmt: skip
    return {"texts_of_items": found} if found else {}


def report_entry(found: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword argument of `mjd.job.provenance`; nothing for tables without findings."""
    return {"data_warnings": dict(found)} if found else {}


def _listed(examples: Sequence[Sequence[str]]) -> str:
    return "; ".join(", ".join(map(repr, uids)) for uids in examples)
