"""The distribution comparison: how far each system's distributions are from the human ones, intervals and tests."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from scipy.stats import gmean

from mjd.config.analyses import Statistics
from mjd.distributions import Floats, aligned, items_of_all
from mjd.errors import DataError
from mjd.evaluation import metrics
from mjd.evaluation import statistics as stats
from mjd.labels import LabelSet
from mjd.systems import VARIANT_FIELDS, System

log = logging.getLogger(__name__)

ITEM_METRICS = {
    "kl": metrics.kl_divergence,
    "js_distance": metrics.js_distance,
    "tvd": metrics.total_variation_distance,
    "js_divergence": metrics.js_divergence,
}
METRICS = ("kl", "js_distance", "tvd", "dcor", "js_divergence")
TESTED = ("kl", "js_distance", "tvd", "dcor")
SIGNIFICANCE = 0.05
# Shuffles of the items that show which distance correlations independence gives.
PERMUTATIONS = 999
TEMPERATURES = ("temperature", "temperature_least", "temperature_most")


def schema() -> pa.Schema:
    """Columns of distribution_comparison.parquet: one row a system, each metric with its interval, n items.

    `transform` is the estimator's name in `scoring.estimators`. `temperature` is the softmax temperature; where it was
    fitted, the geometric mean over folds, with the least and the most of them. `dcor_null_95` is the 95 % quantile of
    the distance correlation with shuffled items, and `dcor_null_p` the permutation p of independence: distance
    correlations up to about `dcor_null_95` are what independence gives, and their intervals, which do not know this
    floor, say nothing. `reference` is the slug of "+ human-ex" of the same scorer, mode and estimator;
    `{metric}_difference` the system minus the reference, with its interval, bootstrap p and Holm-adjusted p (family:
    all tested systems of the table), null without a reference.
    """
    fields = [pa.field(name, pa.string()) for name in ("slug", "system", *VARIANT_FIELDS, "transform")]
    fields += [pa.field(name, pa.float64()) for name in TEMPERATURES]
    for name in METRICS:
        fields += [pa.field(column, pa.float64()) for column in (name, f"{name}_low", f"{name}_high")]
    fields += [pa.field(name, pa.float64()) for name in ("dcor_null_95", "dcor_null_p")]
    fields.append(pa.field("reference", pa.string()))
    for name in TESTED:
        fields += [pa.field(column, pa.float64()) for column in _test_columns(name)]
    return pa.schema([*fields, pa.field("n", pa.int64()), pa.field("data_set", pa.string())])


@dataclass(frozen=True)
class Bootstrapped:
    """Metrics of several systems: the `estimate` [n_systems] and bootstrap `samples` [resamples, n_systems] of each.

    All systems share the same resamples, so differences of their samples are paired.
    """

    estimate: Mapping[str, Floats]
    samples: Mapping[str, Floats]


def bootstrap(human: Floats, models: Floats, counts: Floats) -> Bootstrapped:
    """Every metric of every system, on the items and on each resample of them.

    Args:
        human: distributions [n_items, K]; KL is human to model, natural logarithm.
        models: [n_systems, n_items, K].
        counts: bootstrap resamples of the items, from `stats.resample_counts`.

    Returns:
        Metrics by name; the distance correlation of a model that gives every item the same distribution is NaN. Its
        samples are recentred: items that a resample holds twice raise it. Samples of a single item are NaN.
    """
    estimate: dict[str, Floats] = {}
    samples: dict[str, Floats] = {}
    for name, metric in ITEM_METRICS.items():
        values = np.stack([metric(human, model) for model in models], axis=1)
        estimate[name] = values.mean(axis=0)
        samples[name] = stats.resampled_means(values, counts)
    constant = np.ptp(models, axis=1).max(axis=1) < 1e-12
    estimate["dcor"] = np.array(
        [
            np.nan if flat else metrics.distance_correlation(human, model)
            for flat, model in zip(constant, models, strict=True)
        ]
    )
    correlations = np.full((len(counts), len(models)), np.nan)
    correlations[:, ~constant] = stats.resampled_distance_correlations(human, models[~constant], counts)
    samples["dcor"] = stats.recentred(correlations, estimate["dcor"])
    if len(human) < 2:  # every resample is that item
        samples = {name: np.full_like(values, np.nan) for name, values in samples.items()}
    return Bootstrapped(estimate, samples)


def stacked(
    items: pd.DataFrame,
    systems: Sequence[System],
    distributions: Mapping[str, pd.DataFrame],
    labels: LabelSet,
    drops: bool = False,
) -> tuple[Floats, Floats]:
    """HJDs [n_items, K] and the systems' distributions [n_systems, n_items, K] of the items that have an HJD.

    With `drops`, items that an MJD lacks (`unanswered: drop`) are left out for all systems, so that all are compared on
    the same ones.

    Raises:
        DataError: no item has an HJD, or a system lacks an item (`distributions.aligned`).
    """
    known = items.dropna(subset=labels.columns("hjd"))
    if known.empty:
        raise DataError(
            f"No training item has an HJD ({', '.join(labels.columns('hjd'))}) to compare distributions with.",
            "Add HJDs to the items, or ask for tables that need none, such as tables/ood.csv (task.train_hjd: none).",
        )
    if drops:
        known = items_of_all(known, {s.slug: distributions[s.slug] for s in systems if s.kind == "mjd"})
    human = known[labels.columns("hjd")].to_numpy(np.float64)
    models = [aligned(known["uid"], distributions[s.slug], labels, s.slug) for s in systems]
    return human, np.stack(models)


def compare(
    items: pd.DataFrame,
    systems: Sequence[System],
    distributions: Mapping[str, pd.DataFrame],
    labels: LabelSet,
    settings: Statistics,
    seed: int,
    data_set: str,
    temperatures: Mapping[str, Sequence[float]] | None = None,
    drops: bool = False,
) -> pd.DataFrame:
    """Compare every system's distributions with the HJD of the training items.

    Args:
        items: training items with `hjd_*`; items without an HJD are left out.
        systems: rows of the table; those with a `reference` among them are tested against it.
        distributions: system slug -> frame uid, p_*.
        temperatures: system slug -> softmax temperatures, where there are any: several if fitted, one a fold.
        drops: compare on the items that all MJDs have (`stacked`); `n` is their number.

    Returns:
        The table of `schema`, systems in the order given.
    """
    human, models = stacked(items, systems, distributions, labels, drops)
    found = bootstrap(human, models, stats.resample_counts(len(human), settings.resamples, seed))
    slugs = [system.slug for system in systems]
    table = pd.DataFrame(
        [
            {"slug": s.slug, "system": s.title}
            | {name: getattr(s, name) for name in VARIANT_FIELDS}
            | {"transform": s.estimator, "reference": s.reference if s.reference in slugs else None}
            for s in systems
        ]
    )
    of_folds = [(temperatures or {}).get(system.slug, [np.nan]) for system in systems]
    table[list(TEMPERATURES)] = [(gmean(folds), min(folds), max(folds)) for folds in of_folds]
    for name in METRICS:
        table[name] = found.estimate[name]
        table[f"{name}_low"], table[f"{name}_high"] = stats.interval(found.samples[name], settings.confidence)
    null = stats.permuted_distance_correlations(human, models, PERMUTATIONS, seed)
    table["dcor_null_95"] = np.quantile(null, 0.95, axis=0)
    table["dcor_null_p"] = stats.permutation_p(found.estimate["dcor"], null)
    _test_against_references(table, found, settings)
    table = table.assign(n=len(human), data_set=data_set)
    return table[list(schema().names)]


def _test_against_references(table: pd.DataFrame, found: Bootstrapped, settings: Statistics) -> None:
    """Add the paired differences from each system's reference; one Holm family for each metric."""
    place = {slug: row for row, slug in enumerate(table["slug"])}
    tested = [row for row, reference in enumerate(table["reference"]) if pd.notna(reference)]
    references = [place[table["reference"].iloc[row]] for row in tested]
    smallest = min(1.0, 2 * len(tested) / (settings.resamples + 1))
    if smallest >= SIGNIFICANCE:
        log.warning(
            "With %d resamples no difference can be significant: the smallest adjusted p of %d tests is %.2g. Raise "
            "statistics.resamples above %d.",
            settings.resamples,
            len(tested),
            smallest,
            round(2 * len(tested) / SIGNIFICANCE),
        )
    for name in TESTED:
        columns = _test_columns(name)
        table[columns] = np.nan
        if not tested:
            continue
        estimates, samples = found.estimate[name], found.samples[name]
        differences = samples[:, tested] - samples[:, references]
        low, high = stats.interval(differences, settings.confidence)
        p = stats.two_sided_p(differences)
        values = np.stack([estimates[tested] - estimates[references], low, high, p, stats.holm(p)], axis=1)
        table.loc[table.index[tested], columns] = values


def for_people(table: pd.DataFrame) -> pd.DataFrame:
    """The table with plain numbers and intervals; `differs_from_human_ex` names what differs, Holm-adjusted p < 0.05.

    For instance `kl higher; dcor lower`: KL to the human distributions is larger than with human explanations. Two
    distance correlations that are both no higher than independence gives (`is_independent`) are not called different.
    """
    tests = [column for name in TESTED for column in _test_columns(name)]
    rows = {str(row["slug"]): row for row in table.to_dict("records")}
    marks = [
        "; ".join(
            f"{name} {'higher' if row[f'{name}_difference'] > 0 else 'lower'}"
            for name in TESTED
            if row[f"{name}_p_holm"] < SIGNIFICANCE
            and not (name == "dcor" and _independent(row) and _independent(rows[str(row["reference"])]))
        )
        for row in rows.values()
    ]
    wide = table.drop(columns=["slug", "reference", *tests])
    wide.insert(list(wide.columns).index("n"), "differs_from_human_ex", marks)
    return wide


def _independent(row: Mapping[Hashable, Any]) -> bool:
    return bool(is_independent(row["dcor"], row["dcor_null_95"]))


def null_quantile(human: Floats, models: Floats, seed: int) -> Floats:
    """95 % quantile of each model's distance correlation with the HJDs when items are shuffled: [n_systems].

    Args:
        human: [n_items, K]; models: [n_systems, n_items, K]; seed: of the shuffles.
    """
    return np.asarray(
        np.quantile(stats.permuted_distance_correlations(human, models, PERMUTATIONS, seed), 0.95, axis=0)
    )


def is_independent(dcor: npt.ArrayLike, null_95: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Whether distance correlations are no higher than the 95 % quantile of independent data.

    The difference of two of those is one of noise, whatever its interval: the bootstrap does not know this floor.
    """
    return np.asarray(np.asarray(dcor) <= np.asarray(null_95))


def _test_columns(metric: str) -> list[str]:
    """Columns of a metric's difference from the reference."""
    return [f"{metric}_{part}" for part in ("difference", "difference_low", "difference_high", "p", "p_holm")]
