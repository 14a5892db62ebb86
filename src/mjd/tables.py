"""Classifier tables: long for machines, the poster's rows and columns for people, the same numbers in both."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import pyarrow as pa

from mjd.evaluate import FINETUNING_METRICS, OOD_METRICS, summarise_seeds

# (slug, title) or (name, title) pairs, in table order.
Titles = Sequence[Sequence[str]]

OOD_SHOWN = "weighted_f1"


def _schema(part: str, metrics: Sequence[str]) -> pa.Schema:
    texts = [pa.field(name, pa.string()) for name in ("slug", "system", "encoder", "encoder_title", part)]
    numbers = [pa.field(column, pa.float64()) for metric in metrics for column in (metric, f"{metric}_sd")]
    counts = [pa.field(name, pa.int64()) for name in ("n", "n_seeds")]
    return pa.schema([*texts, *numbers, *counts, pa.field("data_set", pa.string())])


def finetuning_schema() -> pa.Schema:
    """Columns of finetuning.parquet: system x encoder x split, mean and sd over seeds."""
    return _schema("split", FINETUNING_METRICS)


def ood_schema() -> pa.Schema:
    """Columns of ood.parquet: system x encoder x round, mean and sd over seeds."""
    return _schema("round", OOD_METRICS)


def _long(
    scored: Sequence[pd.DataFrame],
    systems: Titles,
    encoders: Titles,
    part: str,
    metrics: Sequence[str],
    data_set: str,
) -> pd.DataFrame:
    """Mean and sd over seeds of every encoder's scores, rows in the order of `systems`, then encoders, then parts."""
    summaries = []
    for (name, title), table in zip(encoders, scored, strict=True):
        summary = summarise_seeds(table, ["system", part, "n"], metrics).rename(columns={"system": "slug"})
        summaries.append(summary.assign(encoder=name, encoder_title=title))
    titles: dict[str, str] = {slug: title for slug, title in systems}  # noqa: C416
    place = {slug: row for row, slug in enumerate(titles)}
    found = pd.concat(summaries, ignore_index=True)
    found = found.assign(system=found["slug"].map(titles), data_set=data_set)
    return found.sort_values("slug", key=lambda slugs: slugs.map(place), kind="stable", ignore_index=True)


def finetuning(scored: Sequence[pd.DataFrame], systems: Titles, encoders: Titles, data_set: str) -> pd.DataFrame:
    """The fine-tuning table from `evaluate.finetuning_table` of every encoder (in the order of `encoders`)."""
    return _long(scored, systems, encoders, "split", FINETUNING_METRICS, data_set)


def ood(scored: Sequence[pd.DataFrame], systems: Titles, encoders: Titles, data_set: str) -> pd.DataFrame:
    """The OOD table from `evaluate.ood_table` of every encoder (in the order of `encoders`)."""
    return _long(scored, systems, encoders, "round", OOD_METRICS, data_set)


def _wide(table: pd.DataFrame, part: str, metrics: Sequence[str], named: bool) -> pd.DataFrame:
    """One row a system; columns `encoder_part`, or `encoder_metric_part` when `named`, then their sd, then counts."""
    means: dict[str, pd.Series] = {}
    spreads: dict[str, pd.Series] = {}
    for encoder, rows in table.groupby("encoder", sort=False):
        for metric in metrics:
            for name, cell in rows.groupby(part, sort=False):
                column = f"{encoder}_{metric}_{name}" if named else f"{encoder}_{name}"
                values = cell.set_index("slug")
                means[column.lower()] = values[metric]
                spreads[f"{column.lower()}_sd"] = values[f"{metric}_sd"]
    titles = table.drop_duplicates("slug").set_index("slug")["system"]
    wide = pd.DataFrame(means | spreads).reindex(titles.index)
    for name, cell in table.groupby(part, sort=False):
        wide[f"n_{name}".lower()] = int(cell["n"].iloc[0])
    wide["n_seeds"] = table.groupby("slug")["n_seeds"].max()
    wide.insert(0, "system", titles)
    return wide.reset_index(drop=True)


def finetuning_for_people(table: pd.DataFrame) -> pd.DataFrame:
    """One row a system; for each encoder and metric dev and test, then standard deviations over seeds and counts."""
    return _wide(table, "split", FINETUNING_METRICS, named=True).assign(data_set=table["data_set"].iloc[0])


def ood_for_people(table: pd.DataFrame) -> pd.DataFrame:
    """The poster's OOD table: one row a system, for each encoder weighted F1 on each round, then sd and counts."""
    wide = _wide(table, "round", [OOD_SHOWN], named=False)
    return wide.assign(metric=OOD_SHOWN, data_set=table["data_set"].iloc[0])
