"""Texts that stand in tables twice: warnings with examples, and a record for the provenance."""

from __future__ import annotations

import pandas as pd
import pytest

from mjd.data.overlap import items_overlap, items_report, report_entry, text_keys
from mjd.labels import LabelSet

FIELDS = ["premise", "hypothesis"]


def items(*rows: tuple[str, str, str, list[float]]) -> pd.DataFrame:
    """(uid, premise, split, HJD) with one hypothesis."""
    frame = pd.DataFrame([(uid, premise, "h", split) for uid, premise, split, _ in rows],
                         columns=["uid", *FIELDS, "split"])  # fmt: skip
    frame[["hjd_e", "hjd_n", "hjd_c"]] = [hjd for *_, hjd in rows]
    return frame


SOFT, OTHER, VOTE = [0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [1.0, 0.0, 0.0]
NONE = [float("nan")] * 3


def test_distinct_texts_with_soft_hjds_give_no_warning(nli_labels: LabelSet, caplog: pytest.LogCaptureFixture) -> None:
    table = items(("a", "x", "train", SOFT), ("b", "y", "train", VOTE), ("d", "z", "dev", VOTE))
    found = items_report(table, nli_labels, FIELDS, [], "items.csv")
    assert found == {}
    assert report_entry(found) == {}
    assert not caplog.records


def test_repeated_texts_are_reported_with_those_that_differ_in_distribution(
    nli_labels: LabelSet, caplog: pytest.LogCaptureFixture
) -> None:
    table = items(("a", "x", "train", SOFT), ("b", " X\u00a0", "train", OTHER), ("c", "y", "train", SOFT),
                  ("d", "Y", "train", SOFT), ("f", "z", "train", SOFT))  # fmt: skip
    found = items_report(table, nli_labels, FIELDS, [], "items.csv")
    assert found == {
        "repeated_texts": {"n_texts": 2, "n_items": 4, "n_with_different_distributions": 1, "examples": [["a", "b"]]}
    }
    assert report_entry(found) == {"data_warnings": found}
    assert "items.csv: 4 items share their texts with another one (2 texts), 1 texts with different" in caplog.text
    assert "'a', 'b'" in caplog.text


def test_items_without_hjds_share_texts_without_different_distributions(nli_labels: LabelSet) -> None:
    table = items(("a", "x", "train", NONE), ("b", "x", "train", NONE))
    found = items_report(table, nli_labels, FIELDS, [], "items.csv")
    assert found["repeated_texts"]["n_with_different_distributions"] == 0


def test_texts_in_two_splits_are_reported_by_split(nli_labels: LabelSet, caplog: pytest.LogCaptureFixture) -> None:
    table = items(
        ("a", "x", "train", SOFT), ("b", "x", "test", SOFT), ("c", "y", "dev", SOFT), ("d", "y", "test", SOFT)
    )
    found = items_report(table, nli_labels, FIELDS, [], "items.csv")
    assert found["texts_in_two_splits"] == {
        "train, test": {"n_texts": 1, "examples": [["a", "b"]]},
        "dev, test": {"n_texts": 1, "examples": [["c", "d"]]},
    }
    assert "1 texts stand in split train and in split test, e.g. items 'a', 'b'" in caplog.text


def test_splits_of_single_votes_are_reported(nli_labels: LabelSet, caplog: pytest.LogCaptureFixture) -> None:
    table = items(("a", "x", "train", VOTE), ("b", "y", "train", [0.0, 1.0, 0.0]), ("c", "z", "train", NONE),
                  ("d", "u", "test", VOTE), ("f", "v", "test", SOFT))  # fmt: skip
    assert items_report(table, nli_labels, FIELDS, [], "items.csv") == {"single_vote_hjds": {"train": 2}}
    assert "every HJD of split train (2 items) gives one label everything" in caplog.text


def test_pairs_with_the_texts_of_items_are_reported_by_split(caplog: pytest.LogCaptureFixture) -> None:
    own = items(("a", "x", "train", SOFT), ("b", "caf\u00e9", "test", SOFT), ("c", "y", "dev", SOFT))
    pairs = pd.DataFrame(
        {"uid": ["p", "q", "r"], "premise": ["x ", "CAFE\u0301", "new"], "hypothesis": ["H", "h", "h"]}
    )
    assert items_overlap(pairs, own, FIELDS, "pairs.csv", "pairs") == {
        "texts_of_items": {
            "train": {"n_rows": 1, "examples": [["p", "a"]]},
            "test": {"n_rows": 1, "examples": [["q", "b"]]},
        }
    }
    assert "pairs.csv: 1 of 3 pairs have the texts of test items, e.g. 'q', 'b'" in caplog.text
    assert items_overlap(pairs[2:], own, FIELDS, "pairs.csv", "pairs") == {}
    assert items_overlap(pairs, None, FIELDS, "pairs.csv", "pairs") == {}


def test_texts_of_two_fields_do_not_run_together() -> None:
    table = pd.DataFrame({"premise": ["a b", "a"], "hypothesis": ["c", "b c"]})
    assert text_keys(table, FIELDS).nunique() == 2


def test_label_counts_that_differ_or_are_missing_are_compared(nli_labels: LabelSet) -> None:
    table = items(
        ("a", "x", "train", NONE), ("b", "x", "train", NONE), ("c", "y", "dev", SOFT), ("d", "y", "dev", SOFT)
    )
    for column, counts in zip(
        nli_labels.columns("own"), ([4, 3, None, None], [1, 2, None, None], [0] * 4), strict=True
    ):
        table[column] = pd.array(counts, dtype="Int64")
    found = items_report(table, nli_labels, FIELDS, ["own"], "items.csv")["repeated_texts"]
    assert (found["n_texts"], found["n_with_different_distributions"], found["examples"]) == (2, 1, [["a", "b"]])
