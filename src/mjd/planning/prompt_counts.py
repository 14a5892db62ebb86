"""The number of prompts of each item, checked before any LLM works: the orders of 12 explanations never end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import pandas as pd

from mjd.config.data import label_counts_of
from mjd.config.schema import Config
from mjd.errors import DataError
from mjd.explanations.selection import wanted_labels
from mjd.labels import LabelSet
from mjd.orders import Orders, cure, too_many
from mjd.systems import all_orders_systems


def explanations_per_item(
    source: str,
    guided_by: Literal["explanations", "counts"] | None,
    items: pd.DataFrame,
    human_explanations: pd.DataFrame,
    labels: LabelSet,
) -> Mapping[str, int]:
    """How many explanations a prompt of each item shows, by uid.

    Arguments as for `mjd.explanations.selection.wanted_labels`.

    Raises:
        DataError: an item has no human explanation where the source needs one.
    """
    uids = items["uid"].tolist()
    if source == "none":
        return dict.fromkeys(uids, 0)
    if source == "lf":
        return dict.fromkeys(uids, len(labels))
    if guided_by == "counts":
        counts = items[labels.columns(label_counts_of(source))].fillna(0).sum(axis=1).astype(int)
        return dict(zip(uids, counts.tolist(), strict=True))
    wanted = wanted_labels(source, "explanations", items, human_explanations, labels)
    return {uid: len(found) for uid, found in wanted.items()}


def check_prompts_per_item(config: Config, items: pd.DataFrame, human_explanations: pd.DataFrame) -> None:
    """Check that no item has more prompts than `scoring.most_prompts_per_item`; nothing is listed for it.

    Args:
        items: the training items.

    Raises:
        DataError: an item has; the error names the first, its source and the cure.
    """
    for source in config.explanations.sources:
        _check(config, source, config.scoring.orders, items, human_explanations, "")
    some = items.head(config.analyses.convergence_items)
    for source in {str(system.source) for system in all_orders_systems(config)}:
        _check(config, source, "all", some, human_explanations, "analyses.convergence_items scores all orders: ")


def _check(config: Config, source: str, orders: Orders, items: pd.DataFrame, human: pd.DataFrame, why: str) -> None:
    numbers = explanations_per_item(source, config.task.guided_by.get(source), items, human, config.labels)
    most, n_labels = config.scoring.most_prompts_per_item, len(config.labels)
    problems = {n: too_many(n, n_labels, orders, most) for n in set(numbers.values())}
    found = [(uid, n) for uid, n in numbers.items() if problems[n]]
    if not found:
        return
    uid, n = found[0]
    raise DataError(
        f"{why}item {uid}, source {source}: {problems[n]}; {len(found)} of {len(numbers)} items have too many.",
        "Set analyses.convergence_items: 0, name another analyses.convergence_source, or raise "
        "scoring.most_prompts_per_item."
        if why
        else cure(n, n_labels, orders, most),
    )
