"""Tables for people hold the numbers of the long tables, in the order of the systems."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from mjd.classifiers import tables
from mjd.classifiers.evaluation import FINETUNING_METRICS
from mjd.io import to_table, write_parquet
from mjd.systems import System

SYSTEMS = [System("base", "Base"), System("a", "System A", reference="human"), System("human", "Human")]
ENCODERS = [("bert", "BERT"), ("roberta", "RoBERTa")]


def scored(shift: float) -> pd.DataFrame:
    rows = [
        ("a", "R1", 1, 0.5 + shift),
        ("a", "R1", 2, 0.7 + shift),
        ("a", "R2", 1, 0.1),
        ("a", "R2", 2, 0.1),
        ("human", "R1", 1, 0.5 + shift),
        ("human", "R1", 2, 0.6 + shift),
        ("human", "R2", 1, 0.1),
        ("human", "R2", 2, 0.1),
        ("base", "R1", 1, 0.2),
        ("base", "R2", 1, 0.3),
    ]
    frame = pd.DataFrame(rows, columns=["system", "round", "seed", "weighted_f1"])
    return frame.assign(accuracy=0.5, macro_f1=0.5, n=30, n_truncated=3)


@pytest.fixture
def long() -> pd.DataFrame:
    return tables.ood([scored(0.0), scored(0.1)], SYSTEMS, ENCODERS, 0.95, "made up")


def test_long_table_fits_its_schema(long: pd.DataFrame) -> None:
    assert to_table(long, tables.ood_schema()).num_rows == 12


def test_rows_and_columns_follow_the_order_given(long: pd.DataFrame) -> None:
    wide = tables.ood_for_people(long)
    assert wide["system"].tolist() == ["Base", "System A", "Human"]
    assert wide.columns.tolist()[1:5] == ["bert_r1", "bert_r2", "roberta_r1", "roberta_r2"]


def test_mean_and_sd_over_seeds_by_hand(long: pd.DataFrame) -> None:
    row = tables.ood_for_people(long).set_index("system").loc["System A"]
    assert row["bert_r1"] == pytest.approx(0.6)
    assert row["bert_r1_sd"] == pytest.approx(0.2 / 2**0.5)
    assert row["roberta_r1"] == pytest.approx(0.7)
    assert row["n_seeds"] == 2


def test_interval_over_seeds_by_hand(long: pd.DataFrame) -> None:
    row = long[(long["slug"] == "a") & (long["encoder"] == "bert") & (long["round"] == "R1")].iloc[0]
    # t(0.975, 1 degree of freedom) = 12.7062047, sd = 0.2 / sqrt 2, n = 2
    assert row["weighted_f1_high"] - row["weighted_f1"] == pytest.approx(12.7062047 * 0.1)


def test_difference_from_human_explanations_is_paired_by_seed(long: pd.DataFrame) -> None:
    row = long[(long["slug"] == "a") & (long["encoder"] == "bert")].set_index("round")
    assert row.loc["R1", "weighted_f1_difference"] == pytest.approx(0.05)
    assert row.loc["R1", "weighted_f1_p"] == pytest.approx(0.5)  # differences 0 and 0.1: t = 1
    assert row.loc["R1", "weighted_f1_p_holm"] == pytest.approx(1)
    assert row.loc["R2", "weighted_f1_p"] == 1
    assert long.loc[long["slug"] == "base", "weighted_f1_p"].isna().all()


def test_what_differs_is_marked(long: pd.DataFrame) -> None:
    marked = long.assign(weighted_f1_p_holm=[0.01] + [1.0] * (len(long) - 1), weighted_f1_difference=-0.1)
    marks = tables.ood_for_people(marked).set_index("system")["differs_from_human_ex"]
    assert marks.tolist() == ["bert R1 weighted_f1 lower", "", ""]


def test_one_seed_has_no_sd(long: pd.DataFrame) -> None:
    assert tables.ood_for_people(long).set_index("system")["bert_r1_sd"].isna()["Base"]


def scored_on_dev(n_truncated: int) -> pd.DataFrame:
    rows = [(system, "dev", seed) for system in ("a", "human", "base") for seed in (1, 2)]
    frame = pd.DataFrame(rows, columns=["system", "split", "seed"]).assign(**dict.fromkeys(FINETUNING_METRICS, 0.5))
    return frame.assign(n=30, share_ties=0.1, n_truncated=n_truncated)


def test_finetuning_tables_hold_the_share_of_ties_and_the_truncated_texts() -> None:
    trained: list[dict[str, int | None]] = [{"base": 7, "a": 2, "human": 2}, {"base": None, "a": 0}]
    long = tables.finetuning([scored_on_dev(3), scored_on_dev(0)], SYSTEMS, ENCODERS, 0.95, "made up", trained)
    found = to_table(long, tables.finetuning_schema())
    assert found["share_ties"].to_pylist() == [0.1] * 6
    assert found["n_truncated"].to_pylist() == [3, 0] * 3
    wide = tables.finetuning_for_people(long)
    columns = ["n_dev", "share_ties_dev", "bert_n_truncated_dev", "roberta_n_truncated_dev"]
    assert wide[columns].to_numpy().tolist() == [[30, 0.1, 3, 0]] * 3
    assert "bert_reference_weighted_f1_dev" in wide
    assert found["n_train_truncated"].to_pylist() == [7, None, 2, 0, 2, None]
    assert wide["bert_n_train_truncated"].tolist() == [7, 2, 2]


def test_truncated_training_texts_are_read_from_the_base_and_the_history(tmp_path: Path) -> None:
    history = pd.DataFrame({"system": ["a", "a", "human"]})
    about = {"truncated": {"train": {"n": 9, "n_truncated": 2}, "dev": {"n": 9, "n_truncated": 5}}}
    write_parquet(history, tmp_path / "history.parquet", pa.schema([("system", pa.string())]), about)
    assert tables.truncated_in_training(tmp_path, tmp_path / "history.parquet", "base") == {
        "base": None,
        "a": 2,
        "human": 2,
    }
    (tmp_path / "mjd.json").write_text('{"truncated": {"pairs": {"n": 24, "n_truncated": 7}}}')
    assert tables.truncated_in_training(tmp_path, tmp_path / "history.parquet", "base")["base"] == 7


def test_ood_tables_hold_the_truncated_texts(long: pd.DataFrame) -> None:
    assert to_table(long, tables.ood_schema())["n_truncated"].to_pylist() == [3] * 12
    assert tables.ood_for_people(long)["bert_n_truncated_r1"].tolist() == [3, 3, 3]
