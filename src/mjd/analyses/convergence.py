"""How many explanation orders are enough: the error of an MJD made from some of them against the MJD of all."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa

from mjd.analyses.base import Analysis, AnalysisJob
from mjd.config.analyses import Statistics
from mjd.distributions import Floats
from mjd.errors import DataError
from mjd.estimators.aggregation import fill_bounds, fully_crossed, softmax
from mjd.evaluation import statistics as stats
from mjd.evaluation.metrics import distance_correlation, kl_divergence, total_variation_distance
from mjd.figures import COLOURS, MARKERS, figure
from mjd.labels import LabelSet
from mjd.prompts.templates import explanation_orders
from mjd.systems import System

log = logging.getLogger(__name__)

# Draws of orders (seeds of `scoring.orders: N`) for each number of them; their mean is reported.
DRAWS = 100
ONE_PROMPT = "one prompt"


def schema() -> pa.Schema:
    """Columns of convergence.parquet: per scorer and `orders` (one prompt, and values of `scoring.orders`).

    `tvd_to_all` is the total variation distance from the MJD of all orders, mean over items and `n_draws` seeds, with
    a bootstrap interval over items; `error_removed` the share of the error of one random prompt that is gone;
    `kl_to_human` KL from the HJD in nats and `dcor_to_human` the distance correlation with it, both means over seeds
    and null without HJDs. An order's noise can be small beside the distance to uniform and still hide how items
    differ: look at `dcor_to_human` too.
    """
    texts = [pa.field(name, pa.string()) for name in ("scorer", "source", "mode", "orders")]
    tvd = ("tvd_to_all", "tvd_to_all_low", "tvd_to_all_high")
    numbers = ("temperature", *tvd, "error_removed", "kl_to_human", "dcor_to_human")
    counts = [pa.field(name, pa.int64()) for name in ("n_prompts", "n_draws", "n")]
    return pa.schema(
        [*texts, *(pa.field(name, pa.float64()) for name in numbers), *counts, pa.field("data_set", pa.string())]
    )


@dataclass(frozen=True)
class AllOrders:
    """Distributions of every prompt of items with equally many explanations.

    Attributes:
        p: [n_items, n_explanation_orders, n_option_orders, K].
        explanation_orders: the orders along axis 1.
        human: HJDs [n_items, K], NaN where unknown.
    """

    p: Floats
    explanation_orders: list[tuple[int, ...]]
    human: Floats


def of_complete_items(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores of the items whose every explanation order has one with every option order; a warning counts the others.

    A dropped explanation order (`unanswered: drop`) would make the place of one order that of another.
    """
    crossed = fully_crossed(scores)
    orders = crossed.groupby("uid")["explanation_order"]
    expected = (orders.transform("first").str.count(",") + 1).map(math.factorial)
    whole = crossed[orders.transform("nunique") == expected]
    if missing := crossed["uid"].nunique() - whole["uid"].nunique():
        log.warning("%d items lack explanation orders and are left out here", missing)
    return whole


def arrange(scores: pd.DataFrame, items: pd.DataFrame, labels: LabelSet, temperature: float) -> AllOrders:
    """Arrange scores of all orders (schema `scores`) by item, keeping items with the most common number of orders.

    Raises:
        DataError: items have no explanation orders to compare.
    """
    filled, _ = fill_bounds(of_complete_items(scores), labels)
    ordered = filled.sort_values(["uid", "explanation_order", "option_order"], kind="stable")
    sizes = ordered.groupby("uid")["explanation_order"].nunique()
    n_orders = int(sizes.mode().max()) if len(sizes) else 0
    if n_orders < 2:
        raise DataError(
            "The convergence analysis needs items with at least two explanations.",
            "Choose another analyses.convergence_source, or set analyses.convergence_items to 0.",
        )
    kept = ordered[ordered["uid"].map(sizes) == n_orders]
    uids = kept["uid"].unique()
    p = softmax(kept[labels.columns("score")].to_numpy(np.float64), temperature)
    orders = [tuple(map(int, order.split(","))) for order in kept["explanation_order"].unique()]
    human = items.set_index("uid")[labels.columns("hjd")].reindex(uids).to_numpy(np.float64)
    return AllOrders(p.reshape(len(uids), n_orders, -1, len(labels)), orders, human)


def convergence_rows(found: AllOrders, settings: Statistics, seed: int) -> pd.DataFrame:
    """Rows of `schema` without the columns that name the scorer: one random prompt, then 1, 2, ..., cyclic, all.

    They are the orders of `mjd.prompts.templates.explanation_orders`, each with all option orders, as `scoring.orders`
    has them.
    """
    n_items, n_orders, n_options, _ = found.p.shape
    by_order = found.p.mean(axis=2)
    whole = by_order.mean(axis=1)
    counts = stats.resample_counts(n_items, settings.resamples, seed)
    random = np.random.default_rng(seed)
    place = {order: index for index, order in enumerate(found.explanation_orders)}
    n_explanations = len(found.explanation_orders[0])
    flat = found.p.reshape(n_items, n_orders * n_options, -1)
    single = np.stack([flat[np.arange(n_items), random.integers(flat.shape[1], size=n_items)] for _ in range(DRAWS)])
    rows = [_row(ONE_PROMPT, single, whole, found.human, counts, settings.confidence) | {"n_prompts": 1}]
    settings_of_orders: list[Literal["all", "cyclic"] | int] = [*_sizes(n_orders), "cyclic", "all"]
    for orders in settings_of_orders:
        seeds = range(seed, seed + DRAWS) if isinstance(orders, int) and orders > 1 else [seed]
        drawn = [[place[order] for order in explanation_orders(n_explanations, orders, one)] for one in seeds]
        judged = np.stack([by_order[:, chosen].mean(axis=1) for chosen in drawn])
        row = _row(str(orders), judged, whole, found.human, counts, settings.confidence)
        rows.append(row | {"n_prompts": len(drawn[0]) * n_options})
    table = pd.DataFrame(rows)
    return table.assign(error_removed=1 - table["tvd_to_all"] / table["tvd_to_all"].iloc[0], n=n_items)


def convergence_table(
    systems: Sequence[System],
    scores: Sequence[pd.DataFrame],
    items: pd.DataFrame,
    labels: LabelSet,
    temperature: float,
    settings: Statistics,
    seed: int,
    data_set: str,
) -> pd.DataFrame:
    """The table of `schema` from scores of all orders, one system a scorer, in the order of `scores`."""
    parts = []
    for system, table in zip(systems, scores, strict=True):
        if of_complete_items(table).empty:  # each of the few items lacks a dropped prompt
            continue
        rows = convergence_rows(arrange(table, items, labels, temperature), settings, seed)
        parts.append(rows.assign(scorer=system.scorer, source=system.source, mode=system.mode))
    if not parts:
        return pd.DataFrame(columns=schema().names)
    whole = pd.concat(parts, ignore_index=True).assign(temperature=temperature, data_set=data_set)
    return whole[list(schema().names)]


def _sizes(n_orders: int) -> Sequence[int]:
    """1, 2, 3, 4, 6, 8, 12, 16, 24, ... below `n_orders`."""
    steps = {1} | {base * 2**power for base in (2, 3) for power in range(10)}
    return sorted(step for step in steps if step < n_orders)


def _row(
    orders: str, judged: Floats, whole: Floats, human: Floats, counts: Floats, confidence: float
) -> dict[str, float | str | int]:
    """One row from MJDs [n_draws, n_items, K]."""
    errors = np.mean([total_variation_distance(whole, draw) for draw in judged], axis=0)
    low, high = stats.interval(stats.resampled_means(errors, counts), confidence)
    known = ~np.isnan(human).any(axis=1)
    to_human = [kl_divergence(human[known], draw[known]).mean() for draw in judged] if known.any() else [np.nan]
    correlations = [distance_correlation(human[known], draw[known]) for draw in judged]
    return {
        "orders": orders,
        "tvd_to_all": float(errors.mean()),
        "tvd_to_all_low": float(low),
        "tvd_to_all_high": float(high),
        "kl_to_human": float(np.mean(to_human)),
        "dcor_to_human": float(np.mean(correlations)),
        "n_draws": len(judged),
    }


def plot_convergence(table: pd.DataFrame, titles: Mapping[str, str], paths: Sequence[Path]) -> None:
    """Error of the MJD against the number of prompts, one line a scorer, with intervals over items.

    Args:
        table: the table of `schema`.
        titles: scorer -> title.
        paths: files to write.
    """
    about = "no item is complete"
    if len(table):
        about = f"{table['data_set'].iloc[0]}, n = {int(table['n'].max())} items"
    with figure(paths, f"How many explanation orders are enough?\n{about}") as (_, axes):
        for index, (scorer, rows) in enumerate(table.groupby("scorer", sort=False)):
            line = rows[~rows["orders"].isin(("cyclic", "all"))]
            colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
            name = titles.get(str(scorer), str(scorer))
            axes.plot(line["n_prompts"], line["tvd_to_all"], color=colour, marker=marker, label=f"{name}: N orders")
            low, high = line["tvd_to_all_low"], line["tvd_to_all_high"]
            axes.fill_between(line["n_prompts"], low, high, color=colour, alpha=0.15, linewidth=0)
            cyclic = rows[rows["orders"] == "cyclic"]
            axes.plot(
                cyclic["n_prompts"],
                cyclic["tvd_to_all"],
                color=colour,
                marker="*",
                markersize=13,
                linestyle="none",
                label=f"{name}: cyclic",
            )
            for row in line.itertuples():
                text = "1 prompt" if row.orders == ONE_PROMPT else str(row.orders)
                axes.annotate(text, (row.n_prompts, row.tvd_to_all), (5, 5), textcoords="offset points", fontsize=8)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("prompts scored an item (labels: explanation orders, each with all option orders)")
        axes.set_ylabel("total variation distance to the MJD of all orders")
        axes.legend(frameon=False, fontsize=9)


class Convergence(Analysis):
    """Error of MJDs of some orders against that of all: input `scores` of all orders, one table a scorer."""

    digits = 5

    def schema(self, labels: LabelSet) -> pa.Schema:
        return schema()

    def run(self, job: AnalysisJob) -> pd.DataFrame:
        return convergence_table(
            job.systems(),
            job.frames("scores"),
            job.train_items(),
            job.labels,
            job.params["temperature"],
            job.statistics,
            job.params["seed"],
            job.data_set,
        )

    def plot(self, table: pd.DataFrame, job: AnalysisJob, paths: Sequence[Path]) -> None:
        plot_convergence(table, job.params["titles"], paths)
