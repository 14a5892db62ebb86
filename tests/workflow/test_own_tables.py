"""The user's tables in the workflow: shared texts are warned of, recorded, and no reason to train again."""

from __future__ import annotations

import csv
from pathlib import Path

from mjd.io import read_parquet, read_provenance
from tests.workflow.conftest import ROOT, Run

SAMPLE = ROOT / "resources/sample"


def _copy_with_texts_of(item: dict[str, str], source: Path, target: Path) -> None:
    """A copy of a sample table whose first row has an item's texts."""
    with source.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    rows[0] |= {"premise": item["premise"].upper(), "hypothesis": f" {item['hypothesis']}"}
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def test_texts_of_items_in_pairs_and_ood_are_recorded_and_new_items_load_no_pairs(
    snakemake: Run, tmp_path: Path
) -> None:
    with (SAMPLE / "synthetic_items.csv").open(encoding="utf-8", newline="") as file:
        item = next(row for row in csv.DictReader(file) if row["split"] == "test")
    for name in ("synthetic_nli_pairs", "synthetic_ood"):
        _copy_with_texts_of(item, SAMPLE / f"{name}.csv", tmp_path / f"{name}.csv")
    own_items = tmp_path / "items.csv"
    own_items.write_bytes((SAMPLE / "synthetic_items.csv").read_bytes())
    results = tmp_path / "results"
    paths = {
        "pairs": {"path": str(tmp_path / "synthetic_nli_pairs.csv")},
        "ood": {"path": str(tmp_path / "synthetic_ood.csv")},
    }
    config = {"results_dir": str(results), "data": {"items": {"items": str(own_items)}, **paths}}
    done = snakemake("--cores", "1", "data", config=config)
    assert done.returncode == 0, done.stderr
    assert "data_warnings" not in read_provenance(results / "data/items.parquet")
    for name, uid, what in (("pairs", "synthetic-pair-001", "pairs"), ("ood", "synthetic-r1-01", "OOD items")):
        found = read_provenance(results / f"data/{name}.parquet")["data_warnings"]
        assert found == {"texts_of_items": {"test": {"n_rows": 1, "examples": [[uid, item["uid"]]]}}}
        assert f"{what} have the texts of test items" in done.stderr
    own_items.write_bytes(own_items.read_bytes().replace(b"0.62,0.33,0.05", b"0.62,0.32,0.06"))
    planned = snakemake("-n", "data", config=config)
    assert "load_items" in planned.stdout + planned.stderr
    assert "load_pairs" not in planned.stdout + planned.stderr


def test_pairs_without_the_items_file_load(snakemake: Run, tmp_path: Path) -> None:
    results = tmp_path / "results"
    config = {"results_dir": str(results), "data": {"items": {"items": str(tmp_path / "absent.csv")}}}
    done = snakemake("--cores", "1", str(results / "data/pairs.parquet"), config=config)
    assert done.returncode == 0, done.stderr
    assert "data_warnings" not in read_provenance(results / "data/pairs.parquet")


def test_distributions_of_changed_items_are_made_again(snakemake: Run, tmp_path: Path) -> None:
    own_items, results = tmp_path / "items.csv", tmp_path / "results"
    own_items.write_bytes((SAMPLE / "synthetic_items.csv").read_bytes())
    config = {"results_dir": str(results), "data": {"items": {"items": str(own_items)}}}
    target = str(results / "distributions/hjd.parquet")
    assert snakemake("--cores", "1", target, config=config).returncode == 0
    before = read_parquet(target)
    own_items.write_bytes(own_items.read_bytes().replace(b"0.62,0.33,0.05", b"0.62,0.32,0.06"))
    done = snakemake("--cores", "1", target, config=config)
    assert done.returncode == 0, done.stderr
    changed = read_parquet(target).set_index("uid").compare(before.set_index("uid"), result_names=("now", "before"))
    assert changed["p_c", "now"].tolist() == [0.06]
