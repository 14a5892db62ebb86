"""The configuration `prompts: mjd-estimator`, from public files to the file that explain and score rules read."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from mjd.prompts.templates import prompts_from
from tests.unit.reproduction.test_upstream_prompts import (
    ITEMS,
    PUBLISHED,
    SETUP,
    TEXTS,
    WRITERS,
    answer_files,
    notebook,
)
from tests.workflow.conftest import ROOT
from tests.workflow.made_up import make_checkout, run_checkout


def test_prompts_of_public_files_are_made_by_their_rule(tmp_path: Path) -> None:
    answers, items = answer_files(tmp_path / "upstream")
    files = {
        "mjd-estimator-notebook": {
            "MJD-generator/MJD-generator.ipynb": notebook(tmp_path / "n.ipynb", SETUP, WRITERS).read_text()
        },
        "mjd-estimator-items": {"MJD-generator/NLI_explanations.json": items.read_text()},
        "published-big": {
            f"{index}/{label}": (answers / f"{index}/{label}").read_text()
            for index in range(len(ITEMS))
            for label in "ENC"
        },
    }
    sample = yaml.safe_load((ROOT / "config/config.yaml").read_text()) | {"prompts": "mjd-estimator"}
    big = PUBLISHED.model_dump(exclude_defaults=True) | {"source": "published-big"}
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    make_checkout(checkout, files, {"llama3": big}, sample)
    run_checkout(checkout, "prompts/mjd-estimator.json")
    path = checkout / "results/prompts/mjd-estimator.json"
    prompts = prompts_from(str(path))
    assert prompts.explicit == "Remark {number} - {text} Hence {label}. "
    assert prompts.explain["n"].startswith("Tell me {{all}} for N.")  # type: ignore[index]
    assert json.loads(path.read_text())["provenance"]["rule"] == "upstream_prompts"
    assert all(f"{{{field}}}" in prompts.score for field in TEXTS)
