"""The user's own tables: CSV or Parquet files, trimmed and typed, every bad cell named."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mjd.data import csv_files, parquet_files
from mjd.data.checks import TableName, at_row, check_columns, fail_at, is_number
from mjd.errors import DataError
from mjd.labels import LabelSet

_log = logging.getLogger(__name__)

# What spreadsheets show where a formula fails (a text that starts with = or -), and databases where there is nothing.
_IN_PLACE_OF_TEXTS = frozenset({"#NAME?", "#REF!", "#VALUE!", "#DIV/0!", "#NUM!", "#NULL!", "#ERROR!", "\\N"})
# How much of a text warnings show.
_SHOWN = 40

AGAIN = "Export the table again, as UTF-8 and from the texts themselves."
APOSTROPHES = "If they only quote the texts, export the table again with double quotes."


def read_table(path: str | Path, used: Collection[str] = ()) -> tuple[pd.DataFrame, TableName]:
    """Read a CSV or Parquet file (by suffix, in any case) as trimmed text; an empty or missing cell is "".

    Args:
        path: the file.
        used: columns that will be asked for, if they are there. Other columns that hold no text are left empty.

    Returns:
        The table, one str column each, and its name with the line of each row.

    Raises:
        DataError: the file is missing, damaged or of another kind, loses rows or characters if read as it stands, or a
            used column cannot be text.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".parquet"):
        raise DataError(f"{path} is neither CSV nor Parquet (by its suffix).", _cure_of_suffix(path, used))
    columns, where = (csv_files.read_csv if suffix == ".csv" else parquet_files.read_parquet)(path, used)
    n_rows = max((len(cells) for cells in columns.values()), default=0)
    texts = {name: [cell.strip() for cell in cells] for name, cells in columns.items()}
    _warn_of_lost_texts({name: cells for name, cells in texts.items() if name in used}, where)
    return pd.DataFrame(texts, index=pd.RangeIndex(n_rows), dtype=object), where


def _warn_of_lost_texts(texts: Mapping[str, Sequence[str]], where: TableName) -> None:
    """Warn of what programs write in place of texts, and of quotes that are none in CSV: each may also be meant."""
    for name, cells in texts.items():
        for found, what, cure in (
            (["\ufffd" in cell for cell in cells], "have the character U+FFFD in place of one that was lost", AGAIN),
            (
                [cell in _IN_PLACE_OF_TEXTS for cell in cells],
                "are an error of a spreadsheet or a database's null",
                AGAIN,
            ),
            (_all_in_apostrophes(cells), "stand in apostrophes, which are part of the texts", APOSTROPHES),
        ):
            if rows := [row for row, is_found in enumerate(found) if is_found]:
                _log.warning(
                    "%s, %s, column %r: %d texts %s (%r). %s",
                    where, at_row(where, rows[0]), name, len(rows), what, cells[rows[0]][:_SHOWN], cure,
                )  # fmt: skip


def _all_in_apostrophes(cells: Sequence[str]) -> list[bool]:
    """Whether a column looks quoted by apostrophes: all its texts, two or more, stand in them."""
    filled = [cell for cell in cells if cell]
    quoted = len(filled) > 1 and all(len(cell) > 1 and cell[0] == cell[-1] == "'" for cell in filled)
    return [quoted and bool(cell) for cell in cells]


def _cure_of_suffix(path: Path, used: Collection[str]) -> str:
    """How to bring a file of another kind."""
    name = path.name.lower()
    if name.endswith((".tsv", ".tab")):
        return f"Put commas between the cells: {csv_files.converted(path, chr(9))}"
    if name.endswith((".jsonl", ".ndjson", ".json")):
        return csv_files.converted_json(path, not name.endswith(".json"), used)
    if name.endswith((".csv.gz", ".csv.zip", ".csv.bz2", ".csv.xz", ".csv.zst")):
        return "Decompress it, so that its name ends in .csv."
    if name.endswith((".xlsx", ".xls", ".xlsm", ".ods")):
        return "Save the sheet as CSV UTF-8, from Excel or LibreOffice."
    return "Give a file whose name ends in .csv or .parquet."


def as_items(
    raw: pd.DataFrame, labels: LabelSet, text_fields: Sequence[str], label_sets: Sequence[str], where: str
) -> pd.DataFrame:
    """Typed items from a text table; HJD, its number of votes and label counts may be absent and are null then.

    Raises:
        DataError: a column is missing, a group of columns is there in part, or a cell is not a number.
    """
    check_columns(raw, ["uid", *text_fields, "split"], where)
    typed = raw[["uid", *text_fields]].copy()
    for name in ("hjd", *label_sets):
        columns = labels.columns(name)
        if any(column in raw.columns for column in columns):
            check_columns(raw, columns, where)
        for column in columns:
            typed[column] = as_numbers(raw, column, where) if column in raw.columns else np.nan
    typed["n_votes"] = as_numbers(raw, "n_votes", where) if "n_votes" in raw.columns else np.nan
    typed["split"] = raw["split"]
    _warn_ignored(raw, typed, where)
    return typed


def as_human_explanations(raw: pd.DataFrame, labels: LabelSet, where: str) -> pd.DataFrame:
    """Typed human explanations from a text table.

    `position` may be absent: it is the order of an item's rows then; `annotator` may be absent or empty.

    Raises:
        DataError: a column is missing, or a position is not a number.
    """
    check_columns(raw, ["uid", "label", "text"], where)
    typed = raw[["uid"]].copy()
    ordered = raw.groupby("uid", sort=False).cumcount()
    typed["position"] = as_numbers(raw, "position", where) if "position" in raw.columns else ordered
    typed["label"] = as_label_keys(raw["label"], labels)
    typed["text"] = raw["text"]
    typed["annotator"] = raw["annotator"].replace("", None) if "annotator" in raw.columns else None
    _warn_ignored(raw, typed, where)
    return typed


def as_labelled(raw: pd.DataFrame, columns: Sequence[str], labels: LabelSet, where: str) -> pd.DataFrame:
    """Labelled pairs or OOD items from a text table: `columns` and `label`, labels as keys.

    Raises:
        DataError: a column is missing.
    """
    check_columns(raw, [*columns, "label"], where)
    typed = raw[list(columns)].copy()
    typed["label"] = as_label_keys(raw["label"], labels)
    _warn_ignored(raw, typed, where)
    return typed


def as_numbers(raw: pd.DataFrame, column: str, where: str) -> pd.Series[float]:
    """A text column as floats, an empty cell as NaN; raises `DataError` for a cell that is not a number."""
    cells = raw[column]
    cure = "Give a number with a decimal point, or leave the cell empty."
    filled = (cells != "").to_numpy(bool)
    numeric = np.array([is_number(cell) for cell in cells], dtype=bool)
    fail_at(filled & ~numeric, where, column, lambda row: f"{cells.iloc[row]!r} is not a number", cure)
    numbers = pd.Series([float(cell) if cell else np.nan for cell in cells], index=cells.index, dtype=float)
    vanished = np.array([bool(re.search("[1-9]", re.split("e", cell, flags=re.I)[0])) for cell in cells], dtype=bool)
    fail_at(
        vanished & (numbers == 0).to_numpy(bool),
        where,
        column,
        lambda row: f"{cells.iloc[row]!r} is too small for a number",
        "Write 0, or a larger number.",
    )
    return numbers


def as_label_keys(cells: pd.Series[str], labels: LabelSet) -> pd.Series[str]:
    """Labels as keys where they are a key or name of `labels`; others are left as they are, for the checks to name."""
    known = {}
    for value in cells.unique():
        try:
            known[value] = labels.normalise(value)
        except DataError:
            known[value] = value
    return cells.map(known)


def _warn_ignored(raw: pd.DataFrame, used: pd.DataFrame, where: str) -> None:
    ignored = [name for name in raw.columns if name not in used.columns]
    if ignored:
        _log.warning("%s: column(s) %s are not used.", where, ", ".join(ignored))
