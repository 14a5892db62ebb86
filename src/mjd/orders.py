"""How many orders of explanations and options there are: computed, never listed. Light: the configuration asks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Literal

Orders = Literal["all", "cyclic"] | int

# Up to here numbers are written out; beyond it their power of ten is enough.
_WRITTEN_OUT = 10**12


def n_explanation_orders(n: int, orders: Orders) -> int:
    """Number of orders that `mjd.prompts.templates.explanation_orders` gives for n explanations."""
    if n == 0:
        return 1
    if orders == "cyclic":
        return n
    return math.factorial(n) if orders == "all" else min(orders, math.factorial(n))


def n_distinct_orders(shown: Sequence[Hashable]) -> int:
    """Orders of `shown` that differ, n! / (m_1! m_2! ...): equal values make equal orders."""
    return math.factorial(len(shown)) // math.prod(math.factorial(m) for m in Counter(shown).values())


def n_distinct_rotations(shown: Sequence[Hashable]) -> int:
    """Rotations of `shown` that differ."""
    listed = tuple(shown)
    return next((i for i in range(1, len(listed)) if listed[i:] + listed[:i] == listed), max(len(listed), 1))


def too_many(n_explanations: int, n_labels: int, orders: Orders, most: int) -> str | None:
    """What is wrong where an item would have more than `most` prompts; None where it has not.

    An item has a prompt for each order of its explanations and each of the `n_labels`! orders of its options.
    """
    n_options = math.factorial(n_labels)
    # n! passes every limit long before it is slow to compute.
    some = n_explanations if orders == "cyclic" else min(n_explanations, most + 1, 1000)
    if n_explanation_orders(some, orders) * n_options <= most:
        return None
    number = n_explanation_orders(some, orders)
    exponent = math.lgamma(n_explanations + 1) / math.log(10) if orders == "all" else math.log10(number)
    listed, whole = _written(number, exponent), _written(number * n_options, exponent + math.log10(n_options))
    return (
        f"{n_explanations} explanations in {listed} orders, each with {n_options} orders of the options, are {whole} "
        f"prompts an item, more than scoring.most_prompts_per_item ({most:,})"
    )


def cure(n_explanations: int, n_labels: int, orders: Orders, most: int) -> str:
    """What to do about too many prompts of `scoring.orders`."""
    n_options = math.factorial(n_labels)
    if orders != "cyclic" and n_explanations * n_options <= most:
        return (
            f"Set scoring.orders: cyclic ({n_explanations * n_options:,} prompts an item) or a small number, or raise "
            "scoring.most_prompts_per_item."
        )
    fewer = f"Set scoring.orders to at most {most // n_options}, or raise" if n_options <= most else "Raise"
    return f"{fewer} scoring.most_prompts_per_item."


def _written(number: int, exponent: float) -> str:
    return f"{number:,}" if number < _WRITTEN_OUT else f"about 10^{exponent:.0f}"
