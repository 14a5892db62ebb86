"""The public files are what the registry, the loaders and the documentation say they are."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from mjd import registry, schemas
from mjd.config.data import ItemsData, OodData, PairsData, source_ids
from mjd.config.schema import Config
from mjd.data.loaders import load_items, load_ood, load_pairs
from mjd.data.public import CHAOSNLI_FILE, ITEMS_FILE, read_json_lines, text_key
from mjd.io import to_table
from mjd.reproduction.published_answers import load_published_answers, load_published_selection
from tests.real.conftest import ROOT, SourceDirectory

pytestmark = pytest.mark.real

PUBLISHED = registry.published(ROOT / "resources/registry")
Tables = tuple[pd.DataFrame, pd.DataFrame]


def directories(source: SourceDirectory, loader: str) -> dict[str, Path]:
    return {source_id: source(source_id) for source_id in source_ids(loader)}


@pytest.fixture(scope="module")
def tables(source: SourceDirectory, public_config: Config) -> Tables:
    sources = directories(source, "mjd-estimator")
    return load_items(ItemsData(loader="mjd-estimator"), public_config.task, sources, None)


def test_all_items_are_joined_without_overlap(tables: Tables, source: SourceDirectory) -> None:
    items, _ = tables
    assert items["split"].value_counts().to_dict() == {"train": 341, "dev": 629, "test": 629}
    assert items["uid"].is_unique
    chaos = {record["uid"] for record in read_json_lines(source("chaosnli-mnli") / CHAOSNLI_FILE)}
    assert set(items["uid"]) == chaos
    assert len(chaos) == 1599


def test_train_items_keep_the_published_order_and_hjd(
    tables: Tables, source: SourceDirectory, public_config: Config
) -> None:
    train = tables[0].query("split == 'train'")
    records = read_json_lines(source("mjd-estimator-items") / ITEMS_FILE)
    assert [text_key(*row) for row in train[["premise", "hypothesis"]].to_numpy()] == [
        text_key(record["premise"], record["hypothesis"]) for record in records
    ]
    assert train[public_config.labels.columns("hjd")].to_numpy().tolist() == [
        record["chaos probs"] for record in records
    ]


def test_every_hjd_has_100_votes_behind_it(tables: Tables) -> None:
    assert tables[0]["n_votes"].tolist() == [100] * 1599


@pytest.mark.parametrize("split", ["dev", "test"])
def test_hjd_of_dev_and_test_is_the_published_label(
    tables: Tables, source: SourceDirectory, public_config: Config, split: str
) -> None:
    items = tables[0].query("split == @split")
    records = read_json_lines(source("mjd-estimator-splits") / f"MJD-fine-tuning/data/chaos_dev_test/{split}.json")
    assert items[public_config.labels.columns("hjd")].to_numpy().tolist() == [record["label"] for record in records]


def test_label_counts_equal_the_votes_and_explanations_of_the_sources(
    tables: Tables, source: SourceDirectory, public_config: Config
) -> None:
    items, explanations = tables
    labels = public_config.labels
    train = items.query("split == 'train'").set_index("uid")
    chaos = {record["uid"]: record for record in read_json_lines(source("chaosnli-mnli") / CHAOSNLI_FILE)}
    for uid, row in train[labels.columns("mnli")].iterrows():
        votes = Counter(vote[0] for vote in chaos[str(uid)]["old_labels"])
        assert row.tolist() == [votes[key] for key in labels.keys]
    written = explanations.groupby(["uid", "label"]).size().unstack(fill_value=0).loc[train.index, list(labels.keys)]
    assert (train[labels.columns("varierr")].to_numpy() == written.to_numpy()).all()
    assert items.query("split != 'train'")[labels.columns("mnli")].isna().all(axis=None)


def test_human_explanations_have_the_papers_number_a_label(tables: Tables) -> None:
    _, explanations = tables
    to_table(explanations, schemas.human_explanations())
    assert len(explanations) == 4 * 341
    assert explanations["label"].value_counts().to_dict() == {"n": 703, "e": 375, "c": 286}


def test_varierr_names_every_explanations_annotator(
    tables: Tables, source: SourceDirectory, public_config: Config
) -> None:
    """All 1,364 explanations are found in VariErr, by uid, label and text."""
    varierr = {record["id"]: record for record in read_json_lines(source("varierr") / "varierr.json")}
    assert len(varierr) == 500
    for row in tables[1].itertuples():
        reasons = varierr[row.uid][public_config.labels[str(row.label)].name]
        assert [entry["annotator"] for entry in reasons if entry["reason"].strip() == row.text]


def test_anli_dev_has_its_rounds_and_labels(source: SourceDirectory, public_config: Config) -> None:
    ood = load_ood(OodData(loader="anli-dev"), public_config.task, directories(source, "anli-dev"), None)
    assert ood.groupby("round").size().to_dict() == {"R1": 1000, "R2": 1000, "R3": 1198}
    assert ood.groupby(["round", "label"]).size().xs("R1").to_dict() == {"c": 333, "e": 334, "n": 333}
    to_table(ood, schemas.ood(public_config.task.text_fields))


def test_esnli_has_its_pairs_of_dev_and_test(source: SourceDirectory, public_config: Config) -> None:
    pairs = load_pairs(PairsData(loader="esnli"), public_config.task, directories(source, "esnli"))
    splits = pairs["uid"].str.split("-").str[1]
    assert splits.value_counts().to_dict() == {"dev": 9842, "test": 9824}
    assert pairs.iloc[0].tolist()[2:] == [
        "The sisters are hugging goodbye while holding to go packages after just eating lunch .",
        "n",
    ]


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_answers_of_a_set_are_one_an_item_and_label(
    tables: Tables, source: SourceDirectory, public_config: Config, name: str
) -> None:
    published, labels = PUBLISHED[name], public_config.labels
    directory = source(published.source)
    answers = load_published_answers(published, directory, tables[0], labels, public_config.task.text_fields)
    assert len(answers) == 1023
    assert not answers.duplicated(["uid", "label"]).any()
    assert not answers["text"].str.contains(r"<\|", regex=True).any()
    first = tables[0].groupby("split").head(5)
    assert load_published_answers(published, directory, first, labels, public_config.task.text_fields).equals(
        answers[:15]
    )


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_selections_of_a_set_stand_in_its_answers(
    tables: Tables, source: SourceDirectory, public_config: Config, name: str
) -> None:
    published, (items, explanations), labels = PUBLISHED[name], tables, public_config.labels
    directory = source(str(published.selections_source))
    answers = load_published_answers(published, source(published.source), items, labels, public_config.task.text_fields)
    raw = {(uid, label): text for uid, label, text in answers.to_numpy()}
    sizes = {"lf": 3, "varierr-lg": 4, "mnli-lg": 5}
    for selection, path in published.selections.items():
        found = load_published_selection(directory / path, items, labels, public_config.task.text_fields)
        to_table(found, schemas.explanations())
        assert len(found) == 341 * sizes[selection.rsplit("-", 1)[0]], selection
        # Answers and selections belong to the same items: what was selected stands in the answer.
        stands = [text_key(text)[0] in text_key(raw[uid, label])[0] for uid, _, label, text in found.to_numpy()]
        assert sum(stands) / len(stands) > 0.99, selection
        if selection.startswith("varierr"):
            assert found[["uid", "position", "label"]].equals(explanations[["uid", "position", "label"]])


def test_validated_explanations_are_fetched(source: SourceDirectory) -> None:
    (sheet,) = (source("validated-llama3") / "Model-Explanation").glob("*.xlsx")
    assert sheet.read_bytes()[:2] == b"PK"


def test_no_source_is_stored_in_the_repository(source: SourceDirectory) -> None:
    """Upstream data are never committed: no registry file holds a record of them."""
    premise = json.loads((source("mjd-estimator-items") / ITEMS_FILE).read_text(encoding="utf-8").splitlines()[0])[
        "premise"
    ]
    for path in [*(ROOT / "resources").rglob("*.*"), *registry.RESOURCES.rglob("*.*")]:
        assert premise not in path.read_text(encoding="utf-8"), path
