"""Load a configuration's data: items with human explanations, labelled pairs, out-of-distribution items.

Every table is checked (`mjd.data.checks`) and has the columns of its schema (`mjd.schemas`), in order.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from mjd import schemas
from mjd.config.data import ItemsData, OodData, PairsData, Task
from mjd.data import annotation_tables, checks, public, tables
from mjd.data.checks import TableName


def load_items(
    data: ItemsData,
    task: Task,
    directories: Mapping[str, Path],
    limit: int | None = None,
    fine_tuning: bool = False,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Items (schema `items`) and their human explanations (schema `human_explanations`).

    Args:
        data: the loader, and the files of the loader `tables`.
        task: labels, text fields and label counts.
        directories: source id -> directory it was downloaded to.
        limit: keep the first N items of each split, and their explanations.
        fine_tuning: whether encoders are fine-tuned, which needs dev items.

    Raises:
        DataError: a file is missing or its content invalid, naming file, row and column.
    """
    labels, sets = task.label_set, list(task.label_counts)
    if data.loader == "tables":
        items, where = _own_items(str(data.items), task)
        explanations, explanations_where = _own_explanations(data, task)
    else:
        items, explanations = public.mjd_estimator(directories, labels, task.text_fields, sets)
        where = explanations_where = TableName(data.loader)
    every_hjd = task.train_hjd == "all"
    checks.check_items(items, labels, task.text_fields, sets, where, every_hjd, fine_tuning)
    checks.check_human_explanations(explanations, items, labels, explanations_where)
    if limit is not None:
        items = items.groupby("split", sort=False).head(limit)
    whole = ["n_votes", *(column for name in sets for column in labels.columns(name))]
    columns = schemas.columns(schemas.items(labels, task.text_fields, sets))
    items = items[columns].astype(dict.fromkeys(whole, "Int64")).reset_index(drop=True)
    return items, _ordered_like(items, explanations)


def _own_items(path: str, task: Task) -> tuple[pd.DataFrame, TableName]:
    labels, fields, sets = task.label_set, task.text_fields, list(task.label_counts)
    raw, where = tables.read_table(path, schemas.columns(schemas.items(labels, fields, sets)))
    annotation_tables.check_rows_are_items(raw, labels, fields, sets, where)
    items = tables.as_items(raw, labels, fields, sets, where)
    annotation_tables.check_votes_are_merged(items, labels, fields, sets, where)
    return items, where


def _own_explanations(data: ItemsData, task: Task) -> tuple[pd.DataFrame, TableName]:
    columns = schemas.columns(schemas.human_explanations())
    if data.human_explanations is None:
        raw, where = pd.DataFrame({name: [] for name in columns}, dtype=str), TableName("no human explanations")
    else:
        raw, where = tables.read_table(data.human_explanations, columns)
    return tables.as_human_explanations(raw, task.label_set, where), where


def _own_labelled(path: str, columns: list[str], task: Task) -> tuple[pd.DataFrame, TableName]:
    raw, where = tables.read_table(path, [*columns, "label"])
    annotation_tables.check_rows_are_pairs(raw, task.text_fields, where)
    return tables.as_labelled(raw, columns, task.label_set, where), where


def _ordered_like(items: pd.DataFrame, explanations: pd.DataFrame) -> pd.DataFrame:
    """Explanations of `items` only, in item order, then by position."""
    kept = explanations[explanations["uid"].isin(items["uid"])]
    kept = kept.astype({"position": "int64"})
    place = kept["uid"].map(pd.Series(items.index, index=items["uid"]))
    kept = kept.assign(_place=place).sort_values(["_place", "position"], kind="stable")
    return kept[schemas.columns(schemas.human_explanations())].reset_index(drop=True)


def load_pairs(data: PairsData, task: Task, directories: Mapping[str, Path]) -> pd.DataFrame:
    """Labelled pairs for the base classifier (schema `pairs`), the first `data.limit` where that is set.

    Raises:
        DataError: a file is missing or its content invalid, naming file, row and column.
    """
    labels, fields = task.label_set, task.text_fields
    where = TableName(data.loader)
    if data.loader == "tables":
        pairs, where = _own_labelled(str(data.path), ["uid", *fields], task)
    elif data.loader == "esnli":
        pairs = public.esnli(public.source_directory(directories, "esnli"), labels, fields)
    else:
        archive = public.source_directory(directories, "multinli") / "multinli_1.0.zip"
        pairs = public.multinli(archive, labels, fields, data.limit)
    checks.check_pairs(pairs, labels, fields, where)
    return pairs[schemas.columns(schemas.pairs(fields))].head(data.limit or len(pairs)).reset_index(drop=True)


def load_ood(data: OodData, task: Task, directories: Mapping[str, Path], limit: int | None = None) -> pd.DataFrame:
    """Out-of-distribution items (schema `ood`), round by round in the order of `data.rounds`.

    `limit` keeps the first N items of each round.

    Raises:
        DataError: a file is missing or its content invalid, naming file, row and column.
    """
    labels, fields = task.label_set, task.text_fields
    where = TableName(data.loader)
    if data.loader == "tables":
        ood, where = _own_labelled(str(data.path), ["uid", "round", *fields], task)
    elif data.loader == "anli-dev":
        ood = public.anli_dev(public.source_directory(directories, "anli-dev"), labels, fields, data.rounds)
    else:
        archive = public.source_directory(directories, "anli") / "anli_v1.0.zip"
        ood = public.anli_test(archive, labels, fields, data.rounds)
    checks.check_ood(ood, labels, fields, data.rounds, where)
    parts = [ood[ood["round"] == name].head(limit or len(ood)) for name in data.rounds]
    return pd.concat(parts, ignore_index=True)[schemas.columns(schemas.ood(fields))]
