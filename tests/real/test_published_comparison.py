"""What the public configuration says about every cell of the published tables."""

from __future__ import annotations

import pandas as pd
import pytest

from mjd.config.analyses import Statistics
from mjd.config.data import ItemsData, source_ids
from mjd.config.schema import Config
from mjd.data.items import train_items
from mjd.data.loaders import load_items
from mjd.distributions import from_counts
from mjd.evaluation.comparison import compare
from mjd.reproduction.published_comparison import compare_published, read_published
from mjd.reproduction.published_tables import PUBLISHED_DIR, comparable, read_reading
from mjd.systems import distribution_systems
from tests.real.conftest import SourceDirectory

pytestmark = pytest.mark.real

N_CELLS = 386
REPRODUCED = {
    ("ChaosNLI HJD", "kl"),
    ("ChaosNLI HJD", "js_distance"),
    ("ChaosNLI HJD", "tvd"),
    ("ChaosNLI HJD", "dcorr"),
    ("VariErr dist.", "kl"),
    ("VariErr dist.", "js_distance"),
    ("VariErr dist.", "dcorr"),
    ("MNLI dist.", "kl"),
    ("MNLI dist.", "dcorr"),
}
DIFFERING = {("VariErr dist.", "tvd"), ("MNLI dist.", "js_distance"), ("MNLI dist.", "tvd")}


@pytest.fixture(scope="module")
def table(source: SourceDirectory, public_config: Config) -> pd.DataFrame:
    labels = public_config.labels
    directories = {name: source(name) for name in source_ids("mjd-estimator")}
    items = train_items(load_items(ItemsData(loader="mjd-estimator"), public_config.task, directories)[0])
    systems = distribution_systems(public_config)
    distances = compare(
        items,
        systems,
        {system.slug: from_counts(items, system.slug, labels) for system in systems},
        labels,
        Statistics(resamples=100),
        1,
        "real",
    )
    reading = read_reading()
    ours = {"distribution_comparison": distances, "finetuning": pd.DataFrame(), "ood": pd.DataFrame()}
    made = comparable(public_config, reading)
    return compare_published(read_published(PUBLISHED_DIR, reading), reading, made, ours, "real")


def test_every_published_cell_has_a_row(table: pd.DataFrame) -> None:
    assert len(table) == N_CELLS
    assert table["published"].notna().all()


def test_human_distributions_are_reproduced(table: pd.DataFrame) -> None:
    found = table[table["status"] == "reproduced"]
    assert set(zip(found["system"], found["column"], strict=True)) == REPRODUCED


def test_cells_that_do_not_follow_from_the_public_data_are_listed_with_the_reason(table: pd.DataFrame) -> None:
    found = table[table["status"] == "differs"]
    assert set(zip(found["system"], found["column"], strict=True)) == DIFFERING
    assert set(found["note"]) == {"does not follow from the public data"}


def test_cells_not_run_say_what_it_would_take(table: pd.DataFrame) -> None:
    rest = table[table["status"] == "not run in this configuration"]
    assert len(rest) == N_CELLS - len(REPRODUCED) - len(DIFFERING)
    assert rest["ours"].isna().all()
    assert (rest["note"] != "").all()
