"""Fixtures shared by the unit tests: NLI labels, toy tables, and tiny encoders."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from mjd.labels import LabelSet, label_set

# -- labels and tables -------------------------------------------------------------------------------------------

# The hypothesis word that gives the label away, so that a tiny classifier can learn the toy task.
CLUES = {"e": "certainly", "n": "perhaps", "c": "never"}
SCENES = [
    "a nurse pushes an empty bed",
    "two boys throw a red ball over the old garden wall",
    "the council met",
    "an old man reads the newspaper on a bench near the harbour every single morning",
    "the baker opens her shop before sunrise",
    "rain fell",
    "a dog waits for the train with its owner",
    "the parcel reached us on tuesday and some of the jars had survived",
]


@pytest.fixture(scope="session")
def nli_labels() -> LabelSet:
    """Entailment, neutral, contradiction with keys e, n, c."""
    names = {"e": "entailment", "n": "neutral", "c": "contradiction"}
    return label_set({"key": key, "name": name} for key, name in names.items())


@pytest.fixture
def toy_pairs() -> pd.DataFrame:
    """24 labelled pairs (schema `pairs`), 8 a label."""
    rows = [
        {"uid": f"pair-{key}{index}", "premise": scene, "hypothesis": f"it is {clue} so", "label": key}
        for index, scene in enumerate(SCENES)
        for key, clue in CLUES.items()
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def toy_items(toy_pairs: pd.DataFrame) -> pd.DataFrame:
    """36 items (schema `items`), 12 each of train, dev and test; the HJD favours the clue's label with 0.8."""
    rows = []
    for position, pair in enumerate(pd.concat([toy_pairs, toy_pairs[:12]]).to_dict("records")):
        split = ("train", "dev", "test")[position // 12]
        hjd = {f"hjd_{key}": 0.8 if key == pair["label"] else 0.1 for key in CLUES}
        texts = {field: pair[field] for field in ("premise", "hypothesis")}
        rows.append({"uid": f"{split}-{position}", **texts, **hjd, "split": split})
    return pd.DataFrame(rows)


@pytest.fixture
def toy_ood(toy_pairs: pd.DataFrame) -> pd.DataFrame:
    """Two rounds of 9 items (schema `ood`)."""
    parts = [toy_pairs[:9].assign(round="R1"), toy_pairs[9:18].assign(round="R2")]
    return pd.concat(parts, ignore_index=True)[["uid", "round", "premise", "hypothesis", "label"]]


# -- tiny encoders -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model directory of a tiny BERT."""
    from tests.unit.tiny_encoders import save_tiny_bert  # imports PyTorch

    return save_tiny_bert(tmp_path_factory.mktemp("tiny-bert"))


@pytest.fixture(scope="session")
def tiny_roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model directory of a tiny RoBERTa."""
    from tests.unit.tiny_encoders import save_tiny_roberta  # imports PyTorch

    return save_tiny_roberta(tmp_path_factory.mktemp("tiny-roberta"))


@pytest.fixture(scope="session")
def tiny_deberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model directory of a tiny DeBERTa-v2."""
    from tests.unit.tiny_encoders import save_tiny_deberta  # imports PyTorch

    return save_tiny_deberta(tmp_path_factory.mktemp("tiny-deberta"))


@pytest.fixture(params=["tiny_bert", "tiny_roberta", "tiny_deberta"])
def tiny_encoder(request: pytest.FixtureRequest) -> Path:
    """Each tiny encoder in turn."""
    directory: Path = request.getfixturevalue(request.param)
    return directory
