"""The interface of analyses: tables, and figures, that are made from other artifacts alone."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from mjd.config.analyses import Statistics
from mjd.data.items import train_items
from mjd.io import read_parquet
from mjd.labels import LabelSet, label_set
from mjd.settings import check
from mjd.systems import System, decode


@dataclass(frozen=True)
class AnalysisJob:
    """What the job of an analysis works on: the input files and params of its entry in `mjd.analyses.specs`.

    Attributes:
        inputs: a path, or a list of paths, by name.
        params: as its entry gives them, with `labels` and `data_set`.
        drops: whether prompts without a usable reply were dropped (`unanswered: drop`), so that MJDs may lack items.
    """

    inputs: Mapping[str, Any]
    params: Mapping[str, Any]
    drops: bool = False

    @cached_property
    def labels(self) -> LabelSet:
        return label_set(self.params["labels"])

    @property
    def data_set(self) -> str:
        """The data set's name, which every table has as a column."""
        return str(self.params["data_set"])

    @property
    def statistics(self) -> Statistics:
        return check(Statistics, self.params["statistics"], "statistics")

    def systems(self, name: str = "systems") -> list[System]:
        """The systems of a param."""
        return decode(self.params[name])

    def paths(self, name: str) -> list[str]:
        """The paths of an input that is a list."""
        return [str(path) for path in self.inputs[name]]

    def frame(self, name: str) -> pd.DataFrame:
        """The Parquet file of an input that is one path; raises `DataError`."""
        return read_parquet(str(self.inputs[name]))

    def frames(self, name: str) -> list[pd.DataFrame]:
        """The Parquet files of an input that is a list; raises `DataError`."""
        return [read_parquet(path) for path in self.paths(name)]

    def train_items(self) -> pd.DataFrame:
        """The training items, from the input `data_items`."""
        return train_items(self.frame("data_items"))

    def distributions(self) -> dict[str, pd.DataFrame]:
        """The distributions of each system by its slug, from the input `distributions`."""
        return dict(zip([s.slug for s in self.systems()], self.frames("distributions"), strict=True))


class Analysis(ABC):
    """A table made from other artifacts: no LLM, no training.

    `run` and `schema` are all that an analysis must have; the others say how its table is shown. Its name, inputs and
    params are in its entry in `mjd.analyses.specs`, which rules read without importing it.
    """

    digits: int = 4
    """Decimals of its CSV."""

    @abstractmethod
    def schema(self, labels: LabelSet) -> pa.Schema:
        """Columns of its Parquet table."""

    @abstractmethod
    def run(self, job: AnalysisJob) -> pd.DataFrame:
        """The table.

        Raises:
            MjdError: an input cannot be read, or holds nothing to analyse.
        """

    def for_people(self, table: pd.DataFrame) -> pd.DataFrame:
        """Rows and columns of its CSV: those of the table, unless the analysis says otherwise."""
        return table

    def plot(self, table: pd.DataFrame, job: AnalysisJob, paths: Sequence[Path]) -> None:
        """Draw its figure into files of several formats; called if its entry names a `figure`."""
        raise NotImplementedError(f"{type(self).__name__} draws no figure")


def build_analysis(implementation: str) -> Analysis:
    """The analysis of an entry's `module:class`; its module is imported."""
    module, _, name = implementation.partition(":")
    found: Analysis = getattr(importlib.import_module(module), name)()
    return found
