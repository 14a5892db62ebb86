"""Tables with a row per annotation: recognised under one uid or many, and brought into shape as the docs say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mjd.config.data import ItemsData, OodData, PairsData, Task
from mjd.data.loaders import load_items, load_ood, load_pairs
from mjd.errors import DataError
from mjd.settings import check

ROOT = Path(__file__).parents[3]
LABELS = [{"key": "e", "name": "entailment"}, {"key": "n", "name": "neutral"}, {"key": "c", "name": "contradiction"}]
BARE = "uid,premise,hypothesis"
IN_DOCS = "see 'One row per annotation' in docs/extending.md"
SHARES = r"Give one row per item, with the shares of its annotators' labels in hjd_e, hjd_n, hjd_c"


def nli_task(**changes: Any) -> Task:
    values = {"labels": LABELS, "text_fields": ["premise", "hypothesis"], "label_counts": {}, "train_hjd": "some"}
    return check(Task, values | changes, "task")


TASK = nli_task()


def items_of(content: str, directory: Path, task: Task = TASK) -> pd.DataFrame:
    path = directory / "items.csv"
    path.write_text(content, encoding="utf-8")
    return load_items(ItemsData(loader="tables", items=str(path)), task, {})[0]


REPEATED_UIDS = {
    "labels": (f"{BARE},split,label\n7,a,b,train,e\n7,a,b,train,n\n8,c,d,train,e\n", r"in column 'label' \(e, n\)"),
    "label names": (f"{BARE},split,answer\n7,a,b,train,Neutral\n7,a,b,train,entailment\n", r"in column 'answer'"),
    "one label": (f"{BARE},split,label\n7,a,b,train,e\n7,a,b,train,e\n", r"there is a label in column 'label' \(e\)"),
    "without split": (f"{BARE},label\n7,a,b,e\n7,a,b,n\n", r"differ in column 'label' \(e, n\)"),
    "annotators": (f"{BARE},split,worker\n7,a,b,train,w1\n7,A,b ,train,w2\n", r"differ in column 'worker' \(w1, w2\)"),
    "other labels": (f"{BARE},split,vote\n7,a,b,train,yes\n7,a,b,train,no\n", r"differ in column 'vote' \(yes, no\)"),
    "one-hot HJDs": (f"{BARE},hjd_e,hjd_n,hjd_c,split\n7,a,b,1,0,0,train\n7,a,b,0,1,0,train\n", r"in column 'hjd_e'"),
}  # fmt: skip


@pytest.mark.parametrize("content_and_message", REPEATED_UIDS.values(), ids=REPEATED_UIDS)
def test_uid_repeated_with_the_same_texts_is_named_as_row_per_annotation(
    tmp_path: Path, content_and_message: tuple[str, str]
) -> None:
    content, message = content_and_message
    start = r"items\.csv, row 2, column 'uid': '7' was used already, in row 1, with the same texts; .*"
    end = rf".*seems to have one row per annotation: \d rows, \d uids\. {SHARES}: {IN_DOCS}"
    with pytest.raises(DataError, match=start + message + end):
        items_of(content, tmp_path)


UNIQUE_UIDS = {
    "one-hot HJDs": (f"{BARE},hjd_e,hjd_n,hjd_c,split\n1,a,b,1,0,0,train\n2,A,b,0,1,0,train\n3,c,d,.5,.5,0,train\n",
                     r"column 'hjd_e, hjd_n, hjd_c'"),
    "labels": (f"{BARE},split,label\n1,a,b,train,e\n2,a,b,train,n\n3,c,d,train,e\n", r"column 'label'"),
}  # fmt: skip


@pytest.mark.parametrize("content_and_message", UNIQUE_UIDS.values(), ids=UNIQUE_UIDS)
def test_annotations_under_uids_of_their_own_are_recognised(
    tmp_path: Path, content_and_message: tuple[str, str]
) -> None:
    content, column = content_and_message
    message = rf"row 2, {column}: item '2' has the texts of item '1' \(row 1\) and another single vote.*{SHARES}"
    with pytest.raises(DataError, match=message):
        items_of(content, tmp_path)


def test_counts_of_one_vote_for_the_same_texts_are_recognised(tmp_path: Path) -> None:
    task = nli_task(label_counts={"own": {"title": "Own", "guided_by": "counts"}})
    content = f"{BARE},own_e,own_n,own_c,split\n1,a,b,1,0,0,train\n2,a,b,0,1,0,train\n"
    with pytest.raises(
        DataError, match=r"row 2, column 'own_e, own_n, own_c': item '2' .*numbers of its annotators in"
    ):
        items_of(content, tmp_path, task)
    assert len(items_of(content.replace("1,0,0", "4,0,0").replace("0,1,0", "0,5,0"), tmp_path, task)) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f"{BARE},split\n7,a,b,train\n7,a,b,train\n", r"row 2, .*in row 1, of which this row is a copy.*Keep one row"),
        (f"{BARE},split\n7,a,b,train\n7,a,b,dev\n", r"row 2, .*in row 1, with the same texts.*Keep one row per uid"),
        (f"{BARE},split\n7,a,b,train\n7,c,d,train\n", r"row 2, .*in row 1\. Give every row a uid of its own"),
    ],
)
def test_repeated_uid_that_is_no_annotation_gets_its_own_cure(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        items_of(content, tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        f"{BARE},hjd_e,hjd_n,hjd_c,split\n1,a,b,.5,.5,0,train\n2,a,b,0,1,0,train\n",
        f"{BARE},hjd_e,hjd_n,hjd_c,split\n1,a,b,1,0,0,train\n2,a,b,1,0,0,train\n",
        f"{BARE},hjd_e,hjd_n,hjd_c,split,label\n1,a,b,.6,.4,0,train,e\n2,a,b,.4,.6,0,train,n\n",
        f"{BARE},split,label\n1,a,b,train,e\n2,c,d,train,n\n3,e,f,train,n\n4,a,b,train,n\n5,g,h,train,n\n",
        f"{BARE},hjd_e,hjd_n,hjd_c,n_votes,split\n1,a,b,1,0,0,5,train\n2,a,b,0,1,0,4,train\n",  # unanimous
    ],
)
def test_same_texts_that_are_no_annotations_are_loaded(tmp_path: Path, content: str) -> None:
    assert len(items_of(content, tmp_path)) == content.count("\n") - 1


@pytest.mark.parametrize("rounds", [False, True])
def test_pairs_and_ood_items_with_a_row_per_annotation_are_recognised(tmp_path: Path, rounds: bool) -> None:
    path = tmp_path / "own.csv"
    path.write_text(f"{BARE},round,label\n7,a,b,R1,e\n7,a,b,R1,n\n", encoding="utf-8")
    message = r"own\.csv, row 2, column 'uid': '7' .*one row per annotation.*Give each pair one row and one label"
    if rounds:
        with pytest.raises(DataError, match=message):
            load_ood(OodData(loader="tables", path=str(path), rounds=["R1"]), TASK, {})
    else:
        with pytest.raises(DataError, match=message):
            load_pairs(PairsData(loader="tables", path=str(path)), TASK, {})


def test_code_of_the_docs_makes_one_row_per_item_with_shares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [("7", "a, a", "b", "train", label) for label in ("entailment", "neutral", "entailment")]
    rows += [("007", "nan", "d", "train", label) for label in ("neutral", "neutral", "neutral")]
    columns = ["uid", "premise", "hypothesis", "split", "label"]
    pd.DataFrame(rows, columns=columns).to_csv("annotations.csv", index=False)
    with pytest.raises(DataError, match="one row per annotation"):
        load_items(ItemsData(loader="tables", items="annotations.csv"), TASK, {})
    docs = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
    found = re.search(r"\*\*One row per annotation\.\*\*.*?```python\n(.*?)```", docs, re.DOTALL)
    assert found
    exec(found[1], {})
    items = load_items(ItemsData(loader="tables", items="items.csv"), TASK, {})[0].set_index("uid")
    assert items.loc["007", ["premise", "hjd_e", "hjd_n", "hjd_c"]].tolist() == ["nan", 0.0, 1.0, 0.0]
    np.testing.assert_allclose(items.loc["7", ["hjd_e", "hjd_n", "hjd_c"]].astype(float), [2 / 3, 1 / 3, 0], atol=1e-12)
    assert items["n_votes"].to_dict() == {"7": 3, "007": 3}


def test_numbers_of_votes_that_look_like_label_keys_are_no_labels(tmp_path: Path) -> None:
    labels = [{"key": str(k), "name": f"grade {k}"} for k in (1, 2, 3)]
    content = f"{BARE},hjd_1,hjd_2,hjd_3,n_votes,split\n1,a,b,,,,,train\n2,a,b,1,0,0,3,train\n3,a,b,.5,.5,0,2,train\n"
    assert len(items_of(content, tmp_path, nli_task(labels=labels))) == 3
