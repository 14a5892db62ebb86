"""Published answers and selections find an item's texts by the names of the task's text fields."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from mjd.errors import DataError
from mjd.labels import LabelSet
from mjd.registry import PublishedSet
from mjd.reproduction.published_answers import load_published_answers, load_published_selection

FIELDS = ["premise", "hypothesis"]
PUBLISHED = PublishedSet(
    title="Someone",
    source="s",
    answers="raw/{index}/{label}",
    labels={"e": "E", "n": "N", "c": "C"},
    answer_after="assistant:",
)
# Further texts, and the text fields in another order than the task's.
ITEMS = pd.DataFrame(
    {
        "genre": ["fiction", "travel", "letters"],
        "uid": ["i1", "i2", "d1"],
        "hypothesis": ["H one.", "H two.", "H dev."],
        "source_url": ["a", "b", "c"],
        "premise": ["P one.", "P two.", "P dev."],
        "split": ["train", "train", "dev"],
    }
).assign(hjd_c=0.2, hjd_e=0.5, hjd_n=0.3, note="not shown to anyone")


def test_load_published_answers_items_with_further_texts_in_another_order_are_checked_by_field(
    tmp_path: Path, nli_labels: LabelSet
) -> None:
    for index, name in enumerate(("one", "two")):
        for label in "ENC":
            path = tmp_path / f"raw/{index}/{label}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"user: P {name}. H {name}. assistant: * {name} {label}")
    found = load_published_answers(PUBLISHED, tmp_path, ITEMS, nli_labels, FIELDS)
    assert found.to_dict("list") == {
        "uid": ["i1", "i1", "i1", "i2", "i2", "i2"],
        "label": [*"enc", *"enc"],
        "text": [f"* {name} {label}" for name in ("one", "two") for label in "ENC"],
    }


def test_load_published_selection_items_with_further_texts_in_another_order_are_joined_by_field(
    tmp_path: Path, nli_labels: LabelSet
) -> None:
    records = [
        {"premise": f"P {name}.", "hypothesis": f"H {name}.", "machine_comments": [[f"because {name}", "n"]]}
        for name in ("two", "one")
    ]
    path = tmp_path / "selection.json"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    found = load_published_selection(path, ITEMS, nli_labels, FIELDS)
    assert found[["uid", "label", "text"]].to_numpy().tolist() == [
        ["i1", "n", "because one"],
        ["i2", "n", "because two"],
    ]
    with pytest.raises(DataError, match="has no selection for item 'i1'"):
        load_published_selection(path, ITEMS, nli_labels, FIELDS[::-1])


def test_load_published_selection_task_with_one_text_is_refused(tmp_path: Path, nli_labels: LabelSet) -> None:
    with pytest.raises(DataError, match=r"task\.text_fields names 1"):
        load_published_selection(tmp_path / "selection.json", ITEMS, nli_labels, ["premise"])
