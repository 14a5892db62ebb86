"""Published cells beside ours, on small made-up tables; the statuses are a golden file."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from mjd.errors import DataError
from mjd.io import to_table, write_csv
from mjd.reproduction.published_comparison import compare_published, read_published, schema
from mjd.reproduction.published_tables import PUBLISHED_DIR, Comparable, Reading, read_reading
from mjd.settings import check

GOLDEN = Path(__file__).parents[2] / "golden/published_comparison.csv"
PUBLISHED = {
    "distances.csv": "system,kl,tvd,share\nHumans,0.000,0.000,\nVotes,1.242,0.295,75.5\nBig MJD,0.259,0.284,\n",
    "classes.csv": "bert_r1,model,roberta_r1\n0.268,Humans,0.357\n0.229,Votes,0.31\n0.246,Big MJD,0.304\n",
}
READING = check(
    Reading,
    {
        "data": {"items": "mjd-estimator"},
        "variant": {"selection": "first", "mode": "explicit", "orders": "all", "transform": {"temperature": 20}},
        "rows": {"Humans": {"slug": "hjd"}, "Votes": {"slug": "mnli"}, "Big MJD": {"scorer": "Big", "source": "none"}},
        "columns": {
            "distances": {
                "kl": {"table": "distribution_comparison", "metric": "kl", "n": 3},
                "tvd": {"table": "distribution_comparison", "metric": "tvd", "n": 3},
            },
            "classes": {
                "bert_r1": {"table": "ood", "metric": "weighted_f1", "encoder": "bert", "part": "R1", "n": 10},
                "roberta_r1": {"table": "ood", "metric": "weighted_f1", "encoder": "roberta", "part": "R1", "n": 10},
            },
        },
        "title_columns": {"classes": "model"},
        "notes": [
            {"table": "distances", "row": "Votes", "column": "tvd", "note": "does not follow from the data"},
            {"table": "distances", "column": "share", "note": "not derivable"},
        ],
    },
    "reading",
)
MADE = Comparable(
    systems={"Humans": "hjd", "Votes": "mnli"},
    encoders={"bert": "small"},
    missing_systems={"Big MJD": "no scorer is Big"},
    missing_tables={},
)
OURS = {
    "distribution_comparison": pd.DataFrame(
        {"slug": ["hjd", "mnli"], "kl": [0.0, 1.24249], "tvd": [0.0004, 0.21472], "n": [3, 3]}
    ),
    "finetuning": pd.DataFrame(),
    "ood": pd.DataFrame(
        [("hjd", "small", "R1", 0.2684, 10), ("mnli", "small", "R1", 0.3, 10), ("hjd", "small", "R2", 0.9, 10)],
        columns=["slug", "encoder", "round", "weighted_f1", "n"],
    ),
}


@pytest.fixture
def cells(tmp_path: Path) -> pd.DataFrame:
    for name, text in PUBLISHED.items():
        (tmp_path / name).write_text(text)
    return read_published(tmp_path, READING)


def test_cells_keep_what_is_printed_and_leave_out_empty_ones(cells: pd.DataFrame) -> None:
    assert len(cells) == 13
    assert cells.to_numpy().tolist()[:4] == [
        ["distances", "Humans", "kl", "0.000"],
        ["distances", "Humans", "tvd", "0.000"],
        ["distances", "Votes", "kl", "1.242"],
        ["distances", "Votes", "tvd", "0.295"],
    ]


def test_statuses_are_those_of_the_golden_file(cells: pd.DataFrame, tmp_path: Path) -> None:
    table = compare_published(cells, READING, MADE, OURS, "made up")
    to_table(table, schema())
    write_csv(table, tmp_path / "found.csv")
    assert (tmp_path / "found.csv").read_text() == GOLDEN.read_text()


def test_reproduced_means_equal_at_the_published_decimals(cells: pd.DataFrame) -> None:
    ours = OURS | {"distribution_comparison": OURS["distribution_comparison"].assign(kl=[0.0006, 1.2415])}
    table = compare_published(cells, READING, MADE, ours, "x").set_index(["system", "column"])
    assert table.loc[("Humans", "kl"), "status"] == "differs"
    assert table.loc[("Votes", "kl"), "status"] == "reproduced"


def test_numbers_of_fewer_items_are_not_set_beside_the_papers(cells: pd.DataFrame) -> None:
    ours = OURS | {"distribution_comparison": OURS["distribution_comparison"].assign(n=2)}
    row = compare_published(cells, READING, MADE, ours, "x").iloc[0]
    assert (row["status"], row["note"]) == ("not run in this configuration", "computed on 2 items, the paper's 3")
    assert pd.isna(row["ours"])


def test_numbers_from_other_data_are_not_set_beside_the_papers(cells: pd.DataFrame) -> None:
    made = MADE.model_copy(update={"missing_tables": {"ood": "data.ood is anli-dev"}})
    table = compare_published(cells, READING, made, OURS, "x").query("table == 'classes'")
    assert table["ours"].isna().all()
    assert set(table["note"]) == {"data.ood is anli-dev"}


def test_missing_table_or_column_is_refused(tmp_path: Path, cells: pd.DataFrame) -> None:
    (tmp_path / "classes.csv").write_text("model,bert_r1\nHumans,0.1\n")
    with pytest.raises(DataError, match=r"classes\.csv lacks the column 'roberta_r1'"):
        read_published(tmp_path, READING)
    (tmp_path / "classes.csv").unlink()
    with pytest.raises(DataError, match=r"classes\.csv, a published table, does not exist"):
        read_published(tmp_path, READING)


def test_every_published_cell_is_read() -> None:
    """The four tables of resources/published, cell by cell: rows x columns, but for one empty cell."""
    found = read_published(PUBLISHED_DIR, read_reading())
    counts = found.groupby("table").size().to_dict()
    assert counts == {
        "distribution_and_finetuning": 12 * 16,
        "ood": 14 * 6,
        "preference": 6 * 11 - 1,
        "variability": 5 * 9,
    }
    assert len(found) == 386
    assert not found.duplicated(["table", "system", "column"]).any()


def test_every_published_row_of_a_compared_table_is_named() -> None:
    reading = read_reading()
    cells = read_published(PUBLISHED_DIR, reading)
    compared = cells[[bool(reading.columns[table]) for table in cells["table"]]]
    assert set(compared["system"]) == set(reading.rows)
    for table, columns in reading.columns.items():
        assert set(columns) in (set(), set(cells.loc[cells["table"] == table, "column"]))


def test_dcor_that_is_not_told_from_independence_is_noted() -> None:
    cells = pd.DataFrame([("distances", "Humans", "dcor", "0.100")], columns=["table", "system", "column", "published"])
    spec = {"dcor": {"table": "distribution_comparison", "metric": "dcor", "n": 3}}
    reading = check(Reading, READING.model_dump() | {"columns": {"distances": spec}, "notes": []}, "reading")
    ours = pd.DataFrame({"slug": ["hjd"], "dcor": [0.1], "dcor_null_95": [0.12], "n": [3]})
    found = [
        compare_published(cells, reading, MADE, {"distribution_comparison": table}, "x")["note"].item()
        for table in (ours, ours.assign(dcor_null_95=0.09))
    ]
    assert found == ["ours is not told from independence (dcor_null_95)", ""]


def test_published_f1_is_compared_with_the_papers_gold_on_ties() -> None:
    columns = read_reading().columns["distribution_and_finetuning"]
    metrics = {spec.metric for name, spec in columns.items() if "weighted_f1" in name}
    assert metrics == {"reference_weighted_f1"}
