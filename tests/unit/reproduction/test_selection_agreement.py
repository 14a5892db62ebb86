"""Selections of published sets beside ours: who agrees, and a reason where one does not."""

from __future__ import annotations

import pandas as pd
import pytest

from mjd.io import to_table
from mjd.labels import LabelSet
from mjd.reproduction.selection_agreement import (
    REASONS,
    PublishedSelection,
    agreement_schema,
    compare_selections,
    disagreements_schema,
)

ANSWERS = {
    "e": "* e one\n* e two is long\n",
    "n": "n alone",
    "c": "1. c one\n2. c two",
}


def published(
    shown: list[tuple[str, str]],
    source: str = "mnli-lg",
    selection: str = "first",
    answers: dict[str, str] | None = None,
    wanted: str | None = None,
) -> PublishedSelection:
    """A published selection of one item, wanted as shown unless `wanted` says otherwise."""
    theirs = [("i1", place, label, text) for place, (label, text) in enumerate(shown)]
    return PublishedSelection(
        llm="third",
        title="Third",
        source=source,
        selection=selection,  # type: ignore[arg-type]
        wanted={"i1": list(wanted or [label for label, _ in shown])},
        theirs=pd.DataFrame(theirs, columns=["uid", "position", "label", "text"]),
        answers=pd.DataFrame(
            [("i1", label, text) for label, text in (ANSWERS | (answers or {})).items()],
            columns=["uid", "label", "text"],
        ),
    )


def reasons(one: PublishedSelection, labels: LabelSet) -> list[str]:
    return compare_selections([one], labels, "made up")[1]["reason"].tolist()


def test_equal_selections_agree_white_space_aside(nli_labels: LabelSet) -> None:
    same = published([("e", "e  one "), ("c", "c one"), ("c", "c\ntwo")])
    agreement, differing = compare_selections([same], nli_labels, "made up")
    assert agreement.to_dict("records") == [
        {"llm": "third", "title": "Third", "source": "mnli-lg", "selection": "first", "n": 1, "agreeing": 1}
        | {"data_set": "made up"}
    ]
    assert differing.empty
    to_table(agreement, agreement_schema())
    to_table(differing, disagreements_schema())


def test_label_free_selections_are_compared_by_label(nli_labels: LabelSet) -> None:
    shown = [("e", "e one"), ("c", "c one"), ("n", "n alone")]
    assert compare_selections([published(shown, "lf")], nli_labels, "x")[0]["agreeing"].tolist() == [1]


def test_label_guided_selections_are_compared_place_by_place(nli_labels: LabelSet) -> None:
    shown = [("c", "c one"), ("e", "e one")]
    assert reasons(published(shown, wanted="ec"), nli_labels) == ["other labels", "other labels"]


def test_disagreement_holds_both_texts(nli_labels: LabelSet) -> None:
    two = published([("e", "e one"), ("c", "c two")])
    agreement, differing = compare_selections([two], nli_labels, "made up")
    assert agreement["agreeing"].tolist() == [0]
    row = differing.iloc[0]
    assert (row["uid"], row["place"], row["label"], row["ours"], row["theirs"]) == ("i1", 1, "c", "c one", "c two")


@pytest.mark.parametrize(
    ("reason", "one"),
    [
        ("other labels", published([("e", "e one")], wanted="ee")),
        ("list-less answer", published([("n", "alone")])),
        ("not in the answer", published([("e", "made up")])),
        ("cut-off", published([("e", "e o")])),
        ("nested list", published([("e", "a b")], answers={"e": "a\nb\n  - nested\n"})),
        ("other parsing", published([("e", "two is")])),
        ("candidates used up", published([("c", "c one"), ("c", "c two"), ("c", "c one"), ("c", "c one")])),
        ("tie in length", published([("c", "c two")], selection="longest")),
        ("line break in length", published([("e", "12")], selection="longest", answers={"e": "- 12\n- 123"})),
        ("other order", published([("e", "e one")], selection="longest")),
    ],
)
def test_every_reason_is_found(nli_labels: LabelSet, reason: str, one: PublishedSelection) -> None:
    assert reasons(one, nli_labels) == [reason]
    assert reason in REASONS


def test_counting_line_breaks_prefers_what_is_not_the_last(nli_labels: LabelSet) -> None:
    one = published([("e", "12")], selection="longest", answers={"e": "- 12\n- 123"})
    counted = PublishedSelection(**(vars(one) | {"line_breaks": True}))
    assert reasons(counted, nli_labels) == []
