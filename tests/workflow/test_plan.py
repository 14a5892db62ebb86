"""`snakemake plan`: what a run will ask for, before and after it did."""

from pathlib import Path

import pandas as pd

from tests.workflow.conftest import Run


def test_plan_after_some_scores_counts_what_is_left(snakemake: Run, tmp_path: Path) -> None:
    config = {"results_dir": str(tmp_path), "limit": 2}
    done = snakemake("--cores", "all", "plan", config=config)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "generate_explanations" in done.stderr
    before = pd.read_csv(tmp_path / "tables" / "plan.csv").set_index("rule")
    assert before.loc["generate_explanations", "prompts"] == 6
    assert (before["cached_share"] == 0).all()
    assert before.loc["score", "tokens"] == "own"

    scores = f"{tmp_path}/scores/smollm2/none-all-plain.parquet"
    assert snakemake("--cores", "all", scores, config=config).returncode == 0
    assert snakemake("--cores", "all", "plan", config=config).returncode == 0
    jobs = pd.read_parquet(tmp_path / "tables" / "plan.parquet").set_index("variant")
    assert jobs["cached_share"].to_dict() == {name: float(name == "none-all-plain") for name in jobs.index}
    assert jobs.loc["none-all-plain", "prompts"] == len(pd.read_parquet(scores))
