"""The distribution comparison: how far each system's distributions are from the human ones, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa

from mjd import metrics, stats
from mjd.config import Statistics, System
from mjd.distributions import Floats, aligned
from mjd.labels import LabelSet

ITEM_METRICS = {
    "kl": metrics.kl_divergence,
    "js_distance": metrics.js_distance,
    "js_divergence": metrics.js_divergence,
    "tvd": metrics.total_variation_distance,
}
METRICS = ("kl", "js_distance", "tvd", "dcor", "js_divergence")
VARIANT = ("scorer", "generator", "source", "selection", "mode", "transform")


def schema() -> pa.Schema:
    """Columns of distribution_comparison.parquet: one row a system, each metric with its interval, n items."""
    fields = [pa.field(name, pa.string()) for name in ("slug", "system", *VARIANT)]
    for name in METRICS:
        fields += [pa.field(column, pa.float64()) for column in (name, f"{name}_low", f"{name}_high")]
    return pa.schema([*fields, pa.field("n", pa.int64()), pa.field("data_set", pa.string())])


def compare_one(human: Floats, model: Floats, counts: Floats, confidence: float) -> dict[str, float]:
    """Metrics of one system with percentile intervals.

    Args:
        human, model: distributions [n_items, K]; KL is human to model, natural logarithm.
        counts: bootstrap resamples of the items, from `stats.resample_counts`.
    """
    row: dict[str, float] = {}
    for name, metric in ITEM_METRICS.items():
        values = metric(human, model)
        row[name] = float(values.mean())
        row[f"{name}_low"], row[f"{name}_high"] = stats.interval(stats.resampled_means(values, counts), confidence)
    constant = bool(np.ptp(model, axis=0).max() < 1e-12)
    correlations = np.full(1, np.nan) if constant else stats.resampled_distance_correlations(human, model, counts)
    row["dcor"] = float("nan") if constant else metrics.distance_correlation(human, model)
    row["dcor_low"], row["dcor_high"] = stats.interval(correlations, confidence)
    return row


def compare(
    items: pd.DataFrame,
    systems: Sequence[System],
    distributions: Mapping[str, pd.DataFrame],
    labels: LabelSet,
    settings: Statistics,
    seed: int,
    data_set: str,
) -> pd.DataFrame:
    """Compare every system's distributions with the HJD of the training items.

    Args:
        items: training items with `hjd_*`; items without an HJD are left out.
        distributions: system slug -> frame uid, p_*.

    Returns:
        The table of `schema`, systems in the order given. All systems share the same resamples.
    """
    known = items.dropna(subset=labels.columns("hjd"))
    human = known[labels.columns("hjd")].to_numpy(np.float64)
    counts = stats.resample_counts(len(known), settings.resamples, seed)
    rows = []
    for system in systems:
        model = aligned(known["uid"], distributions[system.slug], labels, system.path or system.slug)
        row = compare_one(human, model, counts, settings.confidence)
        variant = {name: getattr(system, name) for name in VARIANT}
        rows.append({"slug": system.slug, "system": system.title, **variant, **row, "n": len(known)})
    return pd.DataFrame(rows).assign(data_set=data_set)
