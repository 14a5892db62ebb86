"""Published answers and selections are those of the item, the label and the texts that they name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mjd import schemas
from mjd.errors import DataError
from mjd.io import to_table
from mjd.labels import LabelSet, label_set
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

LLAMA = PublishedSet(
    title="Llama3",
    source="s",
    answers="raw/{index}/{label}",
    labels={"e": "E", "n": "N", "c": "C"},
    answer_after="assistant<|end|>",
    answer_before="<|eot|>",
)
# As published: items of all splits, answers to those of train, numbered in their order.
IN_SPLITS = pd.DataFrame(
    {
        "uid": ["u-one", "u-two", "u-dev", "u-test"],
        "premise": ["P one.", "P two.", "P dev.", "P test."],
        "hypothesis": "H.",
        "split": ["train", "train", "dev", "test"],
    }
)


def json_lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    for index, name in enumerate(("one", "two")):
        for label in "ENC":
            path = tmp_path / f"raw/{index}/{label}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"user<|eot|>P  {name}. H.<|eot|>assistant<|end|>\n\n* {name} {label}\n<|eot|>")
    return tmp_path


def test_published_answers_are_read_by_item_and_label(answers: Path, nli_labels: LabelSet) -> None:
    found = load_published_answers(LLAMA, answers, IN_SPLITS, nli_labels, FIELDS)
    assert found.to_numpy().tolist() == [
        [f"u-{name}", key, f"* {name} {key.upper()}"] for name in ("one", "two") for key in "enc"
    ]
    first = IN_SPLITS.groupby("split").head(1).reset_index(drop=True)
    assert load_published_answers(LLAMA, answers, first, nli_labels, FIELDS).equals(found[:3])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"raw/1/N, a published answer, does not exist"),
        ("P two. H.", r"raw/1/N lacks 'assistant<\|end\|>'"),
        ("P one. H. assistant<|end|>x", r"raw/1/N answers another item: its prompt lacks 'P two\.'"),
        ("P two. H. assistant<|end|> <|eot|>", r"raw/1/N holds no answer"),
    ],
)
def test_bad_published_answers_are_refused(
    answers: Path, nli_labels: LabelSet, content: str | None, message: str
) -> None:
    path = answers / "raw/1/N"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(DataError, match=message):
        load_published_answers(LLAMA, answers, IN_SPLITS, nli_labels, FIELDS)


def test_published_answers_without_a_label_are_refused(answers: Path) -> None:
    labels = label_set([{"key": "yes", "name": "yes"}, {"key": "no", "name": "no"}])
    with pytest.raises(DataError, match="Published set Llama3 has no answers for label 'yes'"):
        load_published_answers(LLAMA, answers, IN_SPLITS, labels, FIELDS)


def test_published_selection_joins_by_text(tmp_path: Path, nli_labels: LabelSet) -> None:
    records = [
        {"premise": f"P {name}.", "hypothesis": "H.", "machine_replaced_comments": [[f"{name} \n", "c"], ["x", "e"]]}
        for name in ("two", "other", "one")
    ]
    json_lines(tmp_path / "selection.json", records)
    found = load_published_selection(tmp_path / "selection.json", IN_SPLITS, nli_labels, FIELDS)
    to_table(found, schemas.explanations())
    assert found.to_numpy().tolist() == [
        ["u-one", 0, "c", "one"],
        ["u-one", 1, "e", "x"],
        ["u-two", 0, "c", "two"],
        ["u-two", 1, "e", "x"],
    ]
    json_lines(tmp_path / "selection.json", records[:2])
    with pytest.raises(DataError, match="has no selection for item 'u-one'"):
        load_published_selection(tmp_path / "selection.json", IN_SPLITS, nli_labels, FIELDS)
    records[0]["machine_replaced_comments"] = [["text", "z"]]
    json_lines(tmp_path / "selection.json", records)
    with pytest.raises(DataError, match=r"whose name ends in comments"):
        load_published_selection(tmp_path / "selection.json", IN_SPLITS, nli_labels, FIELDS)


def test_published_answers_go_by_the_names_of_labels_not_their_keys(answers: Path) -> None:
    names = {"n": "entailment", "e": "neutral", "c": "contradiction"}
    swapped = label_set({"key": key, "name": name} for key, name in names.items())
    found = load_published_answers(LLAMA, answers, IN_SPLITS, swapped, FIELDS)
    assert found["label"].tolist()[:3] == ["n", "e", "c"]
    assert found["text"].tolist()[:3] == ["* one E", "* one N", "* one C"]


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
    json_lines(path, records)
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
