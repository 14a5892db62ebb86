"""The distribution comparison (`mjd.evaluation.comparison`) as an analysis."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa

from mjd.analyses.base import Analysis, AnalysisJob
from mjd.evaluation import comparison
from mjd.io import read_provenance
from mjd.labels import LabelSet


class DistributionComparison(Analysis):
    """How far each system's distributions are from the human ones."""

    digits = 5

    def schema(self, labels: LabelSet) -> pa.Schema:
        return comparison.schema()

    def run(self, job: AnalysisJob) -> pd.DataFrame:
        systems = job.systems()
        return comparison.compare(
            job.train_items(),
            systems,
            job.distributions(),
            job.labels,
            job.statistics,
            job.params["seed"],
            job.data_set,
            _temperatures([s.slug for s in systems], job.paths("distributions")),
            job.drops,
        )

    def for_people(self, table: pd.DataFrame) -> pd.DataFrame:
        return comparison.for_people(table)


def _temperatures(slugs: list[str], paths: list[str]) -> dict[str, list[float]]:
    """Softmax temperatures by system, where the provenance of its distributions has any: one, or one a fold."""
    applied = {slug: read_provenance(path).get("transform", {}) for slug, path in zip(slugs, paths, strict=True)}
    return {
        slug: how.get("temperatures", [how["temperature"]]) for slug, how in applied.items() if "temperature" in how
    }
