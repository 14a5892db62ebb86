"""Gold numbers: distances of the real label distributions from the HJD of the 341 items."""

from __future__ import annotations

import pandas as pd
import pytest

from mjd.config.data import source_ids
from mjd.config.schema import Config
from mjd.data.loaders import load_items
from mjd.distributions import aligned, from_counts, uniform
from mjd.evaluation.comparison import bootstrap
from mjd.evaluation.statistics import resample_counts
from tests.real.conftest import SourceDirectory

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def items(source: SourceDirectory, public_config: Config) -> pd.DataFrame:
    data = public_config.data.items
    found, _ = load_items(data, public_config.task, {name: source(name) for name in source_ids(data.loader)})
    return found[found["split"] == "train"].reset_index(drop=True)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("varierr", {"kl": 3.60366, "js_distance": 0.28215, "tvd": 0.28581, "dcor": 0.68816}),
        ("mnli", {"kl": 1.24249, "js_distance": 0.20921, "tvd": 0.21472, "dcor": 0.79494}),
        ("uniform", {"kl": 0.36490, "js_distance": 0.30701, "tvd": 0.35050}),
    ],
)
def test_published_distributions_score_the_papers_numbers(
    items: pd.DataFrame, public_config: Config, name: str, expected: dict[str, float]
) -> None:
    labels = public_config.labels
    human = aligned(items["uid"], from_counts(items, "hjd", labels), labels, "hjd")
    frame = uniform(items, labels) if name == "uniform" else from_counts(items, name, labels)
    model = aligned(items["uid"], frame, labels, name)
    found = bootstrap(human, model[None], resample_counts(len(items), 100, 1)).estimate
    assert {metric: round(float(found[metric][0]), 5) for metric in expected} == pytest.approx(expected, abs=1.1e-5)
