"""Selections made from the published raw answers are the published selections, but for the places named here."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
import pytest

from mjd import registry
from mjd.config.data import ItemsData, source_ids
from mjd.config.schema import Config
from mjd.data.items import train_items
from mjd.data.loaders import load_items
from mjd.reproduction.published_answers import load_published_answers, load_published_selections
from mjd.reproduction.selection_agreement import PublishedSelection, compare_selections
from tests.real.conftest import ROOT, SourceDirectory

pytestmark = pytest.mark.real

N_ITEMS = 341
LEAST = {"first": 337, "longest": 320}
# Items that agree, by set, source and selection; all 341 where nothing is said.
AGREEING = {("llama3", "varierr-lg", "first"): 339, ("llama3", "varierr-lg", "longest"): 339}
# Two items whose annotators gave one label four times, with two candidates: the authors show 1, 2, 1, 1.
DISAGREEING = {("11618c", "candidates used up"), ("97926c", "candidates used up")}

Tables = tuple[pd.DataFrame, pd.DataFrame]


@pytest.fixture(scope="module")
def published(source: SourceDirectory, public_config: Config) -> list[PublishedSelection]:
    task, labels = public_config.task, public_config.labels
    directories = {name: source(name) for name in source_ids("mjd-estimator")}
    items, human_explanations = load_items(ItemsData(loader="mjd-estimator"), task, directories)
    train = train_items(items)
    guided_by = {f"{name}-lg": entry.guided_by for name, entry in task.label_counts.items()}

    def of_all_sets() -> Iterator[PublishedSelection]:
        for name, entry in registry.published(ROOT / "resources/registry").items():
            answers = load_published_answers(entry, source(entry.source), train, labels, task.text_fields)
            chosen = source(str(entry.selections_source))
            yield from load_published_selections(
                name, entry, chosen, answers, train, human_explanations, guided_by, labels, task.text_fields
            )

    return list(of_all_sets())


@pytest.fixture(scope="module")
def tables(published: list[PublishedSelection], public_config: Config) -> Tables:
    return compare_selections(published, public_config.labels, public_config.data.label)


def test_every_published_selection_is_compared(tables: Tables) -> None:
    agreement, _ = tables
    assert len(agreement) == 2 * 3 * 2
    assert set(agreement["n"]) == {N_ITEMS}


def test_published_selections_agree_on_enough_items(tables: Tables) -> None:
    for row in tables[0].itertuples():
        assert row.agreeing >= LEAST[row.selection], row


def test_published_selections_agree_on_as_many_items_as_before(tables: Tables) -> None:
    found = {(row.llm, row.source, row.selection): row.agreeing for row in tables[0].itertuples()}
    assert found == dict.fromkeys(found, N_ITEMS) | AGREEING


def test_published_selections_that_disagree_are_explained(tables: Tables) -> None:
    _, differing = tables
    for _, places in differing.groupby("selection"):
        assert set(zip(places["uid"], places["reason"], strict=True)) == DISAGREEING


def test_line_breaks_explain_what_longest_means_for_gpt4o(
    published: list[PublishedSelection], public_config: Config
) -> None:
    """Plain characters would disagree on 16 to 45 items, all of them ties or one character apart."""
    longest = [one for one in published if one.llm == "gpt4o" and one.selection == "longest"]
    plain = [PublishedSelection(**(vars(one) | {"line_breaks": False})) for one in longest]
    agreement, differing = compare_selections(plain, public_config.labels, public_config.data.label)
    assert dict(zip(agreement["source"], agreement["agreeing"], strict=True)) == {
        "lf": 325,
        "varierr-lg": 305,
        "mnli-lg": 296,
    }
    direct = differing.groupby(["source", "uid"]).head(1)
    assert set(direct["reason"]) <= {"tie in length", "line break in length"}
