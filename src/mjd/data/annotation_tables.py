"""Tables with one row per annotation where one row per item is wanted: recognised, and the way out named.

`7,same text,yes` / `7,same text,no` is how annotation tools export. With a uid of its own every such row would be an
item with an HJD of one vote, and every distance would be wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mjd.data.checks import HJD_TOLERANCE, at_row
from mjd.data.overlap import text_keys
from mjd.errors import DataError
from mjd.labels import LabelSet

_DOCS = "see 'One row per annotation' in docs/extending.md"

# Columns of items that may differ between copies of an item without being an annotation.
_NO_VOTES = ("split", "round")


def check_rows_are_items(
    raw: pd.DataFrame, labels: LabelSet, text_fields: Sequence[str], label_sets: Sequence[str], where: str
) -> None:
    """Refuse a text table of items that has a row for each annotation.

    That is: a uid stands there again with the same texts and another label, annotator or vote; or, without HJDs, at
    least half of the texts' rows share their texts with another row, and a column of labels tells them apart.

    Raises:
        DataError: naming rows, what they differ in, and how to make one row per item.
    """
    if not {"uid", *text_fields} <= set(raw.columns):
        return  # another check names the missing column
    keys = text_keys(raw, text_fields)
    groups = [column for name in ("hjd", *label_sets) for column in labels.columns(name)]
    votes = _label_columns(raw, labels, {"uid", "split", "n_votes", *text_fields, *groups})
    shares = [column for column in groups if column in raw.columns and not raw[column].map(_is_vote).all()]
    shown = ", ".join(labels.columns("hjd"))
    cure = f"Give one row per item, with the shares of its annotators' labels in {shown}: {_DOCS}."
    _check_uids(raw, keys, [*text_fields, *_NO_VOTES, *shares], votes, where, cure)
    if votes and not any(column in raw.columns for column in labels.columns("hjd")):
        _check_labels_of_texts(raw, keys, votes[0], where, cure)


def check_rows_are_pairs(raw: pd.DataFrame, text_fields: Sequence[str], where: str) -> None:
    """Refuse a text table of pairs or OOD items in which a uid stands again with the same texts and another label.

    Raises:
        DataError: naming both rows, and what to do.
    """
    if {"uid", *text_fields} <= set(raw.columns) and raw["uid"].duplicated().any():
        keys = text_keys(raw, text_fields)
        cure = f"Give each pair one row and one label, for instance the one most annotators chose: {_DOCS}."
        _check_uids(raw, keys, [*text_fields, *_NO_VOTES], [], where, cure)


def _label_columns(raw: pd.DataFrame, labels: LabelSet, known: set[str]) -> list[str]:
    """Columns beside `known` that hold nothing but labels."""
    names = {text.casefold() for text in (*labels.keys, *labels.names)}
    cells = {column: set(raw[column].str.casefold()) - {""} for column in raw.columns if column not in known}
    return [column for column, values in cells.items() if values and values <= names]


def _is_vote(cell: str) -> bool:
    return cell in ("", "0", "1", "0.0", "1.0")


def _check_uids(
    raw: pd.DataFrame, keys: pd.Series[str], aside: Sequence[str], votes: Sequence[str], where: str, cure: str
) -> None:
    """Refuse rows of one uid and the same texts: as annotations if another column tells them apart, else as copies."""
    rows = pd.DataFrame({"uid": raw["uid"], "texts": keys})[raw["uid"] != ""]
    again = rows.duplicated()
    if not again.any():
        return
    same = rows.index[rows.duplicated(keep=False)]
    columns = [column for column in raw.columns if column not in {"uid", *aside}]
    of_uid = [rows.loc[same, "uid"], rows.loc[same, "texts"]]
    counts = {column: raw.loc[same, column].groupby(of_uid, sort=False).nunique() for column in columns}
    differing = [column for column in columns if (counts[column] > 1).any()]
    if differing or votes:
        column = next(iter([*votes, *(name for name in differing if name == "label"), *differing]))
        several = counts[column].index[counts[column] > 1]
        uid = several[0][0] if len(several) else rows["uid"][again].iloc[0]
        first, second = np.flatnonzero((raw["uid"] == uid).to_numpy(bool))[:2]
        cells = ", ".join(dict.fromkeys(raw.loc[raw["uid"] == uid, column]))
        differ = "they differ in column" if len(several) else "there is a label in column"
        raise DataError(
            f"{where}, {at_row(where, int(second))}, column 'uid': {uid!r} was used already, in row {first + 1}, with "
            f"the same texts; {differ} {column!r} ({cells}). The table seems to have one row per annotation: "
            f"{len(raw)} rows, {raw['uid'].nunique()} uids.",
            cure,
        )
    second = int(np.flatnonzero(raw.index.isin(again.index[again]))[0])
    first = int(np.argmax((raw["uid"] == raw["uid"].iloc[second]).to_numpy(bool)))
    copy = ", of which this row is a copy" if raw.iloc[first].equals(raw.iloc[second]) else ", with the same texts"
    raise DataError(
        f"{where}, {at_row(where, second)}, column 'uid': {raw['uid'].iloc[second]!r} was used already, in row "
        f"{first + 1}{copy} ({int(again.sum())} such rows).",
        "Keep one row per uid.",
    )


def _check_labels_of_texts(raw: pd.DataFrame, keys: pd.Series[str], column: str, where: str, cure: str) -> None:
    """Refuse annotations under uids of their own: most texts occur again, with other labels."""
    shared = keys.duplicated(keep=False)
    if 2 * shared.sum() < len(raw):
        return
    several = raw[column].groupby(keys, sort=False).nunique() > 1
    if several.any():
        first, second, *_ = np.flatnonzero((keys == several.index[int(np.argmax(several))]).to_numpy(bool))
        raise _one_vote_each(raw, int(first), int(second), f"column {column!r}", keys, where, cure)


def check_votes_are_merged(
    items: pd.DataFrame, labels: LabelSet, text_fields: Sequence[str], label_sets: Sequence[str], where: str
) -> None:
    """Refuse items (typed) with the same texts and different single votes: HJDs of one label, or counts of 1 in all.

    HJDs of one label that `n_votes` says several annotators chose are no single votes.

    Raises:
        DataError: naming both rows, and how to merge them.
    """
    keys = text_keys(items, text_fields)
    if not keys.duplicated().any():
        return
    for name in ("hjd", *label_sets):
        columns = labels.columns(name)
        values = np.nan_to_num(items[columns].to_numpy(float, na_value=np.nan))
        single = (np.abs(values.sum(axis=1) - 1) <= HJD_TOLERANCE) & (values.max(axis=1) >= 1 - HJD_TOLERANCE)
        if name == "hjd":
            single &= ~(items["n_votes"] > 1).to_numpy(bool)
        chosen = values.argmax(axis=1)
        several = pd.Series(chosen, index=items.index)[single].groupby(keys[single], sort=False).nunique() > 1
        if several.any():
            texts = several.index[int(np.argmax(several))]
            rows = np.flatnonzero((keys == texts).to_numpy(bool) & single)
            first = int(rows[0])
            second = int(rows[chosen[rows] != chosen[first]][0])
            cure = f"Give one row per item, with the shares of its annotators' labels in {', '.join(columns)}: {_DOCS}."
            if name != "hjd":
                cure = f"Give one row per item, with the numbers of its annotators in {', '.join(columns)}: {_DOCS}."
            raise _one_vote_each(items, first, second, f"column {', '.join(columns)!r}", keys, where, cure)


def _one_vote_each(
    table: pd.DataFrame, first: int, second: int, column: str, keys: pd.Series[str], where: str, cure: str
) -> DataError:
    uids = table["uid"]
    return DataError(
        f"{where}, {at_row(where, second)}, {column}: item {uids.iloc[second]!r} has the texts of item "
        f"{uids.iloc[first]!r} (row {first + 1}) and another single vote. The table seems to have one row per "
        f"annotation: {len(table)} rows, {keys.nunique()} different texts.",
        cure,
    )
