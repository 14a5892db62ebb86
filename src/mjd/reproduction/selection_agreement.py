"""How far our selections from published raw answers agree with the authors' selections, and why where they do not."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa

from mjd.explanations.selection import Selection, candidates, listed_lines, select
from mjd.labels import LabelSet

_INDENTED_ITEM = re.compile(r"^\s+(?:[*\-+•–]|\d{1,2}[.)])\s+(?P<text>\S.*?)\s*$", re.MULTILINE)

# Reasons of a disagreement, and what each says about the place where the selections differ.
REASONS = {
    "other labels": "one of the two has no explanation there, or one for another label",
    "list-less answer": "the answer has no list, and the authors cut it up in another way",
    "not in the answer": "the published text does not stand in the raw answer",
    "cut-off": "the published text is the beginning of a candidate",
    "nested list": "ours is an item of a list inside a list",
    "other parsing": "the published text stands in the answer, but is not one of our candidates",
    "candidates used up": "more explanations wanted than candidates: ours start again, one after the other",
    "tie in length": "both are candidates of the same length",
    "line break in length": "one character apart, and the last candidate of an answer has no line break",
    "other order": "both are candidates, ranked in another order",
}


@dataclass(frozen=True)
class PublishedSelection:
    """One published selection and what it was made from.

    Attributes:
        llm: id of the published set; `title` its name for people.
        wanted: labels wanted for each uid, in the order shown (`mjd.explanations.selection.wanted_labels`).
        theirs: the authors' selection: uid, position, label, text.
        answers: the raw answers: uid, label, text.
        line_breaks: how `longest` counts (`mjd.explanations.selection.rank_candidates`).
    """

    llm: str
    title: str
    source: str
    selection: Selection
    wanted: Mapping[str, Sequence[str]]
    theirs: pd.DataFrame
    answers: pd.DataFrame
    line_breaks: bool = False


def agreement_schema() -> pa.Schema:
    """Columns of selection_agreement.parquet: one row an LLM, source and selection; n items, agreeing ones."""
    texts = [pa.field(name, pa.string()) for name in ("llm", "title", "source", "selection")]
    counts = [pa.field(name, pa.int64()) for name in ("n", "agreeing")]
    return pa.schema([*texts, *counts, pa.field("data_set", pa.string())])


def disagreements_schema() -> pa.Schema:
    """Columns of selection_disagreements.parquet: one row a place where the two selections of an item differ.

    `place` counts an item's explanations from 0, those of a label-free selection in label order; `ours` and `theirs`
    are texts, null where there is none; `reason` is a key of `REASONS`.
    """
    texts = [pa.field(name, pa.string()) for name in ("llm", "title", "source", "selection", "uid")]
    place = [pa.field("place", pa.int64()), pa.field("label", pa.string())]
    found = [pa.field(name, pa.string()) for name in ("ours", "theirs", "reason", "data_set")]
    return pa.schema([*texts, *place, *found])


def compare_selections(
    published: Sequence[PublishedSelection], labels: LabelSet, data_set: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Select from the raw answers and compare with the authors' selections, white space aside.

    The order of labels in label-free selections is a matter of layout (it differs between the published files): those
    are compared label by label, all others place by place.

    Returns:
        The tables of `agreement_schema` and `disagreements_schema`.
    """
    summary, places = [], []
    for one in published:
        found = _differing_places(one, labels)
        named = {"llm": one.llm, "title": one.title, "source": one.source, "selection": one.selection}
        differing = {place["uid"] for place in found}
        summary.append(named | {"n": len(one.wanted), "agreeing": len(one.wanted) - len(differing)})
        places += [named | place for place in found]
    agreement = pd.DataFrame(summary, columns=agreement_schema().names).assign(data_set=data_set)
    return agreement, pd.DataFrame(places, columns=disagreements_schema().names).assign(data_set=data_set)


@dataclass(frozen=True)
class _Shown:
    """An explanation at its place: label and text without superfluous white space."""

    label: str
    text: str


def _differing_places(one: PublishedSelection, labels: LabelSet) -> list[dict[str, object]]:
    ours = select(candidates(one.answers), one.wanted, one.selection, f"{one.llm} {one.source}", one.line_breaks)
    answers = {(uid, label): text for uid, label, text in one.answers[["uid", "label", "text"]].to_numpy()}
    by_label = one.source == "lf"
    shown_ours, shown_theirs = _shown(ours, labels, by_label), _shown(one.theirs, labels, by_label)
    places: list[dict[str, object]] = []
    for uid in one.wanted:
        pairs = list(itertools.zip_longest(shown_ours.get(uid, []), shown_theirs.get(uid, [])))
        for place, (our, their) in enumerate(pairs):
            if our == their:
                continue
            label = (our or their).label
            earlier = sum(1 for before, _ in pairs[:place] if before and before.label == label)
            places.append(
                {
                    "uid": uid,
                    "place": place,
                    "label": label,
                    "ours": our and our.text,
                    "theirs": their and their.text,
                    "reason": _reason(our, their, answers[uid, label], earlier, one.selection),
                }
            )
    return places


def _shown(selected: pd.DataFrame, labels: LabelSet, by_label: bool) -> dict[str, list[_Shown]]:
    """Explanations of each item in the order shown, or by label where that order does not count."""
    found: dict[str, list[_Shown]] = {}
    for row in selected.sort_values(["uid", "position"], kind="stable").itertuples():
        found.setdefault(str(row.uid), []).append(_Shown(str(row.label), _squeezed(str(row.text))))
    if by_label:
        return {uid: sorted(shown, key=lambda one: labels.index(one.label)) for uid, shown in found.items()}
    return found


def _squeezed(text: str) -> str:
    return " ".join(text.split())


def _reason(ours: _Shown | None, theirs: _Shown | None, answer: str, earlier: int, selection: Selection) -> str:
    """Why two explanations of one place differ: a key of `REASONS`.

    Args:
        answer: the raw answer for the label.
        earlier: how many explanations of the label stand before this place.
    """
    if ours is None or theirs is None or ours.label != theirs.label:
        return "other labels"
    found = [_squeezed(text) for text in listed_lines(answer)]
    if not found:
        return "list-less answer"
    if theirs.text not in found:
        return _parsed_otherwise(ours.text, theirs.text, found, answer)
    if earlier >= len(found):
        return "candidates used up"
    if selection == "longest":
        apart = abs(len(ours.text) - len(theirs.text))
        if apart == 0:
            return "tie in length"
        if apart == 1 and found[-1] in (ours.text, theirs.text):
            return "line break in length"
    return "other order"


def _parsed_otherwise(ours: str, theirs: str, found: Sequence[str], answer: str) -> str:
    """Why a published text is not among our candidates `found`."""
    if theirs not in _squeezed(answer):
        return "not in the answer"
    if any(text.startswith(theirs) for text in found):
        return "cut-off"
    nested = {_squeezed(match["text"]) for match in _INDENTED_ITEM.finditer(answer)}
    return "nested list" if ours in nested else "other parsing"
