"""Frames of items (schema `mjd.schemas.items`)."""

from __future__ import annotations

import pandas as pd


def train_items(items: pd.DataFrame) -> pd.DataFrame:
    """The items that LLMs explain and judge: those of the training split."""
    return items[items["split"] == "train"].reset_index(drop=True)
