"""The user's own tables: CSV or Parquet files, trimmed and typed, every bad cell named."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mjd.data.checks import check_columns, fail_at
from mjd.errors import DataError
from mjd.io import read_parquet
from mjd.labels import LabelSet

_log = logging.getLogger(__name__)


def read_table(path: str | Path) -> pd.DataFrame:
    """Read a CSV or Parquet file (by suffix) as trimmed text, one str column each; an empty cell is "".

    Raises:
        DataError: the file is missing, damaged, of another kind, or has rows with more fields than its header.
    """
    path = Path(path)
    if path.suffix == ".parquet":
        return _as_text(read_parquet(path))
    if path.suffix != ".csv":
        raise DataError(f"{path} is neither CSV nor Parquet.", "Give a file whose name ends in .csv or .parquet.")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.", "Correct the path in the configuration.") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        problem = f"{path} is not a readable CSV file ({str(error).strip()})."
        raise DataError(
            problem, "Save it as UTF-8 CSV with a header line, and put texts with commas in quotes."
        ) from error
    if not isinstance(table.index, pd.RangeIndex):  # pandas took the fields beyond the header for row names
        columns, fields = len(table.columns), len(table.columns) + table.index.nlevels
        raise DataError(
            f"{path}, row 1 has {fields} fields, but the header names {columns} columns.",
            'Put texts with commas in quotes ("well, no"), and end no row with a comma.',
        )
    return _as_text(table)


def _as_text(table: pd.DataFrame) -> pd.DataFrame:
    texts = {str(name).strip(): _text_column(table[name]) for name in table.columns}
    return pd.DataFrame(texts, index=pd.RangeIndex(len(table)))


def _text_column(cells: pd.Series[Any]) -> list[str]:
    if pd.api.types.is_float_dtype(cells.dtype):  # 3.0 is written 3, as it would be in a CSV
        return ["" if pd.isna(value) else np.format_float_positional(value, trim="-") for value in cells]
    return ["" if value is None or value is pd.NA or value != value else str(value).strip() for value in cells]


def as_items(
    raw: pd.DataFrame, labels: LabelSet, text_fields: Sequence[str], label_sets: Sequence[str], where: str
) -> pd.DataFrame:
    """Typed items from a text table; HJD and label counts may be absent and are null then.

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
    numbers = pd.to_numeric(cells, errors="coerce").astype(float)
    fail_at(
        (numbers.isna() & (cells != "")).to_numpy(bool),
        where,
        column,
        lambda row: f"{cells.iloc[row]!r} is not a number",
        "Give a number with a decimal point, or leave the cell empty.",
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
