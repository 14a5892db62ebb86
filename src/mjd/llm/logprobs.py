"""Log-probabilities that a model can mean, and the sentinels that APIs write in their place."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

# The least log-probability that a model can mean: e^-100 lies below the normal numbers of float32, in which softmax is
# computed. APIs write -100, -1000 or -9999 for a token that they do not list.
LOWEST_LOGPROB = -100.0
# What rounding may add to a log-probability of 0, and to a sum of probabilities of 1.
ROUNDING = 0.01


def is_meant(logprob: float) -> bool:
    """True for a number that a model can mean as a log-probability."""
    return math.isfinite(logprob) and LOWEST_LOGPROB < logprob <= ROUNDING


def is_usable_score(reply: Mapping[str, Any]) -> bool:
    """False for a stored score with numbers that no model means: earlier versions kept those."""
    if reply.get("kind") != "logprob":
        return True
    given = [*reply["scores"], *([reply.get("bound")] if None in reply["scores"] else [])]
    return all(is_meant(float(score)) for score in given if score is not None)
