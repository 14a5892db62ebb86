"""What the scores depend on beside the item: option order, explanation order, and the option's place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from mjd.analyses.base import Analysis, AnalysisJob
from mjd.config.analyses import Statistics
from mjd.distributions import Floats
from mjd.errors import DataError
from mjd.estimators.aggregation import fill_bounds, fully_crossed, softmax
from mjd.evaluation import statistics as stats
from mjd.labels import LabelSet
from mjd.systems import VARIANT_FIELDS, System

SHARES = ("item", "option_order", "item_option_order", "explanation_order", "residual")


def schema(n_labels: int) -> pa.Schema:
    """Columns of bias.parquet: per scored variant the total variance of the scores and its shares, with intervals.

    Scores are centred over the labels of each prompt (only their differences matter). Shares sum to 1: `item`;
    `option_order`, the same for all items; `item_option_order`, beyond that; `explanation_order` within the item;
    `residual`, explanation order by option order (both null where `n_explanation_orders` is 1). `p_option_1` is the
    mean probability (softmax of the scores) of the option shown first, and so on: 1 / K without a bias for places.
    """
    fields = [pa.field(name, pa.string()) for name in ("system", *VARIANT_FIELDS)]
    fields.append(pa.field("total_variance", pa.float64()))
    for name in SHARES:
        fields += [pa.field(column, pa.float64()) for column in (name, f"{name}_low", f"{name}_high")]
    fields += [pa.field(f"p_option_{place + 1}", pa.float64()) for place in range(n_labels)]
    counts = [pa.field(name, pa.int64()) for name in ("n", "n_prompts", "n_explanation_orders")]
    return pa.schema([*fields, *counts, pa.field("data_set", pa.string())])


@dataclass(frozen=True)
class Design:
    """Scores of items whose explanation and option orders were fully crossed.

    Attributes:
        item_means: [n_items, K], centred scores.
        option_effects: [n_items, n_options, K], mean of each option order minus the item's mean.
        prompts: prompts per item [n_items].
        between_explanations: sum of squares between explanation orders within each item [n_items].
        residual: sum of squares that remains within each item [n_items].
        n_explanation_orders: the largest number of explanation orders of an item.
    """

    item_means: Floats
    option_effects: Floats
    prompts: Floats
    between_explanations: Floats
    residual: Floats
    n_explanation_orders: int


def design(scores: pd.DataFrame, labels: LabelSet) -> Design:
    """Arrange a scores table (schema `scores`) by item, explanation order and option order.

    Raises:
        DataError: an item's explanation and option orders are not fully crossed.
    """
    columns = labels.columns("score")
    orders = sorted(scores["option_order"].unique())
    means, effects, prompts, between, residual, n_orders = [], [], [], [], [], 1
    for uid, rows in scores.groupby("uid", sort=False):
        cube = _cube(rows, orders, columns, str(uid))
        mean = cube.mean(axis=(0, 1))
        by_option, by_explanation = cube.mean(axis=0), cube.mean(axis=1)
        means.append(mean)
        effects.append(by_option - mean)
        prompts.append(cube.shape[0] * cube.shape[1])
        between.append(cube.shape[1] * np.square(by_explanation - mean).sum())
        residual.append(np.square(cube - by_option - by_explanation[:, None] + mean).sum())
        n_orders = max(n_orders, len(cube))
    return Design(
        np.array(means), np.array(effects), np.array(prompts, float), np.array(between), np.array(residual), n_orders
    )


def _cube(rows: pd.DataFrame, orders: Sequence[str], columns: Sequence[str], uid: str) -> Floats:
    """Scores of one item, centred over labels: [n_explanation_orders, n_options, K]."""
    ordered = rows.sort_values(["explanation_order", "option_order"])
    if ordered.groupby("explanation_order")["option_order"].agg(list).map(lambda found: found != list(orders)).any():
        raise DataError(
            f"Scores of item {uid}: explanation and option orders are not fully crossed.",
            "Delete the scores file and run its rule again.",
        )
    values = ordered[list(columns)].to_numpy(np.float64).reshape(-1, len(orders), len(columns))
    return np.asarray(values - values.mean(axis=-1, keepdims=True))


def variance_shares(found: Design, counts: Floats) -> tuple[Floats, Floats]:
    """Total variance [n] and shares [n, 5] (order of `SHARES`) for each row of item counts [n, n_items].

    A row of ones gives the estimate, rows of `stats.resample_counts` its bootstrap samples. Sums of squares are taken
    over labels and weighted by prompts.
    """
    weight = counts * found.prompts
    total_weight = weight.sum(axis=1)
    means, effects = found.item_means, found.option_effects
    grand = weight @ means
    item = weight @ np.square(means).sum(axis=1) - np.square(grand).sum(axis=1) / total_weight
    n_options = effects.shape[1]
    shared = np.einsum("ri,iok->rok", weight, effects)
    option = np.square(shared).sum(axis=(1, 2)) / total_weight / n_options
    within = weight @ np.square(effects).sum(axis=(1, 2)) / n_options
    parts = np.stack(
        [item, option, within - option, counts @ found.between_explanations, counts @ found.residual], axis=1
    )
    total = parts.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return total / total_weight, parts / total[:, None]


def place_probabilities(scores: pd.DataFrame, labels: LabelSet) -> Floats:
    """Mean probability [K] of the option shown first, second, ...: softmax of the scores, temperature 1."""
    p = softmax(scores[labels.columns("score")].to_numpy(np.float64), 1.0)
    shown = np.array([[labels.index(key) for key in order.split(",")] for order in scores["option_order"]])
    return np.asarray(np.take_along_axis(p, shown, axis=1).mean(axis=0))


def bias_table(
    systems: Sequence[System],
    scores: Sequence[pd.DataFrame],
    labels: LabelSet,
    settings: Statistics,
    seed: int,
    data_set: str,
    drops: bool = False,
) -> pd.DataFrame:
    """The table of `schema`, one row a scored variant; intervals by bootstrap over items.

    Args:
        drops: leave out items some of whose prompts were dropped (`unanswered: drop`); `n` shows it; a
            system without a complete item has no row.
        systems: one system a scores table, in the order of `scores`; its estimator does not matter.
        scores: schema `scores`; a second table of a system holds all explanation orders of a few items.
    """
    rows = []
    for system, table in zip(systems, scores, strict=True):
        table, _ = fill_bounds(fully_crossed(table) if drops else table, labels)
        if table.empty:
            continue
        found = design(table, labels)
        n_items = len(found.prompts)
        total, share = variance_shares(found, np.ones((1, n_items)))
        low, high = stats.interval(
            variance_shares(found, stats.resample_counts(n_items, settings.resamples, seed))[1], settings.confidence
        )
        row = {"system": system.title} | {name: getattr(system, name) for name in VARIANT_FIELDS}
        row |= {"total_variance": float(total[0]), "n": n_items, "n_prompts": len(table)}
        row |= {"n_explanation_orders": found.n_explanation_orders}
        for place, name in enumerate(SHARES):
            measured = found.n_explanation_orders > 1 or name not in ("explanation_order", "residual")
            values = (share[0, place], low[place], high[place]) if measured else (np.nan, np.nan, np.nan)
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))
        row |= {f"p_option_{place + 1}": p for place, p in enumerate(place_probabilities(table, labels))}
        rows.append(row)
    table = pd.DataFrame(rows) if rows else pd.DataFrame(columns=schema(len(labels)).names)
    return table.assign(data_set=data_set)


class Bias(Analysis):
    """Variance of the scores by what they depend on: inputs `scores`, and `all_orders` of a few items."""

    def schema(self, labels: LabelSet) -> pa.Schema:
        return schema(len(labels))

    def run(self, job: AnalysisJob) -> pd.DataFrame:
        return bias_table(
            job.systems() + job.systems("all_orders"),
            job.frames("scores") + job.frames("all_orders"),
            job.labels,
            job.statistics,
            job.params["seed"],
            job.data_set,
            job.drops,
        )
