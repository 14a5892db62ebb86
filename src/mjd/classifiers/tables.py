"""Classifier tables: long for machines, the poster's rows and columns for people, the same numbers in both."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from mjd.analyses.base import Analysis, AnalysisJob
from mjd.classifiers.evaluation import (
    FINETUNING_COUNTS,
    FINETUNING_METRICS,
    OOD_COUNTS,
    OOD_METRICS,
    REFERENCE_METRICS,
    finetuning_table,
    ood_table,
    summarise_seeds,
)
from mjd.evaluation import statistics as stats
from mjd.evaluation.comparison import SIGNIFICANCE
from mjd.io import read_parquet, read_provenance
from mjd.labels import LabelSet
from mjd.systems import System

# (name, title), in table order.
Titles = Sequence[Sequence[str]]

OOD_SHOWN = "weighted_f1"


def _schema(part: str, metrics: Sequence[str], of_items: Sequence[str]) -> pa.Schema:
    texts = [pa.field(name, pa.string()) for name in ("slug", "system", "encoder", "encoder_title", part)]
    parts = ("", "_sd", "_low", "_high", "_difference", "_p", "_p_holm")
    numbers = [pa.field(f"{metric}{name}", pa.float64()) for metric in metrics for name in parts]
    counts = [pa.field(name, pa.float64() if name == "share_ties" else pa.int64()) for name in (*of_items, "n_seeds")]
    return pa.schema([*texts, *numbers, pa.field("reference", pa.string()), *counts, pa.field("data_set", pa.string())])


def finetuning_schema() -> pa.Schema:
    """Columns of finetuning.parquet: system x encoder x split; per metric mean, sd and t-interval over seeds.

    `{metric}_difference` is the mean over seeds of the system minus its `reference` (+ human-ex of the same scorer),
    `_p` that of a paired t-test over seeds, `_p_holm` adjusted over the systems and splits of one encoder.
    `share_ties` of the `n` items have several majority labels, any of which is right; `n_truncated` items were longer
    than the encoder's `max_length`, and so were `n_train_truncated` of the texts that the row's classifier was trained
    on (of the labelled pairs for the base classifier; null for an untrained head).
    """
    schema = _schema("split", FINETUNING_METRICS, FINETUNING_COUNTS)
    return schema.insert(schema.get_field_index("n_seeds"), pa.field("n_train_truncated", pa.int64()))


def ood_schema() -> pa.Schema:
    """Columns of ood.parquet: system x encoder x round; otherwise as `finetuning_schema`; one gold label an item."""
    return _schema("round", OOD_METRICS, OOD_COUNTS)


def _long(
    scored: Sequence[pd.DataFrame],
    systems: Sequence[System],
    encoders: Titles,
    part: str,
    metrics: Sequence[str],
    of_items: Sequence[str],
    confidence: float,
    data_set: str,
) -> pd.DataFrame:
    """Every encoder's scores over seeds, rows in the order of `systems`, then encoders, then parts."""
    references = {system.slug: system.reference for system in systems}
    summaries = []
    for (name, title), table in zip(encoders, scored, strict=True):
        summary = summarise_seeds(table, ["system", part, *of_items], metrics)
        _add_intervals(summary, metrics, confidence)
        _add_tests(summary, table, part, metrics, references)
        summaries.append(summary.rename(columns={"system": "slug"}).assign(encoder=name, encoder_title=title))
    titles = {system.slug: system.title for system in systems}
    place = {slug: row for row, slug in enumerate(titles)}
    found = pd.concat(summaries, ignore_index=True)
    found = found.assign(system=found["slug"].map(titles), data_set=data_set)
    return found.sort_values("slug", key=lambda slugs: slugs.map(place), kind="stable", ignore_index=True)


def _add_intervals(summary: pd.DataFrame, metrics: Sequence[str], confidence: float) -> None:
    """Add the t-interval of each mean over seeds; null for one seed."""
    for metric in metrics:
        half = stats.t_half_width(summary[f"{metric}_sd"], summary["n_seeds"], confidence)
        summary[f"{metric}_low"], summary[f"{metric}_high"] = summary[metric] - half, summary[metric] + half


def _add_tests(
    summary: pd.DataFrame, table: pd.DataFrame, part: str, metrics: Sequence[str], references: Mapping[str, str | None]
) -> None:
    """Add each system's difference from its reference, paired by seed, with p-values adjusted for each metric."""
    runs = {key: rows.set_index("seed") for key, rows in table.groupby(["system", part])}
    summary["reference"] = summary["system"].map(dict(references))
    pairs = [
        (runs[system, name], runs.get((reference, name)))
        for system, name, reference in zip(summary["system"], summary[part], summary["reference"], strict=True)
    ]
    for metric in metrics:
        differences = [
            np.zeros(0) if reference is None else (own[metric] - reference[metric]).dropna().to_numpy()
            for own, reference in pairs
        ]
        summary[f"{metric}_difference"] = [d.mean() if len(d) else np.nan for d in differences]
        summary[f"{metric}_p"] = [stats.paired_t_p(d) for d in differences]
        summary[f"{metric}_p_holm"] = stats.holm(summary[f"{metric}_p"])


def finetuning(
    scored: Sequence[pd.DataFrame],
    systems: Sequence[System],
    encoders: Titles,
    confidence: float,
    data_set: str,
    train_truncated: Sequence[Mapping[str, int | None]] = (),
) -> pd.DataFrame:
    """The fine-tuning table from `finetuning_table` of every encoder (in the order of `encoders`).

    `train_truncated` has for every encoder the truncated training texts by system (`truncated_in_training`).
    """
    table = _long(scored, systems, encoders, "split", FINETUNING_METRICS, FINETUNING_COUNTS, confidence, data_set)
    known = {name: found for (name, _), found in zip(encoders, train_truncated, strict=False)}
    counts = [known.get(row["encoder"], {}).get(row["slug"]) for row in table.to_dict("records")]
    return table.assign(n_train_truncated=pd.array(counts, dtype="Int64"))


def truncated_in_training(base: str | Path, history: str | Path, base_slug: str) -> dict[str, int | None]:
    """By system the number of its training texts that were truncated; None where an older version did not count them.

    Args:
        base: the base classifier's model directory, whose `mjd.json` counts its labelled pairs.
        history: the training history (schema `training_history`), whose provenance counts the training items.
        base_slug: slug of the base classifier.
    """
    about = Path(base) / "mjd.json"
    pairs = json.loads(about.read_text(encoding="utf-8")) if about.is_file() else {}
    items = read_provenance(history)

    def count(of: Mapping[str, Any], part: str) -> int | None:
        found: int | None = of.get("truncated", {}).get(part, {}).get("n_truncated")
        return found

    tuned = dict.fromkeys(map(str, read_parquet(history)["system"].unique()), count(items, "train"))
    return {base_slug: count(pairs, "pairs"), **tuned}


def ood(
    scored: Sequence[pd.DataFrame], systems: Sequence[System], encoders: Titles, confidence: float, data_set: str
) -> pd.DataFrame:
    """The OOD table from `ood_table` of every encoder (in the order of `encoders`)."""
    return _long(scored, systems, encoders, "round", OOD_METRICS, OOD_COUNTS, confidence, data_set)


def _marks(table: pd.DataFrame, part: str, metrics: Sequence[str]) -> pd.Series:
    """Per slug what differs from its reference with Holm-adjusted p < 0.05, e.g. `minilm test kl higher`."""
    found: dict[str, list[str]] = {slug: [] for slug in table["slug"]}
    for row in table.to_dict("records"):
        found[row["slug"]] += [
            f"{row['encoder']} {row[part]} {metric} {'higher' if row[f'{metric}_difference'] > 0 else 'lower'}"
            for metric in metrics
            if metric not in REFERENCE_METRICS and row[f"{metric}_p_holm"] < SIGNIFICANCE
        ]
    return pd.Series({slug: "; ".join(marks) for slug, marks in found.items()})


def _wide(table: pd.DataFrame, part: str, metrics: Sequence[str], named: bool) -> pd.DataFrame:
    """One row a system; columns `encoder_part`, or `encoder_metric_part` when `named`, then their sd, then counts.

    Items are the same for all encoders, truncated ones differ.
    """
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
        if "share_ties" in cell:
            wide[f"share_ties_{name}".lower()] = float(cell["share_ties"].iloc[0])
        for encoder, of_encoder in cell.groupby("encoder", sort=False):
            wide[f"{encoder}_n_truncated_{name}".lower()] = of_encoder["n_truncated"].iloc[0]
    if "n_train_truncated" in table:
        for encoder, of_encoder in table.groupby("encoder", sort=False):
            wide[f"{encoder}_n_train_truncated".lower()] = of_encoder.groupby("slug")["n_train_truncated"].first()
    wide["n_seeds"] = table.groupby("slug")["n_seeds"].max()
    wide["differs_from_human_ex"] = _marks(table, part, metrics)
    wide.insert(0, "system", titles)
    return wide.reset_index(drop=True)


def finetuning_for_people(table: pd.DataFrame) -> pd.DataFrame:
    """One row a system; for each encoder and metric dev and test, then standard deviations over seeds and counts."""
    return _wide(table, "split", FINETUNING_METRICS, named=True).assign(data_set=table["data_set"].iloc[0])


def ood_for_people(table: pd.DataFrame) -> pd.DataFrame:
    """The poster's OOD table: one row a system, for each encoder weighted F1 on each round, then sd and counts."""
    wide = _wide(table, "round", [OOD_SHOWN], named=False)
    return wide.assign(metric=OOD_SHOWN, data_set=table["data_set"].iloc[0])


class FineTuningTable(Analysis):
    """Every classifier on dev and test: `predictions`, `base` classifier and training `history` of each encoder."""

    def schema(self, labels: LabelSet) -> pa.Schema:
        return finetuning_schema()

    def run(self, job: AnalysisJob) -> pd.DataFrame:
        items = job.frame("data_items")
        truncated = [
            truncated_in_training(base, history, "mnli-ft-lm")
            for base, history in zip(job.paths("base"), job.paths("history"), strict=True)
        ]
        return finetuning(
            [finetuning_table(predictions, items, job.labels) for predictions in job.frames("predictions")],
            job.systems(),
            job.params["encoders"],
            job.params["confidence"],
            job.data_set,
            truncated,
        )

    def for_people(self, table: pd.DataFrame) -> pd.DataFrame:
        return finetuning_for_people(table)


class OodTable(Analysis):
    """Every classifier out of distribution: the `ood` rounds, and `predictions` of each encoder."""

    def schema(self, labels: LabelSet) -> pa.Schema:
        return ood_schema()

    def run(self, job: AnalysisJob) -> pd.DataFrame:
        rounds = job.frame("ood")
        return ood(
            [ood_table(predictions, rounds, job.labels) for predictions in job.frames("predictions")],
            job.systems(),
            job.params["encoders"],
            job.params["confidence"],
            job.data_set,
        )

    def for_people(self, table: pd.DataFrame) -> pd.DataFrame:
        return ood_for_people(table)
