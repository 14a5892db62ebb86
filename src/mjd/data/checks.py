"""Checks of data tables: every error names the file, the row, the column and the cure. Vectorised.

Rows are counted from 1, the header not included; where that does not give the line, the line is named too. Tables are
normalised first (see `mjd.data.tables`): text trimmed, labels as keys where they are known, numbers as numbers.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mjd.errors import DataError
from mjd.labels import LabelSet, dash_note

SPLITS = ("train", "dev", "test")
HJD_TOLERANCE = 1e-6
# More people than there are: beyond it a count is another number, and whole numbers are not told apart some time.
MOST_ANNOTATORS = 10**10

# Shares may be rounded to two decimals: further from a share of the votes is none of theirs.
SHARE_ROUNDING = 0.01

Mask = npt.NDArray[np.bool_]

_log = logging.getLogger(__name__)

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?inf(inity)?", re.IGNORECASE | re.ASCII)


class TableName(str):
    """A file's name in messages, with the physical line of each row (from 1) if the file has lines."""

    lines: Sequence[int]

    def __new__(cls, path: str | Path, lines: Sequence[int] = ()) -> TableName:
        name = super().__new__(cls, path)
        name.lines = lines
        return name


def at_row(where: str, row: int) -> str:
    """`row 3` for the row at position 2, and its line where that is not the next number: `row 3 (line 6)`."""
    lines = where.lines if isinstance(where, TableName) else ()
    named = f"row {row + 1}"
    return f"{named} (line {lines[row]})" if row < len(lines) and lines[row] != row + 2 else named


def is_number(text: str) -> bool:
    """Whether a text is a decimal number or infinity: digits, a decimal point, an exponent, and nothing else."""
    return _NUMBER.fullmatch(text) is not None


def check_items(
    items: pd.DataFrame,
    labels: LabelSet,
    text_fields: Sequence[str],
    label_sets: Sequence[str],
    where: str,
    every_hjd: bool = True,
    fine_tuning: bool = False,
) -> None:
    """Check items (schema `mjd.schemas.items`).

    Every uid occurs once, texts are not empty, splits are train, dev or test, some items are train items, and some dev
    items where there is `fine_tuning`. HJDs are distributions and label counts whole numbers with at least one label;
    both are complete or absent in a row. Dev and test items need an HJD, train items label counts, and an HJD if
    `every_hjd`. The number of votes behind an HJD is a whole number from 1, or not known; one that cannot give its
    shares is warned of.

    Raises:
        DataError: the first thing that is wrong, naming `where`, row and column.
    """
    groups = [column for name in ("hjd", *label_sets) for column in labels.columns(name)]
    check_columns(items, ["uid", *text_fields, *groups, "n_votes", "split"], where)
    if items.empty:
        raise DataError(f"{where} has no rows.", "Give at least one item.")
    _check_uids(items, where)
    _check_texts(items, text_fields, where)
    _check_values(items, "split", SPLITS, where)
    if not (items["split"] == "train").any():
        raise DataError(
            f"{where}, column 'split': there are no train items.", "Mark the items that get an MJD with split train."
        )
    if fine_tuning and not (items["split"] == "dev").any():
        raise DataError(
            f"{where}, column 'split': there are no dev items, by which fine-tuning chooses its best step.",
            "Mark some items that have an HJD with split dev, or set encoders: {} to make MJDs only.",
        )
    _check_hjd(items, labels, where, every_hjd)
    _check_votes(items, labels, where)
    for name in label_sets:
        _check_counts(items, labels.columns(name), name, where)


def check_human_explanations(explanations: pd.DataFrame, items: pd.DataFrame, labels: LabelSet, where: str) -> None:
    """Check human explanations (schema `mjd.schemas.human_explanations`) of `items`.

    Every uid is an item's, texts are not empty, labels are known, and positions count 0, 1, 2, ... within an item.

    Raises:
        DataError: the first thing that is wrong, naming `where`, row and column.
    """
    check_columns(explanations, ["uid", "position", "label", "text"], where)
    _check_texts(explanations, ["uid", "text"], where)
    _check_labels(explanations, labels, where)
    fail_at(
        ~explanations["uid"].isin(items["uid"]).to_numpy(bool),
        where,
        "uid",
        lambda row: (
            f"{explanations['uid'].iloc[row]!r} is not the uid of an item"
            f"{near(explanations['uid'].iloc[row], items['uid'])}"
        ),
        "Correct the uid, or add the item to the items file.",
    )
    position = explanations["position"].to_numpy(float)
    number = "Number an item's explanations 0, 1, 2, ... in the order shown."
    left_out = f"{number} Without the column, the order of an item's rows counts."
    fail_at(np.isnan(position), where, "position", lambda row: "the cell is empty", left_out)
    fail_at(
        explanations.duplicated(["uid", "position"]).to_numpy(bool),
        where,
        "position",
        lambda row: f"item {explanations['uid'].iloc[row]!r} has position {position[row]:g} twice",
        number,
    )
    expected = pd.Series(position).groupby(explanations["uid"].to_numpy()).rank(method="first").to_numpy() - 1
    fail_at(
        np.asarray(position != expected),
        where,
        "position",
        lambda row: (
            f"item {explanations['uid'].iloc[row]!r} has position {position[row]:g}, expected {expected[row]:g}"
        ),
        number,
    )


def check_pairs(pairs: pd.DataFrame, labels: LabelSet, text_fields: Sequence[str], where: str) -> None:
    """Check labelled pairs (schema `mjd.schemas.pairs`): distinct uids, texts that are not empty, known labels.

    Raises:
        DataError: the first thing that is wrong, naming `where`, row and column.
    """
    check_columns(pairs, ["uid", *text_fields, "label"], where)
    if pairs.empty:
        raise DataError(f"{where} has no rows.", "Give at least one labelled pair.")
    _check_uids(pairs, where)
    _check_texts(pairs, text_fields, where)
    _check_labels(pairs, labels, where)


def check_ood(
    ood: pd.DataFrame, labels: LabelSet, text_fields: Sequence[str], rounds: Sequence[str], where: str
) -> None:
    """Check out-of-distribution items (schema `mjd.schemas.ood`): as pairs, and every round of `rounds` has items.

    Raises:
        DataError: the first thing that is wrong, naming `where`, row and column.
    """
    check_columns(ood, ["round"], where)
    check_pairs(ood, labels, text_fields, where)
    _check_values(ood, "round", rounds, where, "Correct the round, or add it to data.ood.rounds.")
    for name in rounds:
        if not (ood["round"] == name).any():
            raise DataError(
                f"{where}, column 'round': there are no items of round {name!r}.",
                "Add its items, or remove it from data.ood.rounds.",
            )


# -- parts ----------------------------------------------------------------------------------------------------------


def fail_at(wrong: Mask, where: str, column: str, problem: Callable[[int], str], cure: str) -> None:
    """Raise `DataError` for the first row where `wrong` is true, saying how many more there are."""
    rows = np.flatnonzero(wrong)
    if not rows.size:
        return
    more = f" (and {rows.size - 1} more such rows)" if rows.size > 1 else ""
    row = int(rows[0])
    raise DataError(f"{where}, {at_row(where, row)}, column {column!r}: {problem(row)}{more}.", cure)


def check_columns(table: pd.DataFrame, columns: Sequence[str], where: str) -> None:
    """Raise `DataError` when a column is missing."""
    lacking = [column for column in columns if column not in table.columns]
    if lacking:
        raise DataError(
            f"{where}: column {lacking[0]!r} is missing (has: {', '.join(map(str, table.columns))})"
            f"{near(lacking[0], table.columns)}.",
            f"Add the missing column(s): {', '.join(lacking)}.",
        )


def near(value: str, known: Iterable[str]) -> str:
    """A hint for messages if one of `known` looks like `value`: ` (but 'a1' is: they differ in ...)`; else nothing.

    They may differ in white space (also invisible), case, Unicode normal form, zeros in front, or a `.0` at the end.
    """
    for name in known:
        if name != value and _comparable(name) == _comparable(value):
            return f"; {name!a} is there, and {value!a} differs from it in {_difference(name, value)} only"
    return ""


def _visible(text: str) -> str:
    return "".join(char for char in text if not char.isspace() and unicodedata.category(char) != "Cf")


def _comparable(text: str) -> str:
    folded = unicodedata.normalize("NFKC", _visible(text)).casefold()
    return re.sub(r"^0+(?=\d)|(?<=\d)\.0*$", "", folded)


def _difference(one: str, other: str) -> str:
    def nfkc(text: str) -> str:
        return unicodedata.normalize("NFKC", text)

    if _visible(one) == _visible(other):
        return "white space or invisible characters"
    if nfkc(one) == nfkc(other):
        return "Unicode normal form"
    if nfkc(one).casefold() == nfkc(other).casefold():
        return "case"
    return "the spelling of the number" if nfkc(one)[-1:].isdigit() else "white space, case or Unicode form"


def _check_texts(table: pd.DataFrame, columns: Sequence[str], where: str) -> None:
    for column in columns:
        cells = table[column]
        empty = (cells.isna() | (cells.astype("string").str.strip() == "")).to_numpy(bool, na_value=True)
        fail_at(empty, where, column, lambda row: "the cell is empty", "Fill the cell in, or remove the row.")


def _check_uids(table: pd.DataFrame, where: str) -> None:
    _check_texts(table, ["uid"], where)
    uids = table["uid"].to_numpy(object)
    fail_at(
        table["uid"].duplicated().to_numpy(bool),
        where,
        "uid",
        lambda row: f"{uids[row]!r} was used already, in row {np.flatnonzero(uids == uids[row])[0] + 1}",
        "Give every row a uid of its own.",
    )


def _check_values(
    table: pd.DataFrame,
    column: str,
    known: Sequence[str],
    where: str,
    cure: str = "Use one of these values.",
    others: Sequence[str] = (),
) -> None:
    fail_at(
        ~table[column].isin(known).to_numpy(bool),
        where,
        column,
        lambda row: (
            f"{_shown(table[column].iloc[row])} is not one of {', '.join(known)}"
            f"{near(str(table[column].iloc[row]), [*known, *others])}"
        ),
        cure,
    )


def _check_labels(table: pd.DataFrame, labels: LabelSet, where: str) -> None:
    cure = "Use the keys or names of the configuration's task.labels."
    _check_values(table, "label", labels.keys, where, cure, labels.names)


def _shown(value: Any) -> str:
    return "the empty cell" if pd.isna(value) or value == "" else f"{value!r}{dash_note(str(value))}"


def _check_complete(values: npt.NDArray[np.float64], columns: Sequence[str], where: str) -> None:
    """In each row a group of columns is filled in whole or not at all."""
    empty = np.isnan(values)
    wrong: Mask = np.asarray(empty.any(axis=1) & ~empty.all(axis=1))
    if wrong.any():
        column = columns[int(np.argmax(empty[np.argmax(wrong)]))]
        present = ", ".join(columns)
        fail_at(
            wrong,
            where,
            column,
            lambda row: f"the cell is empty but others of {present} are not",
            "Fill in all or none.",
        )


def _check_hjd(items: pd.DataFrame, labels: LabelSet, where: str, every_hjd: bool) -> None:
    columns = labels.columns("hjd")
    values = items[columns].to_numpy(float, na_value=np.nan)
    _check_complete(values, columns, where)
    wanted = items["split"].isin(("dev", "test")).to_numpy(bool)
    fail_at(
        wanted & np.isnan(values[:, 0]),
        where,
        columns[0],
        lambda row: f"an item of split {items['split'].iloc[row]} has no HJD",
        f"Fill in {', '.join(columns)}: dev and test items are scored against them.",
    )
    if every_hjd:
        fail_at(
            (items["split"] == "train").to_numpy(bool) & np.isnan(values[:, 0]),
            where,
            columns[0],
            lambda row: "an item of split train has no HJD",
            f"Fill in {', '.join(columns)}, or set task.train_hjd: some, or none.",
        )
    known = np.nan_to_num(values, nan=1 / len(columns), posinf=np.inf, neginf=-np.inf)
    negative = known < 0
    if negative.any():
        column = columns[int(np.argmax(negative[np.argmax(negative.any(axis=1))]))]
        fail_at(
            negative.any(axis=1),
            where,
            column,
            lambda row: f"an HJD has a negative share ({_group(values[row], columns)})",
            "Give shares between 0 and 1.",
        )
    with np.errstate(invalid="ignore"):  # inf - inf
        off = ~(np.abs(known.sum(axis=1) - 1) <= HJD_TOLERANCE)
    fail_at(
        off,
        where,
        ", ".join(columns),
        lambda row: f"an HJD sums to {known[row].sum():.7g}, not 1 ({_group(values[row], columns)})",
        "Give the shares of annotators; from counts, divide each by their sum.",
    )


def _check_votes(items: pd.DataFrame, labels: LabelSet, where: str) -> None:
    """Numbers of votes stand beside HJDs only, and are whole numbers from 1."""
    votes = items["n_votes"].to_numpy(float, na_value=np.nan)
    columns = labels.columns("hjd")
    given = ~np.isnan(votes)
    fail_at(
        given & items[columns].isna().any(axis=1).to_numpy(bool),
        where,
        "n_votes",
        lambda row: f"an item without an HJD has {votes[row]:g} votes",
        f"Fill in {', '.join(columns)}, or leave the cell empty.",
    )
    fail_at(
        given & ~((votes >= 1) & (votes == np.floor(votes)) & (votes <= MOST_ANNOTATORS)),
        where,
        "n_votes",
        lambda row: f"{votes[row]:g} is not a number of votes",
        "Give the number of annotators behind the HJD, 1 or more; leave the cell empty where it is not known. "
        "A column that holds something else needs another name.",
    )
    _warn_of_other_votes(items[columns].to_numpy(float, na_value=np.nan), votes, columns, where)


def _warn_of_other_votes(
    shares: npt.NDArray[np.float64], votes: npt.NDArray[np.float64], columns: Sequence[str], where: str
) -> None:
    """Warn of shares that so many votes cannot give: the column may hold something else, or votes were split."""
    of_votes = np.round(shares * votes[:, None]) / votes[:, None]
    rows = np.flatnonzero(np.abs(shares - of_votes).max(axis=1) > SHARE_ROUNDING)
    if rows.size:
        row = int(rows[0])
        _log.warning(
            "%s, %s, column 'n_votes': %g votes cannot give this HJD (%s); %d such rows. If the column holds something "
            "else, give it another name.",
            where, at_row(where, row), votes[row], _group(shares[row], columns), rows.size,
        )  # fmt: skip


def _check_counts(items: pd.DataFrame, columns: Sequence[str], name: str, where: str) -> None:
    values = items[columns].to_numpy(float, na_value=np.nan)
    _check_complete(values, columns, where)
    fail_at(
        (items["split"] == "train").to_numpy(bool) & np.isnan(values[:, 0]),
        where,
        columns[0],
        lambda row: f"an item of split train has no {name} counts",
        f"Fill in {', '.join(columns)}, or take {name} out of task.label_counts ({name}: null).",
    )
    known = np.nan_to_num(values, nan=1.0, posinf=np.inf)
    for index, column in enumerate(columns):
        cells = known[:, index]
        fail_at(
            (cells < 0) | (cells != np.floor(cells)) | (cells > MOST_ANNOTATORS),
            where,
            column,
            lambda row, index=index: f"{values[row, index]:g} is not a number of annotators",  # type: ignore[misc]
            "Give whole numbers of annotators, 0 or more.",
        )
    fail_at(
        known.sum(axis=1) == 0,
        where,
        ", ".join(columns),
        lambda row: f"all {name} counts are 0",
        "Give the number of annotators per label.",
    )


def _group(values: npt.NDArray[np.float64], columns: Sequence[str]) -> str:
    return ", ".join(f"{column}={value:g}" for column, value in zip(columns, values, strict=True))
