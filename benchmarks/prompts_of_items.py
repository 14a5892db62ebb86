"""Prompts that the benchmarks score: real items where the public files can be had, else the sample."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import pandas as pd

from mjd import registry
from mjd.config.data import source_ids
from mjd.config.files import read_config
from mjd.config.schema import Config
from mjd.data.download import fetch_source, mirror_directory
from mjd.data.loaders import load_items
from mjd.estimators.item_prompts import PromptSettings, item_prompts
from mjd.prompts.templates import ScorePrompt

log = logging.getLogger(__name__)


def read_items(path: str | None, downloads: Path) -> tuple[Config, pd.DataFrame, pd.DataFrame]:
    """A configuration, its training items and their human explanations.

    Args:
        path: configuration file; None is config/public.yaml where a mirror is named (MJD_MIRROR), else the sample.
        downloads: directory for the public files.
    """
    if path is None:
        path = "config/public.yaml" if mirror_directory(None) else "config/config.yaml"
    config = read_config(path)
    sources = registry.sources()
    mirror = mirror_directory(config.mirror)
    directories = {name: downloads / name for name in source_ids(config.data.items.loader)}
    for name, directory in directories.items():
        if not directory.exists():
            fetch_source(sources[name], directory, downloads / "blobs", mirror)
    items, human = load_items(config.data.items, config.task, directories, config.limit)
    items = items[items["split"] == "train"].reset_index(drop=True)
    log.info("%s: %d items", config.data.title, len(items))
    return config, items, human


def prompts_of(
    config: Config,
    items: pd.DataFrame,
    explanations: pd.DataFrame | None,
    mode: Literal["implicit", "explicit", "plain"] = "explicit",
    orders: Literal["all", "cyclic"] | int = "all",
) -> list[tuple[str, list[ScorePrompt]]]:
    """Each item's prompts, with all option orders."""
    settings = PromptSettings(config.prompts, config.labels, tuple(config.task.text_fields), mode, orders, config.seed)
    return list(item_prompts(items, explanations, settings))
