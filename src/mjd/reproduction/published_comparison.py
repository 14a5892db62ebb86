"""Every cell of the published tables, with our number beside it where this configuration produced it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from mjd.errors import DataError
from mjd.reproduction.published_tables import Comparable, PublishedColumn, Reading

REPRODUCED, DIFFERS, NOT_RUN = "reproduced", "differs", "not run in this configuration"

# The column of our table that names the part of a classifier's data.
_PART = {"finetuning": "split", "ood": "round"}


def schema() -> pa.Schema:
    """Columns of published_comparison.parquet: one row a published cell.

    `difference` is ours minus published; `status` is reproduced (equal at the published decimals), differs, or not run
    in this configuration (`ours` is null then); `note` says what is known about the cell, or what it would take.
    """
    texts = [pa.field(name, pa.string()) for name in ("table", "system", "column")]
    numbers = [pa.field(name, pa.float64()) for name in ("published", "ours", "difference")]
    return pa.schema([*texts, *numbers, *(pa.field(name, pa.string()) for name in ("status", "note", "data_set"))])


def read_published(directory: Path, reading: Reading) -> pd.DataFrame:
    """All cells of the published tables: table, system, column, published (as printed); empty cells are left out.

    Raises:
        DataError: a table is missing, or lacks a column that the reading names.
    """
    tables = []
    for table, columns in reading.columns.items():
        path = directory / f"{table}.csv"
        if not path.is_file():
            raise DataError(f"{path}, a published table, does not exist.", "Restore it, or correct reading.yaml.")
        printed = pd.read_csv(path, dtype=str, keep_default_na=False)
        name = reading.title_column(table)
        absent = [column for column in (name, *columns) if column not in printed.columns]
        if absent:
            raise DataError(f"{path} lacks the column {absent[0]!r}.", "Correct reading.yaml beside it.")
        long = printed.reset_index().melt(["index", name], var_name="column", value_name="published")
        long = long[long["published"] != ""].sort_values("index", kind="stable")
        tables.append(long.rename(columns={name: "system"}).assign(table=table))
    return pd.concat(tables, ignore_index=True)[["table", "system", "column", "published"]]


def compare_published(
    cells: pd.DataFrame, reading: Reading, made: Comparable, ours: Mapping[str, pd.DataFrame], data_set: str
) -> pd.DataFrame:
    """Set our numbers beside the published ones.

    Args:
        cells: the published cells, from `read_published`.
        made: what of the published tables the configuration makes.
        ours: our tables by name: distribution_comparison, finetuning, ood.

    Returns:
        The table of `schema`, one row a cell, in the order of `cells`.
    """
    rows = []
    for table, system, column, printed in cells.itertuples(index=False):
        spec = reading.columns[table].get(column)
        value, remark = _our_cell(spec, system, made, ours)
        known = [note.note for note in reading.notes if note.fits(table, system, column)]
        published = float(printed)
        rows.append(
            {
                "table": table,
                "system": system,
                "column": column,
                "published": published,
                "ours": value,
                "difference": None if value is None else value - published,
                "status": _status(value, published, _decimals(printed)),
                "note": "; ".join([*known, *([remark] if remark else [])]),
            }
        )
    table = pd.DataFrame(rows, columns=schema().names).assign(data_set=data_set)
    return table.astype({"ours": float, "difference": float})


def _our_cell(
    spec: PublishedColumn | None, system: str, made: Comparable, ours: Mapping[str, pd.DataFrame]
) -> tuple[float | None, str]:
    """Our number of a published cell and what is to know about it, or None and what it would take."""
    if spec is None:
        return None, "no table of this configuration has it"
    if spec.table in made.missing_tables:
        return None, made.missing_tables[spec.table]
    if system not in made.systems:
        return None, made.missing_systems.get(system, "reading.yaml does not name this row")
    if spec.encoder is not None and spec.encoder not in made.encoders:
        return None, f"no encoder is {spec.encoder}"
    table = ours[spec.table]
    found = table[table["slug"] == made.systems[system]]
    if spec.encoder is not None:
        found = found[(found["encoder"] == made.encoders[spec.encoder]) & (found[_PART[spec.table]] == spec.part)]
    if found.empty or pd.isna(found[spec.metric].iloc[0]):
        return None, f"{made.systems[system]} is not in our table {spec.table}"
    n = int(found["n"].iloc[0])
    if n != spec.n:
        return None, f"computed on {n} items, the paper's {spec.n}"
    value = float(found[spec.metric].iloc[0])
    if spec.metric == "dcor" and value <= found.get("dcor_null_95", pd.Series([np.nan])).iloc[0]:
        return value, "ours is not told from independence (dcor_null_95)"
    return value, ""


def _decimals(printed: str) -> int:
    return len(printed.partition(".")[2])


def _status(ours: float | None, published: float, decimals: int) -> str:
    if ours is None:
        return NOT_RUN
    return REPRODUCED if round(ours, decimals) == published else DIFFERS
