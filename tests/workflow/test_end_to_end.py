"""The whole pipeline on the first items of the sample, tables twice.

Models are tiny ones: what SmolLM2 answers is compared in test_letter_tokens.py, MiniLM is trained in test_own_data.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mjd.classifiers.evaluation import finetuning_table
from mjd.config.files import read_config
from mjd.evaluation.metrics import entropy
from mjd.io import read_parquet, read_provenance
from tests.workflow.conftest import Run

TABLES = ["distribution_comparison", "finetuning", "ood", "bias", "convergence", "first_token", "finding"]
# Tables of the second run: what LLMs answer, trained classifiers, and every kind of statistic.
REPEATED = ["distribution_comparison", "finetuning", "ood", "bias", "convergence", "first_token"]
# As little work as goes through every rule, with two items a split.
CHEAP = {
    "limit": 2,
    "explanations": {"sampling": {"max_new_tokens": 16, "temperature": 0}},
    "scoring": {"estimators": {"softmax": None}},
    "analyses": {"convergence_items": 2, "generated_prompts": 2, "generated_tokens": 4},
    "statistics": {"resamples": 200},
    "base_classifier": {"epochs": 1},
    "finetuning": {"epochs": 1, "seeds": 1},
}


@pytest.fixture(scope="module")
def config(tiny_models: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The configuration whose tables the first run makes."""
    return {"results_dir": str(tmp_path_factory.mktemp("results")), **CHEAP, **tiny_models}


@pytest.fixture(scope="module")
def results(snakemake: Run, config: dict[str, Any]) -> Path:
    """Results of the first run."""
    done = snakemake("--cores", "all", "all", config=config)
    assert done.returncode == 0, done.stdout + done.stderr
    return Path(config["results_dir"])


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
def test_table_of_the_sample_says_that_the_data_are_synthetic(results: Path, name: str) -> None:
    table = pd.read_csv(results / "tables" / f"{name}.csv")
    assert set(table["data_set"]) == {"mjd sample (synthetic)"}


@pytest.mark.parametrize("name", TABLES)
def test_parquet_and_csv_of_a_table_hold_the_same_rows(results: Path, name: str) -> None:
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


@pytest.fixture(scope="module")
def again(snakemake: Run, config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a second run, of two of the first one's sources and one of its estimators."""
    folder = tmp_path_factory.mktemp("again")
    fewer = {"explanations": config["explanations"] | {"sources": ["human", "lf"]}}
    fewer["scoring"] = {"estimators": {"softmax": None, "softmax-cv": None}}
    targets = [f"{folder}/tables/{name}.parquet" for name in REPEATED]
    done = snakemake("--cores", "all", *targets, config=config | fewer | {"results_dir": str(folder)})
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.parametrize("name", REPEATED)
def test_table_values_of_a_second_run_with_fewer_sources_are_the_same(results: Path, again: Path, name: str) -> None:
    """Same machine, same number of threads: generation and scores, training, and every statistic."""
    first, second = (read_parquet(folder / "tables" / f"{name}.parquet") for folder in (results, again))
    keys = [column for column in second if not pd.api.types.is_float_dtype(second[column])]
    shared = second[keys].merge(first, on=keys, how="left", validate="one_to_one")
    assert len(second) > 0
    # Holm's correction depends on how many systems are tested.
    columns = [column for column in second if not str(column).endswith("_p_holm")]
    pd.testing.assert_frame_equal(second[columns], shared[columns], check_exact=True)


def test_convergence_figure_is_drawn_as_png_and_svg(results: Path) -> None:
    assert (results / "figures" / "convergence.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "mjd sample (synthetic)" in (results / "figures" / "convergence.svg").read_text(encoding="utf-8")


def test_scores_hold_every_prompt(results: Path) -> None:
    scores = read_parquet(results / "scores" / "smollm2" / "human-all-explicit.parquet")
    assert len(scores) == CHEAP["limit"] * 6
    assert scores[["score_e", "score_n", "score_c"]].notna().all(axis=None)


def test_provenance_of_scores_names_engine_seed_and_versions(results: Path) -> None:
    found = read_provenance(results / "scores" / "smollm2" / "human-all-explicit.parquet")
    assert found["engine"] == "transformers"
    assert found["seed"] == 1
    assert {"version", "git_commit", "config_hash", "engine_version", "model"} <= set(found)


def test_finished_run_repeated_has_nothing_to_do(snakemake: Run, config: dict[str, Any], results: Path) -> None:
    done = snakemake("--cores", "all", f"{results}/tables/ood.csv", config=config)
    assert "Nothing to be done" in done.stdout + done.stderr


def test_finding_whose_table_is_there_prints_its_verdict(snakemake: Run, config: dict[str, Any], results: Path) -> None:
    assert results.is_dir()
    done = snakemake("--cores", "all", "finding", config=config)
    assert "smollm2 reading smollm2: the paper's finding" in done.stdout + done.stderr
    assert "Finished jobid: 0 (Rule: finding)" in done.stdout + done.stderr
