"""How much probability the option letters hold, and what holds the rest: warnings about first-token scores."""

from __future__ import annotations

import logging

import pandas as pd

log = logging.getLogger(__name__)


def warn_of_low_mass(scores: pd.DataFrame, threshold: float, what: str) -> None:
    """Log a warning when the letters hold less probability than `threshold` on average, with what holds it."""
    mass = scores["label_mass"].mean()
    if mass < threshold:
        log.warning(
            "%s: the letters hold a probability of %.3g on average (below %g for %.0f %% of the prompts); the most "
            "probable first tokens are %s. Scores that leave out most of what the scorer would answer may say little: "
            "see tables/first_token and analyses.label_mass_warning.",
            what,
            mass,
            threshold,
            100 * (scores["label_mass"] < threshold).mean(),
            top_tokens(scores) or "not known",
        )


def top_tokens(scores: pd.DataFrame, n: int = 5) -> str:
    """The most frequent ones among the most probable first tokens, with their shares: `'The' 62 %, ' A' 11 %`."""
    known = scores["top_token"].dropna() if "top_token" in scores else pd.Series(dtype=str)
    shares = known.value_counts(normalize=True).sort_index().sort_values(ascending=False, kind="stable")
    return ", ".join(f"{token!r} {100 * share:.0f} %" for token, share in shares.head(n).items())
