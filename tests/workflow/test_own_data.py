"""A data set of one's own as docs/extending.md has it: few labels, no HJDs of training items, from end to end."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from tests.workflow.conftest import ROOT, Run

HJD = ["hjd_e", "hjd_n", "hjd_c"]


@pytest.fixture(scope="module")
def own(snakemake: Run, tiny_llm: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of the sample's items without their HJDs and without one of the two kinds of label counts.

    With a tiny LLM and as little work as makes every table.
    """
    folder = tmp_path_factory.mktemp("own data")
    items = pd.read_csv(ROOT / "resources/sample/synthetic_items.csv")
    items.loc[items["split"] == "train", HJD] = None
    items.drop(columns=["mnli_e", "mnli_n", "mnli_c"]).to_csv(folder / "items.csv", index=False)
    config = {
        "extends": "config/config.yaml",
        "results_dir": str(folder / "results"),
        "limit": 2,
        **tiny_llm,
        "task": {"train_hjd": "none", "label_counts": {"mnli": None}},
        "data": {"title": "own", "items": {"items": str(folder / "items.csv")}},
        "explanations": {"sources": ["human"]},
        "scoring": {"estimators": {"softmax": None, "softmax-cv": None}},
        "analyses": {"convergence_items": 2, "generated_prompts": 1, "generated_tokens": 4},
        "statistics": {"resamples": 200},
        "finetuning": {"epochs": 1, "seeds": 1},
        "base_classifier": {"epochs": 1},
    }
    (folder / "own.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    done = snakemake("all", "--configfile", str(folder / "own.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "results"


def test_data_without_train_hjds_train_on_mjds_and_label_counts(own: Path) -> None:
    table = pd.read_csv(own / "tables/ood.csv")
    trained = ["VariErr dist", "SmolLM2 MJD + human-ex"]
    assert table["system"].tolist() == ["Zero-shot-LM", "MNLI-FT-LM", *trained]
    assert set(table["data_set"]) == {"own (synthetic)"}


def test_data_without_train_hjds_have_no_comparison_with_them(own: Path) -> None:
    assert not (own / "tables/distribution_comparison.csv").exists()
    convergence = pd.read_parquet(own / "tables/convergence.parquet")
    assert convergence[["kl_to_human", "dcor_to_human"]].isna().all(axis=None)
    assert convergence["tvd_to_all"].notna().all()
