"""Explanations: asking for them, reading lists out of answers, and selecting among the candidates."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import pandas as pd

from mjd.config.data import label_counts_of
from mjd.errors import DataError
from mjd.labels import LabelSet
from mjd.llm.reasoning import after_reasoning
from mjd.llm.unanswered import UnansweredPrompts
from mjd.logs import named

log = logging.getLogger(__name__)

# A list item: a bullet (*, -, +, •, –) or a number (1. or 1)), white space, text.
_LIST_ITEM = re.compile(r"^\s*(?:[*\-+•–]|\d{1,2}[.)])\s+(?P<text>\S.*?)\s*$")
# A line break that Markdown keeps: two spaces before it. Other line breaks only wrap a paragraph.
_HARD_BREAK = re.compile(r" {2,}\r?\n")

# How LLMs say that there is nothing to list, at the start of an answer or candidate.
_REFUSAL = re.compile(
    r"^\W*(?:"
    r"none\b"
    r"|no (?:possible |valid |such )?(?:explanations?|reasons?)\b"
    r"|there (?:is|are) no (?:possible |valid |logical |such )*(?:explanations?|reasons?)\b"
    r"|(?:i'm |i am )?(?:sorry|unable)\b"
    r"|i (?:can't|cannot|can not|could not|couldn't)\b"
    r"|(?:the statement|it) (?:is not|isn't|does not|doesn't) (?:true|logically follow|follow)\b"
    r"|as an ai\b"
    r")",
    re.IGNORECASE,
)

Selection = Literal["first", "longest"]


def parse_candidates(answer: str) -> list[str]:
    """Candidate explanations of one answer: its bullet or numbered lines; a list-less answer is one candidate.

    Reasoning that a model writes before its answer holds none, see `mjd.llm.reasoning`. A list-less answer that keeps
    its line breaks (two spaces before each, as Markdown wants) is a list without bullets. A cut-off last line stays a
    candidate, as in the reference implementation. An empty answer has none.
    """
    text = after_reasoning(answer) or ""
    listed = listed_lines(text)
    parts = (" ".join(part.split()) for part in _HARD_BREAK.split(text.strip()))
    return listed or [part for part in parts if part]


def listed_lines(answer: str) -> list[str]:
    """The bullet or numbered lines of an answer, without their bullets or numbers."""
    matches = (_LIST_ITEM.match(line) for line in answer.splitlines())
    return [match["text"] for match in matches if match]


def is_refusal(text: str) -> bool:
    """True when a candidate says that there is no explanation instead of giving one."""
    return bool(_REFUSAL.match(text))


def candidates(answers: pd.DataFrame) -> pd.DataFrame:
    """Parse raw answers (uid, label, text) into candidates: uid, label, rank, text, is_refusal.

    Answers that never leave their reasoning have none; a warning names them.
    """
    if unfinished := without_answer(answers):
        log.warning(
            "%d answers end within their reasoning and hold no explanation: %s. Turn reasoning off "
            "(llms.*.chat_template_kwargs), or give generation a larger max_new_tokens.",
            len(unfinished),
            named(unfinished),
        )
    rows = [
        (answer.uid, answer.label, rank, text, is_refusal(text))
        for answer in answers.itertuples()
        for rank, text in enumerate(parse_candidates(str(answer.text)))
    ]
    return pd.DataFrame(rows, columns=["uid", "label", "rank", "text", "is_refusal"])


def without_answer(answers: pd.DataFrame) -> list[str]:
    """Names of the raw answers (uid, label, text) that never leave their reasoning."""
    return [
        f"{answer.uid} (label {answer.label})"
        for answer in answers.itertuples()
        if after_reasoning(str(answer.text)) is None
    ]


def rank_candidates(texts: Sequence[str], selection: Selection, line_breaks: bool = False) -> list[str]:
    """Order candidates: `first` as listed; `longest` by length in characters, longest first, ties as listed.

    The length is that of the text without its bullet or number. With `line_breaks`, the line break that follows every
    candidate but the last counts as a character: so the authors counted for some published sets.
    """
    if selection == "first":
        return list(texts)
    lengths = [len(text) + (line_breaks and rank < len(texts) - 1) for rank, text in enumerate(texts)]
    return [texts[rank] for rank in sorted(range(len(texts)), key=lambda rank: -lengths[rank])]


def wanted_labels(
    source: str,
    guided_by: Literal["explanations", "counts"] | None,
    items: pd.DataFrame,
    human_explanations: pd.DataFrame | None,
    labels: LabelSet,
) -> dict[str, list[str]]:
    """For each training item, the labels of the explanations to select, in the order shown.

    Args:
        source: `lf` (each label once, label order) or `<label counts>-lg`.
        guided_by: for label-guided sources: the labels of the item's human explanations in order, or each label
            (in label order) as often as its count says.

    Raises:
        DataError: an item has no human explanation or no counts where the source needs them.
    """
    uids = items["uid"].tolist()
    if source == "lf":
        return {uid: list(labels.keys) for uid in uids}
    if guided_by == "explanations":
        if human_explanations is None:
            raise DataError(f"Source {source} needs human explanations, and the data set has none.", "Drop the source.")
        ordered = human_explanations.sort_values(["uid", "position"])
        by_uid = {str(uid): group.tolist() for uid, group in ordered.groupby("uid")["label"]}
        for uid in uids:
            if uid not in by_uid:
                raise DataError(
                    f"Item {uid} has no human explanation, but source {source} needs one.",
                    "Add one to the human explanations, or remove the item or the source.",
                )
        return {uid: by_uid[uid] for uid in uids}
    columns = labels.columns(label_counts_of(source))
    for uid, missing in zip(uids, items[columns].isna().any(axis=1), strict=True):
        if missing:
            raise DataError(
                f"Item {uid} has no label counts ({', '.join(columns)}), but source {source} needs them.",
                "Fill them in, or remove the item or the source.",
            )
    counts = items[columns].astype(int).to_numpy()
    return {
        uid: [key for key, count in zip(labels.keys, row, strict=True) for _ in range(count)]
        for uid, row in zip(uids, counts, strict=True)
    }


def check_sources(
    sources: Sequence[str],
    guided_by: Mapping[str, Literal["explanations", "counts"]],
    items: pd.DataFrame,
    human_explanations: pd.DataFrame,
    labels: LabelSet,
) -> None:
    """Check that every training item has what the sources need, before any model runs.

    Args:
        sources: the configuration's sources.
        guided_by: what guides each label-guided source.

    Raises:
        DataError: an item lacks a human explanation or label counts.
    """
    for source in sources:
        if source == "human":
            wanted_labels(source, "explanations", items, human_explanations, labels)
        elif source != "none":
            wanted_labels(source, guided_by.get(source), items, human_explanations, labels)


def select(
    found: pd.DataFrame,
    wanted: Mapping[str, Iterable[str]],
    selection: Selection,
    where: str = "candidates",
    line_breaks: bool = False,
    unanswered: UnansweredPrompts | None = None,
) -> pd.DataFrame:
    """Select explanations: uid, position, label, text.

    For each wanted label the next unused candidate of that label; when they run out, from the first again.

    Args:
        found: candidates (uid, label, rank, text).
        wanted: labels wanted for each uid, in the order shown.
        where: names the candidates in errors.
        line_breaks: how `longest` counts, see `rank_candidates`.
        unanswered: under its policy `drop` an explanation whose label has no candidate is left out and counted, and an
            item is left out where none remains.

    Raises:
        DataError: an item has no candidate of a wanted label, and is not to be dropped; or no item has any.
    """
    drops = unanswered is not None and unanswered.drops
    ordered = found.sort_values(["uid", "label", "rank"], kind="stable")
    texts = {
        (str(uid), str(label)): rank_candidates(group.tolist(), selection, line_breaks)
        for (uid, label), group in ordered.groupby(["uid", "label"])["text"]
    }
    rows: list[tuple[str, int, str, str]] = []
    lacking: list[str] = []
    for uid, labels in wanted.items():
        streams: dict[str, Iterator[str]] = {}
        position = 0
        for label in labels:
            if (uid, label) not in texts and drops and texts:
                lacking.append(f"{uid} ({label})")
                continue
            if (uid, label) not in texts:
                # Under `drop` there is none of any item: nothing to go on with.
                go_on = (
                    " or choose another generator"
                    if drops
                    else (" choose another generator, or set unanswered: drop to go on without it")
                )
                raise DataError(
                    f"{where}: item {uid} has no explanation for label {label!r}.",
                    f"Generate it again (a longer max_new_tokens may help),{go_on}.",
                )
            stream = streams.setdefault(label, itertools.cycle(texts[uid, label]))
            rows.append((uid, position, label, next(stream)))
            position += 1
    if unanswered is not None:
        shown = {row[0] for row in rows}
        unanswered.leave_out("missing_explanations", lacking, f"explanations are missing in {where}")
        unanswered.leave_out(
            "items_without_explanations", [u for u in wanted if u not in shown], "items have none left"
        )
    return pd.DataFrame(rows, columns=["uid", "position", "label", "text"])
