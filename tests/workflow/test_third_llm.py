"""Published answers of a further LLM work by registry entries alone: a made-up one, in a checkout of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mjd.io import read_parquet
from tests.workflow.made_up import make_checkout, run_checkout

CONFIG = {
    "extends": "config/nli.yaml",
    "data": {
        "title": "Made up",
        "items": {"loader": "mjd-estimator"},
        "pairs": {"loader": "esnli"},
        "ood": {"loader": "anli-dev"},
    },
    "llms": {"smollm2": {"title": "SmolLM2", "model": "smollm2-135m-instruct"}},
    "encoders": {"minilm": {"title": "MiniLM", "model": "all-minilm-l6-v2"}},
    "explanations": {"generator": "published/third", "sources": ["lf", "varierr-lg", "mnli-lg"]},
    "scoring": {"scorer": "smollm2", "modes": ["explicit"], "estimators": {"softmax": {"kind": "first_token"}}},
}
THIRD = {
    "title": "Third",
    "source": "third-answers",
    "answers": "raw/{index}-{label}.txt",
    "labels": {"e": "entailment", "n": "neutral", "c": "contradiction"},
    "answer_after": "[assistant]",
    "answer_before": "[end]",
    "selections_source": "third-selections",
    "selections": {"lf-first": "chosen/lf.json", "mnli-lg-longest": "chosen/mnli.json"},
}
NAMES = ("one", "two")


def lines(*records: dict[str, Any]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def texts(name: str) -> dict[str, str]:
    return {"premise": f"P {name}.", "hypothesis": "H."}


def upstream_files() -> dict[str, dict[str, str]]:
    """Files of each source in miniature: two train items, one dev, one test; answers and selections of `third`."""
    comments = [["because", "e"], ["or not", "n"]]
    counts = {"mnli labels": ["c", [1, 0, 2]], "varierr labels": [1, 1, 0], "comments": comments}
    chaos = [
        {"uid": f"u-{name}", "label_counter": {"e": 20, "n": 30, "c": 50}, "example": texts(name)}
        for name in (*NAMES, "dev", "test")
    ]
    answers = {
        f"raw/{index}-{label}.txt": f"[user] {name}: P {name}. H. [assistant] * {code}\n* {code} {name}\n[end]"
        for index, name in enumerate(NAMES)
        for code, label in THIRD["labels"].items()  # type: ignore[attr-defined]
    }
    label_free = [texts(name) | {"comments": [["c", "c"], ["e", "e"], ["n", "n"]]} for name in NAMES]
    guided = [
        texts("one") | {"comments": [["e one", "e"], ["c one", "c"], ["c", "c"]]},
        texts("two") | {"comments": [["e two", "e"], ["c", "c"], ["c two", "c"]]},  # the other way round
    ]
    return {
        "mjd-estimator-items": {"MJD-generator/NLI_explanations.json": lines(*(texts(n) | counts for n in NAMES))},
        "mjd-estimator-splits": {
            f"MJD-fine-tuning/data/chaos_dev_test/{split}.json": lines(texts(split)) for split in ("dev", "test")
        },
        "chaosnli-mnli": {"data/chaosNLI_v1.0/chaosNLI_mnli_m.jsonl": lines(*chaos)},
        "third-answers": answers,
        "third-selections": {"chosen/lf.json": lines(*label_free), "chosen/mnli.json": lines(*guided)},
    }


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results folder of a checkout whose registry has `third`, after its selections were made and compared."""
    folder = tmp_path_factory.mktemp("third")
    make_checkout(folder, upstream_files(), {"third": THIRD}, CONFIG)
    run_checkout(
        folder, "tables/selection_agreement.csv", "explanations/published-third/selected/varierr-lg-first.parquet"
    )
    return folder / "results"


def test_answers_of_a_third_llm_are_selected_from(tables: Path) -> None:
    selected = read_parquet(tables / "explanations/published-third/selected/varierr-lg-first.parquet")
    assert selected["text"].tolist() == ["e", "n", "e", "n"]
    assert selected["uid"].tolist() == ["u-one", "u-one", "u-two", "u-two"]


def test_selections_of_a_third_llm_are_compared(tables: Path) -> None:
    agreement = pd.read_csv(tables / "tables/selection_agreement.csv")
    assert agreement[["llm", "source", "selection", "n", "agreeing"]].to_numpy().tolist() == [
        ["third", "lf", "first", 2, 2],
        ["third", "mnli-lg", "longest", 2, 1],
    ]


def test_disagreements_of_a_third_llm_are_explained(tables: Path) -> None:
    differing = pd.read_csv(tables / "tables/selection_disagreements.csv")
    assert differing[["uid", "place", "ours", "theirs", "reason"]].to_numpy().tolist() == [
        ["u-two", 1, "c two", "c", "other order"],
        ["u-two", 2, "c", "c two", "other order"],
    ]
