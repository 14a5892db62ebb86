"""The prompts of items: every order of their explanations with every order of the options."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from mjd.config.prompts import Prompts
from mjd.errors import DataError
from mjd.labels import LabelSet
from mjd.orders import n_explanation_orders
from mjd.prompts.templates import Explanation, ScorePrompt, first_score_prompt, score_prompts


@dataclass(frozen=True)
class PromptSettings:
    """Everything that decides which prompts an item gets."""

    prompts: Prompts
    labels: LabelSet
    text_fields: tuple[str, ...]
    mode: Literal["implicit", "explicit", "plain"]
    orders: Literal["all", "cyclic"] | int
    seed: int


def item_prompts(
    items: pd.DataFrame,
    explanations: pd.DataFrame | None,
    settings: PromptSettings,
    where: str = "explanations",
    drops: bool = False,
) -> Iterator[tuple[str, list[ScorePrompt]]]:
    """The prompts of each item, items in order.

    Args:
        items: uid and text fields.
        explanations: uid, position, label, text; None when no explanations are shown.
        drops: leave out items without an explanation that the source would show.

    Raises:
        DataError: an item has no explanation although the source shows some.
    """
    for uid, texts, shown in _texts_of_items(items, explanations, settings, where, drops):
        yield (
            uid,
            score_prompts(
                settings.prompts, texts, shown, settings.labels, settings.mode, settings.orders, settings.seed
            ),
        )


def first_prompts(
    items: pd.DataFrame, explanations: pd.DataFrame | None, settings: PromptSettings
) -> Iterator[ScorePrompt]:
    """The first prompt of each item, as `item_prompts` gives it; the others (719 more for 6 labels) are not made."""
    for _, texts, shown in _texts_of_items(items, explanations, settings, "explanations", drops=False):
        yield first_score_prompt(settings.prompts, texts, shown, settings.labels, settings.mode)


def _texts_of_items(
    items: pd.DataFrame, explanations: pd.DataFrame | None, settings: PromptSettings, where: str, drops: bool
) -> Iterator[tuple[str, dict[str, str], list[Explanation]]]:
    """Uid, texts and explanations of each item; arguments and errors as for `item_prompts`."""
    shown = explanations_by_item(explanations)
    if explanations is not None and drops:
        items = items[items["uid"].isin(shown)]
    elif explanations is not None:
        for uid in items["uid"]:
            if uid not in shown:
                raise DataError(
                    f"{where}: item {uid} has no explanation, but this source shows them.",
                    "Add one, or remove the item or the source from the configuration.",
                )
    for item in items.to_dict("records"):
        uid = str(item["uid"])
        texts = {field: str(item[field]) for field in settings.text_fields}
        yield uid, texts, shown.get(uid, [])


def explanations_by_item(explanations: pd.DataFrame | None) -> Mapping[str, list[Explanation]]:
    """Explanations of each item in their listed order; empty for None."""
    if explanations is None:
        return {}
    ordered = explanations.sort_values(["uid", "position"], kind="stable")
    found: dict[str, list[Explanation]] = {}
    for uid, label, text in zip(ordered["uid"], ordered["label"], ordered["text"], strict=True):
        found.setdefault(uid, []).append(Explanation(label, text))
    return found


def n_prompts(items: pd.DataFrame, explanations: pd.DataFrame | None, settings: PromptSettings) -> int:
    """How many prompts `item_prompts` gives, without making them."""
    shown = explanations_by_item(explanations if settings.mode != "plain" else None)
    numbers = (n_explanation_orders(len(shown.get(str(uid), ())), settings.orders) for uid in items["uid"])
    return sum(numbers) * math.factorial(len(settings.labels))
