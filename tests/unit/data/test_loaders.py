"""Loading and checking data: the user's tables, the public corpora in miniature, published explanations."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mjd import schemas
from mjd.config.data import LABEL_KEY, ItemsData, OodData, PairsData, Task
from mjd.data import checks
from mjd.data.loaders import load_items, load_ood, load_pairs
from mjd.data.public import source_directory
from mjd.data.tables import as_label_keys
from mjd.errors import ConfigError, DataError
from mjd.io import to_table
from mjd.labels import label_set
from mjd.settings import check

SAMPLE = Path(__file__).parents[3] / "resources/sample"
NAMES = {"e": "entailment", "n": "neutral", "c": "contradiction"}
COUNTS = {
    "varierr": {"title": "VariErr dist", "guided_by": "explanations"},
    "mnli": {"title": "MNLI dist", "guided_by": "counts"},
}
ITEMS = """\
uid,premise,hypothesis,hjd_e,hjd_n,hjd_c,varierr_e,varierr_n,varierr_c,mnli_e,mnli_n,mnli_c,split
t1,It rained. ,The street is wet.,0.6,0.3,0.1,2,2,0,3,2,0,train
t2,"Two dogs, one cat.",Three animals.,,,,1,1,0,4,1,0,train
d1,She left.,She is gone.,0.5,0.25,0.25,,,,,,,dev
x1,NA,None,0,0,1,1,0,3,0,0,5,test
"""
EXPLANATIONS = """\
uid,position,label,text,annotator
t2,1,neutral,One may be a plant.,
t1,0,e,Rain makes streets wet.,a1
t2,0,e,Two and one are three.,a2
"""


def nli_task(**changes: Any) -> Task:
    labels = [{"key": key, "name": name} for key, name in NAMES.items()]
    values = {"labels": labels, "text_fields": ["premise", "hypothesis"], "label_counts": COUNTS, "train_hjd": "some"}
    return check(Task, values | changes, "task")


TASK = nli_task()
LABELS = TASK.label_set


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def load_tables(
    directory: Path,
    items: str = ITEMS,
    explanations: str | None = EXPLANATIONS,
    limit: int | None = None,
    task: Task = TASK,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    given_explanations = write(directory / "explanations.csv", explanations) if explanations is not None else None
    data = ItemsData(
        loader="tables", items=write(directory / "items.csv", items), human_explanations=given_explanations
    )
    return load_items(data, task, {}, limit)


# -- tables that are right ------------------------------------------------------------------------------------------


def test_tables_are_typed_and_ordered(tmp_path: Path) -> None:
    items, explanations = load_tables(tmp_path)
    schema = schemas.items(LABELS, TASK.text_fields, list(TASK.label_counts))
    assert list(items.columns) == schema.names
    table = to_table(items, schema)
    assert table.column("varierr_e").to_pylist() == [2, 1, None, 1]
    assert table.column("hjd_n").to_pylist() == [0.3, None, 0.25, 0.0]
    assert items["premise"].tolist() == ["It rained.", "Two dogs, one cat.", "She left.", "NA"]
    shown = to_table(explanations, schemas.human_explanations()).to_pylist()
    assert [(row["uid"], row["position"], row["label"], row["annotator"]) for row in shown] == [
        ("t1", 0, "e", "a1"),
        ("t2", 0, "e", "a2"),
        ("t2", 1, "n", None),
    ]


def test_parquet_is_read_like_csv(tmp_path: Path) -> None:
    from_csv, _ = load_tables(tmp_path)
    from_csv.assign(hjd_e=from_csv["hjd_e"].astype("float64")).to_parquet(tmp_path / "items.parquet")
    data = ItemsData(loader="tables", items=str(tmp_path / "items.parquet"))
    from_parquet, explanations = load_items(data, TASK, {}, None)
    pd.testing.assert_frame_equal(from_parquet, from_csv)
    assert explanations.empty
    to_table(explanations, schemas.human_explanations())


def test_numeric_uids_of_parquet_are_text(tmp_path: Path) -> None:
    table = pd.DataFrame({"uid": [1, 2], "premise": ["a", "b"], "hypothesis": ["c", "d"], "label": ["e", "Neutral"]})
    table.to_parquet(tmp_path / "pairs.parquet")
    pairs = load_pairs(PairsData(loader="tables", path=str(tmp_path / "pairs.parquet")), TASK, {})
    assert pairs.to_numpy().tolist() == [["1", "a", "c", "e"], ["2", "b", "d", "n"]]


def test_limit_keeps_the_first_of_each_split(tmp_path: Path) -> None:
    items, explanations = load_tables(tmp_path, limit=1)
    assert items["uid"].tolist() == ["t1", "d1", "x1"]
    assert explanations["uid"].tolist() == ["t1"]


def test_optional_columns_may_be_absent(tmp_path: Path) -> None:
    own, explained = "uid,premise,hypothesis,split\nt1,a,b,train\n", "uid,label,text\nt1,e,x\nt1,n,y\n"
    items, explanations = load_tables(tmp_path, own, explained, task=nli_task(label_counts={}))
    assert items.filter(regex="hjd|n_votes").isna().all(axis=None)
    assert explanations["position"].tolist() == [0, 1]
    assert explanations["annotator"].isna().all()


WITH_VOTES = """\
uid,premise,hypothesis,hjd_e,hjd_n,hjd_c,n_votes,split
t1,a,b,.6,.4,0,5,train
t2,c,d,,,,,train
x1,e,f,1,0,0,,test
"""


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_number_of_votes_given_in_own_table_is_kept_and_changes_no_other_column(tmp_path: Path, suffix: str) -> None:
    task = nli_task(label_counts={})
    without, _ = load_tables(tmp_path, WITH_VOTES.replace("n_votes", "other"), None, task=task)
    write(tmp_path / "items.csv", WITH_VOTES)
    if suffix == ".parquet":  # whole numbers beside missing ones are floats there
        pd.read_csv(tmp_path / "items.csv").to_parquet(tmp_path / "items.parquet")
    items, _ = load_items(ItemsData(loader="tables", items=str(tmp_path / f"items{suffix}")), task, {})
    table = to_table(items, schemas.items(LABELS, TASK.text_fields, []))
    assert table.column("n_votes").to_pylist() == [5, None, None]
    pd.testing.assert_frame_equal(items.drop(columns="n_votes"), without.drop(columns="n_votes"))


def test_number_of_votes_of_shares_alone_is_null(tmp_path: Path) -> None:
    assert load_tables(tmp_path)[0]["n_votes"].isna().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            (",0,5,", ",0,0,"),
            r"items\.csv, row 1, column 'n_votes': 0 is not a number of votes\. Give the number of ann",
        ),
        ((",0,5,", ",0,2.5,"), r"row 1, column 'n_votes': 2\.5 is not a number of votes"),
        ((",0,5,", ",0,inf,"), r"row 1, column 'n_votes': inf is not a number of votes"),
        ((",0,5,", ",0,many,"), r"row 1, column 'n_votes': 'many' is not a number\."),
        ((",,,,train", ",,,3,train"), r"row 2, column 'n_votes': an item without an HJD has 3 votes\. Fill in hjd_e"),
    ],
)
def test_number_of_votes_that_is_none_is_refused(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    assert WITH_VOTES.replace(*change) != WITH_VOTES
    with pytest.raises(DataError, match=message):
        load_tables(tmp_path, WITH_VOTES.replace(*change), None, task=nli_task(label_counts={}))


@pytest.mark.parametrize(
    ("shares", "votes", "is_told"),
    [
        (".6,.4,0", "5", False),
        (".67,.33,0", "3", False),  # rounded
        (".123,.877,0", "100", False),
        (".6,.4,0", "3", True),
        ("0.5,0.25,0.25", "1", True),
    ],
)
def test_number_of_votes_that_cannot_give_the_shares_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, shares: str, votes: str, is_told: bool
) -> None:
    items = WITH_VOTES.replace(".6,.4,0,5", f"{shares},{votes}")
    found, _ = load_tables(tmp_path, items, None, task=nli_task(label_counts={}))
    assert found["n_votes"].iloc[0] == int(votes)
    assert (f"items.csv, row 1, column 'n_votes': {votes} votes cannot give this HJD" in caplog.text) == is_told


def test_items_of_other_tasks_load(tmp_path: Path) -> None:
    task = nli_task(
        labels=[{"key": "y", "name": "toxic"}, {"key": "no", "name": "fine"}], text_fields=["comment"], label_counts={}
    )
    items, explanations = load_tables(
        tmp_path, "uid,comment,hjd_y,hjd_no,split\n7,hey,0.5,0.5,train\n", "uid,label,text\n7,Toxic,rude\n", task=task
    )
    assert list(items.columns) == ["uid", "comment", "hjd_y", "hjd_no", "n_votes", "split"]
    assert explanations["label"].tolist() == ["y"]


def test_bundled_sample_loads() -> None:
    data = ItemsData(
        loader="tables",
        items=str(SAMPLE / "synthetic_items.csv"),
        human_explanations=str(SAMPLE / "synthetic_human_explanations.csv"),
    )
    items, explanations = load_items(data, TASK, {}, None)
    assert set(items["split"]) == {"train", "dev", "test"}
    assert len(explanations)
    assert len(load_pairs(PairsData(loader="tables", path=str(SAMPLE / "synthetic_nli_pairs.csv")), TASK, {}))
    ood = load_ood(OodData(loader="tables", path=str(SAMPLE / "synthetic_ood.csv")), TASK, {}, 2)
    assert ood["round"].tolist() == ["R1", "R1", "R2", "R2", "R3", "R3"]


# -- tables that are wrong: the message names file, row, column and cure ---------------------------------------------

BAD_ITEMS = [
    (("uid,", "id,"), r"items\.csv: column 'uid' is missing \(has: id, premise.*Add the missing"),
    (("hypothesis,hjd", "hyp,hjd"), r"column 'hypothesis' is missing"),
    ((",hjd_n", ",hjd_x"), r"column 'hjd_n' is missing"),
    ((",mnli_c", ",mnli_x"), r"column 'mnli_c' is missing"),
    ((",split", ",part"), r"column 'split' is missing"),
    (("t2,", "t1,"), r"items\.csv, row 2, column 'uid': 't1' was used already, in row 1\. Give every row a uid"),
    (("t2,", " ,"), r"row 2, column 'uid': the cell is empty\. Fill"),
    (("Three animals.", "  "), r"row 2, column 'hypothesis': the cell is empty"),
    ((",train\nt2", ",Train\nt2"), r"row 1, column 'split': 'Train' is not one of train, dev, test"),
    ((",dev", ","), r"row 3, column 'split': the empty cell is not one of"),
    ((",train\n", ",dev\n"), r"column 'split': there are no train items\. Mark"),
    (("0.6,0.3", "0.6,x"), r"row 1, column 'hjd_n': 'x' is not a number"),
    (("0.6,0.3", "0.6,nan"), r"row 1, column 'hjd_n': 'nan' is not a number"),
    (
        ("0.6,0.3", "0.6,0.2"),
        r"row 1, column 'hjd_e, hjd_n, hjd_c': an HJD sums to 0\.9, not 1 \(hjd_e=0\.6, hjd_n=0\.2",
    ),
    (("0.6,0.3", "0.6,inf"), r"row 1, column 'hjd_e, hjd_n, hjd_c': an HJD sums to"),
    (("0.6,0.3,0.1", "0.6,0.5,-0.1"), r"row 1, column 'hjd_c': an HJD has a negative share \(hjd_e=0\.6.*hjd_c=-0\.1"),
    (("0.6,0.3", "0.6,"), r"row 1, column 'hjd_n': the cell is empty but others of hjd_e, hjd_n, hjd_c are not"),
    (("0.5,0.25,0.25", ",,"), r"row 3, column 'hjd_e': an item of split dev has no HJD\. Fill in hjd_e, hjd_n, hjd_c"),
    (("2,2,0,3", "2,-2,0,3"), r"row 1, column 'varierr_n': -2 is not a number of annotators\. Give whole numbers"),
    (("2,2,0,3", "2,1.5,0,3"), r"row 1, column 'varierr_n': 1\.5 is not a number of annotators"),
    (("2,2,0,3", "2,inf,0,3"), r"row 1, column 'varierr_n': inf is not a number of annotators"),
    (("2,2,0,3", "2,1e20,0,3"), r"row 1, column 'varierr_n': 1e\+20 is not a number of annotators"),
    (("2,2,0,3", "2,,0,3"), r"row 1, column 'varierr_n': the cell is empty but others"),
    (("2,2,0,3", "0,0,0,3"), r"row 1, column 'varierr_e, varierr_n, varierr_c': all varierr counts are 0"),
    (("2,2,0,3", ",,,3"), r"row 1, column 'varierr_e': an item of split train has no varierr counts\. .*varierr: null"),
]


def test_fine_tuning_on_hjds_needs_them_on_every_training_item(tmp_path: Path) -> None:
    task = nli_task(train_hjd="all")
    message = r"items\.csv, row 2, column 'hjd_e': an item of split train has no HJD\. .* task\.train_hjd: some"
    with pytest.raises(DataError, match=message):
        load_items(ItemsData(loader="tables", items=write(tmp_path / "items.csv", ITEMS)), task, {})


@pytest.mark.parametrize(("change", "message"), BAD_ITEMS)
def test_bad_items_are_refused(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    broken = ITEMS.replace(*change)
    assert broken != ITEMS
    with pytest.raises(DataError, match=message) as caught:
        load_tables(tmp_path, broken, None)
    assert str(tmp_path / "items.csv") in caught.value.problem
    assert caught.value.cure


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("label,", "lable,"), r"explanations\.csv: column 'label' is missing"),
        (("t1,0", "t9,0"), r"explanations\.csv, row 2, column 'uid': 't9' is not the uid of an item\. Correct"),
        (("neutral", "maybe"), r"row 1, column 'label': 'maybe' is not one of e, n, c\. Use the keys or names"),
        (("neutral", ""), r"row 1, column 'label': the empty cell is not one of"),
        (("One may be a plant.", ""), r"row 1, column 'text': the cell is empty"),
        (("t2,1", "t2,0"), r"row 3, column 'position': item 't2' has position 0 twice\. Number"),
        (("t2,1", "t2,2"), r"row 1, column 'position': item 't2' has position 2, expected 1"),
        (
            ("t2,1", "t2,"),
            r"row 1, column 'position': the cell is empty\. .*Without the column, the order of an item's rows",
        ),
        (("t2,1", "t2,first"), r"row 1, column 'position': 'first' is not a number"),
    ],
)
def test_bad_human_explanations_are_refused(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_tables(tmp_path, ITEMS, EXPLANATIONS.replace(*change))


PAIRS = "uid,round,premise,hypothesis,label\np1,R1,a,b,e\np2,R2,c,d,contradiction\np3,R3,e,f,n\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("premise", "text"), r"pairs\.csv: column 'premise' is missing"),
        (("p2", "p1"), r"pairs\.csv, row 2, column 'uid': 'p1' was used already, in row 1"),
        ((",n\n", ",x\n"), r"row 3, column 'label': 'x' is not one of e, n, c"),
        ((",d,", ",,"), r"row 2, column 'hypothesis': the cell is empty"),
    ],
)
def test_bad_pairs_and_ood_items_are_refused(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    path = write(tmp_path / "pairs.csv", PAIRS.replace(*change))
    with pytest.raises(DataError, match=message):
        load_pairs(PairsData(loader="tables", path=path), TASK, {})
    with pytest.raises(DataError, match=message):
        load_ood(OodData(loader="tables", path=path), TASK, {})


def test_pairs_without_rows_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.csv", PAIRS.splitlines()[0])
    with pytest.raises(DataError, match="has no rows"):
        load_pairs(PairsData(loader="tables", path=path), TASK, {})


def test_bad_rounds_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "ood.csv", PAIRS)
    with pytest.raises(DataError, match=r"row 3, column 'round': 'R3' is not one of R1, R2\. .*data\.ood\.rounds"):
        load_ood(OodData(loader="tables", path=path, rounds=["R1", "R2"]), TASK, {})
    with pytest.raises(DataError, match="there are no items of round 'R4'"):
        load_ood(OodData(loader="tables", path=path, rounds=["R1", "R2", "R3", "R4"]), TASK, {})
    found = load_ood(OodData(loader="tables", path=path, rounds=["R3", "R1", "R2"]), TASK, {})
    assert found["round"].tolist() == ["R3", "R1", "R2"]


def test_fine_tuning_needs_dev_items(tmp_path: Path) -> None:
    data = ItemsData(loader="tables", items=write(tmp_path / "items.csv", ITEMS.replace(",dev", ",test")))
    load_items(data, TASK, {})
    with pytest.raises(DataError, match=r"items\.csv, column 'split': there are no dev items.*or set encoders: {}"):
        load_items(data, TASK, {}, fine_tuning=True)


def test_more_rows_are_counted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row 1, column 'label': 'x' .* \(and 2 more such rows\)"):
        load_tables(tmp_path, ITEMS, "uid,label,text\nt1,x,a\nt1,x,b\nt1,x,c\n")


def test_unreadable_table_is_refused(tmp_path: Path) -> None:
    for name, content, message in (
        ("absent.csv", None, "does not exist"),
        ("absent.parquet", None, "does not exist"),
        ("items.xlsx", b"", r"neither CSV nor Parquet"),
        ("empty.csv", b"", "not a readable CSV"),
        ("latin.csv", b"uid\n\xe9\n", "not a readable CSV"),
        ("items.parquet", b"no", "not a readable Parquet"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=message):
            load_items(ItemsData(loader="tables", items=str(tmp_path / name)), TASK, {}, None)


@pytest.mark.parametrize("texts", ["Well, no,b", "a, b, c,d"])
def test_rows_with_more_fields_than_the_header_are_refused(tmp_path: Path, texts: str) -> None:
    path = write(tmp_path / "pairs.csv", f"uid,premise,hypothesis,label\np1,{texts},e\np2,{texts},n\n")
    message = r"pairs\.csv, row 1 has [56] fields, but the header names 4 columns\. Put texts with commas in quotes"
    with pytest.raises(DataError, match=message):
        load_pairs(PairsData(loader="tables", path=path), TASK, {})
    later = write(tmp_path / "pairs.csv", f"uid,premise,hypothesis,label\np1,a,b,e\np2,{texts},n\n")
    with pytest.raises(DataError, match=message.replace("row 1", "row 2")):
        load_pairs(PairsData(loader="tables", path=later), TASK, {})


def test_ignored_columns_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = "uid,premise,hypothesis,split,HJD_e\nt1,a,b,train,1\n"
    load_tables(tmp_path, own, None, task=nli_task(label_counts={}))
    assert re.search(r"items\.csv: column\(s\) HJD_e are not used", caplog.text)


# -- property: exactly the distributions pass ------------------------------------------------------------------------

shares = st.lists(st.floats(-0.5, 1.5, allow_nan=False), min_size=3, max_size=3)


@given(st.lists(shares, min_size=1, max_size=8), st.booleans())
def test_hjd_check_accepts_exactly_distributions(rows: list[list[float]], normalise: bool) -> None:
    values = np.abs(np.array(rows)) if normalise else np.array(rows)
    if normalise:
        values = (values + 1e-3) / (values + 1e-3).sum(axis=1, keepdims=True)
    items = pd.DataFrame(values, columns=LABELS.columns("hjd")).assign(split="dev")
    items.insert(0, "uid", [f"u{row}" for row in range(len(items))])
    items["premise"], items["n_votes"] = "text", np.nan
    wrong = (values < 0).any(axis=1) | (np.abs(values.sum(axis=1) - 1) > checks.HJD_TOLERANCE)
    items.loc[len(items)] = {"uid": "train", "split": "train", "premise": "text"}
    if not wrong.any():
        checks.check_items(items, LABELS, ["premise"], [], "items.csv", every_hjd=False)
        return
    with pytest.raises(DataError, match=r"items\.csv, row \d+, column 'hjd_") as caught:
        checks.check_items(items, LABELS, ["premise"], [], "items.csv", every_hjd=False)
    row = int(re.findall(r"row (\d+)", caught.value.problem)[0])
    assert wrong[row - 1]


# -- public corpora in miniature -------------------------------------------------------------------------------------


def json_lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def nli_item(premise: str, comments: list[tuple[str, str]]) -> dict[str, Any]:
    counts = [sum(code == key for _, code in comments) for key in "enc"]
    return {
        "premise": premise,
        "hypothesis": "H.",
        "mnli labels": ["e", [3, 2, 0]],
        "chaos probs": [0.2, 0.3, 0.5],
        "varierr labels": counts,
        "comments": comments,
    }


@pytest.fixture
def mjd_estimator(tmp_path: Path) -> dict[str, Path]:
    """Two train, one dev, one test item; ChaosNLI in another order, with other white space and label order."""
    sources = {name: tmp_path / name for name in ("mjd-estimator-items", "mjd-estimator-splits", "chaosnli-mnli")}
    train = [nli_item("P one.", [("b ", "n"), ("a", "e")]), nli_item("P two.", [("c", "c")])]
    json_lines(sources["mjd-estimator-items"] / "MJD-generator/NLI_explanations.json", train)
    for split in ("dev", "test"):
        path = sources["mjd-estimator-splits"] / f"MJD-fine-tuning/data/chaos_dev_test/{split}.json"
        json_lines(path, [{"premise": f"P {split}.", "hypothesis": "H.", "label": [0.2, 0.3, 0.5]}])
    chaos = [
        {"uid": f"u-{name}", "label_counter": {"c": 50, "e": 20, "n": 30}, "label_count": [9, 9, 9],
         "example": {"uid": "x", "premise": f" P  {name}. ", "hypothesis": "H. "}}
        for name in ("test", "two", "dev", "one", "unused")
    ]  # fmt: skip
    json_lines(sources["chaosnli-mnli"] / "data/chaosNLI_v1.0/chaosNLI_mnli_m.jsonl", chaos)
    return sources


def test_mjd_estimator_files_load_as_items_and_explanations(mjd_estimator: dict[str, Path]) -> None:
    items, explanations = load_items(ItemsData(loader="mjd-estimator"), TASK, mjd_estimator, None)
    assert items["uid"].tolist() == ["u-one", "u-two", "u-dev", "u-test"]
    assert items["split"].tolist() == ["train", "train", "dev", "test"]
    assert items[LABELS.columns("hjd")].to_numpy().tolist() == [[0.2, 0.3, 0.5]] * 4
    table = to_table(items, schemas.items(LABELS, TASK.text_fields, list(TASK.label_counts)))
    assert table.column("varierr_n").to_pylist() == [1, 0, None, None]
    assert table.column("mnli_e").to_pylist() == [3, 3, None, None]
    assert explanations[["uid", "position", "label", "text"]].to_numpy().tolist() == [
        ["u-one", 0, "n", "b"],
        ["u-one", 1, "e", "a"],
        ["u-two", 0, "c", "c"],
    ]


def test_mjd_estimator_in_another_label_order_has_the_same_values(mjd_estimator: dict[str, Path]) -> None:
    labels = [
        {"key": key, "name": name}
        for key, name in (("con", "Contradiction"), ("neu", "neutral"), ("ent", "entailment"))
    ]
    task = nli_task(labels=labels, text_fields=["context", "statement"], label_counts={})
    items, explanations = load_items(ItemsData(loader="mjd-estimator"), task, mjd_estimator, None)
    assert items.iloc[0].to_dict() == {
        "uid": "u-one", "context": "P one.", "statement": "H.",
        "hjd_con": 0.5, "hjd_neu": 0.3, "hjd_ent": 0.2, "n_votes": 100, "split": "train",
    }  # fmt: skip
    assert explanations["label"].tolist() == ["neu", "ent", "con"]


def test_mjd_estimator_files_that_join_not_one_to_one_are_refused(mjd_estimator: dict[str, Path]) -> None:
    path = mjd_estimator["mjd-estimator-splits"] / "MJD-fine-tuning/data/chaos_dev_test/test.json"
    data = ItemsData(loader="mjd-estimator")
    for premise in ("P dev.", "P absent."):  # in two splits; in no split of ChaosNLI
        json_lines(path, [{"premise": premise, "hypothesis": "H.", "label": [1, 0, 0]}])
        with pytest.raises(DataError, match=rf"test\.json: an item is not in .*'{re.escape(premise)} / H\.'"):
            load_items(data, TASK, mjd_estimator, None)
    json_lines(path, [{"premise": "P test.", "hypothesis": "H."}] * 2)
    with pytest.raises(DataError, match="row 2: the texts occur twice"):
        load_items(data, TASK, mjd_estimator, None)
    path.write_text("{}\n{broken\n")
    with pytest.raises(DataError, match=r"test\.json, line 2 is not JSON"):
        load_items(data, TASK, mjd_estimator, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"labels": [{"key": "y", "name": "yes"}, {"key": "n", "name": "no"}], "label_counts": {}},
            "task.labels names yes, no",
        ),
        ({"text_fields": ["premise"]}, "task.text_fields names 1"),
        ({"label_counts": {"snli": COUNTS["mnli"]}}, "has the label counts varierr, mnli, not 'snli'"),
    ],
)
def test_public_loader_for_another_task_is_refused(
    mjd_estimator: dict[str, Path], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load_items(ItemsData(loader="mjd-estimator"), nli_task(**changes), mjd_estimator, None)


def test_source_that_is_not_downloaded_is_refused() -> None:
    with pytest.raises(DataError, match="source x was not downloaded"):
        source_directory({}, "x")


def test_esnli_files_load_as_pairs(tmp_path: Path) -> None:
    directory = tmp_path / "dataset/eSNLI"
    directory.mkdir(parents=True)
    for split in ("dev", "test"):
        write(directory / f"s1.{split}", "One .\nTwo .\nThree .\n")
        write(directory / f"s2.{split}", " A .\nB .\nC .\n")
        write(directory / f"labels.{split}", "neutral\n-\nentailment\n")
    pairs = load_pairs(PairsData(loader="esnli", limit=3), TASK, {"esnli": tmp_path})
    assert pairs.to_numpy().tolist() == [
        ["esnli-dev-00001", "One .", "A .", "n"],
        ["esnli-dev-00003", "Three .", "C .", "e"],
        ["esnli-test-00001", "One .", "A .", "n"],
    ]
    write(directory / "s2.test", "A .\n")
    with pytest.raises(DataError, match="e-SNLI test files differ in length"):
        load_pairs(PairsData(loader="esnli"), TASK, {"esnli": tmp_path})


def make_zip(path: Path, members: dict[str, list[dict[str, Any]]]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, records in members.items():
            archive.writestr(name, "".join(json.dumps(record) + "\n" for record in records))
            archive.writestr(f"__MACOSX/{name}", "")
    return path


def test_multinli_files_load_as_pairs(tmp_path: Path) -> None:
    records = [
        {"gold_label": label, "sentence1": f"s{row}", "sentence2": hypothesis}
        for row, (label, hypothesis) in enumerate(
            [("neutral", "a"), ("-", "b"), ("entailment", " "), ("contradiction", "d")]
        )
    ]
    make_zip(tmp_path / "multinli_1.0.zip", {"multinli_1.0/multinli_1.0_train.jsonl": records})
    pairs = load_pairs(PairsData(loader="multinli"), TASK, {"multinli": tmp_path})
    assert pairs["uid"].tolist() == ["multinli-000001", "multinli-000004"]
    assert pairs["label"].tolist() == ["n", "c"]
    assert len(load_pairs(PairsData(loader="multinli", limit=1), TASK, {"multinli": tmp_path})) == 1


def test_anli_dev_files_load_as_rounds(tmp_path: Path) -> None:
    directory = tmp_path / "anlizinganli/anli_annot_v0.2"
    directory.mkdir(parents=True)
    for name in ("1", "2", "3"):  # columns differ in order between rounds
        write(
            directory / f"ANLI_analysis_r{name}_dev.csv",
            f'eid,uid,gold_label,statement,context\nx,u{name},c,"S, s",C\n',
        )
    ood = load_ood(OodData(loader="anli-dev"), TASK, {"anli-dev": tmp_path})
    assert ood.to_numpy().tolist() == [[f"u{n}", f"R{n}", "C", "S, s", "c"] for n in (1, 2, 3)]
    with pytest.raises(DataError, match=r"data\.ood\.rounds names 'A1', but ANLI has R1, R2, R3"):
        load_ood(OodData(loader="anli-dev", rounds=["A1"]), TASK, {"anli-dev": tmp_path})


def test_anli_test_files_load_as_rounds(tmp_path: Path) -> None:
    members = {
        f"anli_v1.0/R{n}/test.jsonl": [
            {"uid": f"u{n}-{row}", "context": "C", "hypothesis": "H", "label": "e"} for row in range(3)
        ]
        for n in (1, 2, 3)
    }
    archive = make_zip(tmp_path / "anli_v1.0.zip", members)
    ood = load_ood(OodData(loader="anli-test", rounds=["R2", "R1"]), TASK, {"anli": tmp_path}, limit=2)
    assert ood["uid"].tolist() == ["u2-0", "u2-1", "u1-0", "u1-1"]
    make_zip(archive, {"anli_v1.0/R1/dev.jsonl": []})
    with pytest.raises(DataError, match=r"anli_v1\.0\.zip has 0 files that end in R1/test\.jsonl"):
        load_ood(OodData(loader="anli-test"), TASK, {"anli": tmp_path})
    archive.write_bytes(b"not a zip")
    with pytest.raises(DataError, match="is not a ZIP archive"):
        load_ood(OodData(loader="anli-test"), TASK, {"anli": tmp_path})
    archive.unlink()
    with pytest.raises(DataError, match="does not exist"):
        load_ood(OodData(loader="anli-test"), TASK, {"anli": tmp_path})


# -- labels whose names are other labels' keys -------------------------------------------------------------------------


def test_label_column_of_keys_that_are_other_labels_names_keeps_the_keys() -> None:
    labels = label_set([{"key": str(k), "name": str(k + 1)} for k in range(3)])
    assert as_label_keys(pd.Series(["0", "1", "2", "2"]), labels).tolist() == ["0", "1", "2", "2"]


SCALE = nli_task(
    labels=[{"key": str(k), "name": f"agreement {k}"} for k in (-3, -1, 0)], text_fields=["text"], label_counts={}
)


def scale_pairs(tmp_path: Path, *labels: str) -> pd.DataFrame:
    rows = "".join(f"p{k},some text,{label}\n" for k, label in enumerate(labels))
    path = write(tmp_path / "pairs.csv", f"uid,text,label\n{rows}")
    return load_pairs(PairsData(loader="tables", path=path), SCALE, {})


def test_pairs_of_a_scale_are_read_as_its_keys(tmp_path: Path) -> None:
    assert scale_pairs(tmp_path, "-3", "-1.0", "Agreement 0", "0")["label"].tolist() == ["-3", "-1", "0", "0"]


def test_pairs_of_a_scale_in_a_parquet_column_of_floats_are_read_as_its_keys(tmp_path: Path) -> None:
    table = pd.DataFrame({"uid": ["a", "b"], "text": ["x", "y"], "label": [-3.0, 0.0]})
    table.to_parquet(tmp_path / "pairs.parquet")
    pairs = load_pairs(PairsData(loader="tables", path=str(tmp_path / "pairs.parquet")), SCALE, {})
    assert pairs["label"].tolist() == ["-3", "0"]


def test_pairs_with_a_unicode_minus_name_it(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"row 2, column 'label': '\u22123' \(it holds a minus sign, U\+2212; write a hyph"
    ):
        scale_pairs(tmp_path, "-3", "\u22123")


def test_items_of_a_scale_have_its_columns(tmp_path: Path) -> None:
    text = "uid,text,hjd_-3,hjd_-1,hjd_0,split\nt1,It rained.,0.5,0.25,0.25,train\n"
    items, _ = load_items(ItemsData(loader="tables", items=write(tmp_path / "items.csv", text)), SCALE, {}, None)
    table = to_table(items, schemas.items(SCALE.label_set, ["text"], []))
    assert table.select(["hjd_-3", "hjd_-1", "hjd_0"]).to_pylist() == [{"hjd_-3": 0.5, "hjd_-1": 0.25, "hjd_0": 0.25}]


@pytest.mark.slow
@given(
    st.lists(st.from_regex(LABEL_KEY, fullmatch=True).filter(lambda key: len(key) < 9), min_size=2, max_size=4),
    st.lists(st.from_regex(r"[a-z_]{1,4}", fullmatch=True), max_size=2, unique=True),
)
def test_no_artifact_has_two_columns_of_one_name_whatever_keys_the_configuration_takes(
    keys: list[str], counts: list[str]
) -> None:
    labels = [{"key": key.strip(), "name": f"name {place}"} for place, key in enumerate(keys)]
    try:
        task = nli_task(labels=labels, label_counts=dict.fromkeys(counts, COUNTS["mnli"]), text_fields=["premise"])
    except ConfigError:
        return
    for made in (schemas.scores, schemas.mjd, schemas.predictions):
        assert len(set(made(task.label_set).names)) == len(made(task.label_set).names)
    names = schemas.items(task.label_set, ["premise"], counts).names
    assert len({name.casefold() for name in names}) == len(names)
