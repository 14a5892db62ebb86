"""Explanations published with the paper: raw answers of an LLM, and the authors' selections from them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import pandas as pd

from mjd.data.items import train_items
from mjd.data.public import NLI_LABELS, index_by_text, nli_keys, read_json_lines, text_key, two_texts
from mjd.errors import DataError
from mjd.explanations.selection import Selection, wanted_labels
from mjd.labels import LabelSet
from mjd.registry import PublishedSet
from mjd.reproduction.selection_agreement import PublishedSelection


def load_published_answers(
    published: PublishedSet, directory: Path, items: pd.DataFrame, labels: LabelSet, text_fields: Sequence[str]
) -> pd.DataFrame:
    """An LLM's raw answers for the train items: uid, label (key), text (prompt and end-of-turn token cut off).

    Answers are numbered by the order of train items in the source. `items` (schema `items`) may be cut to the first N
    of each split: those keep their numbers. Where a file holds the prompt too, the item's texts must occur in it.

    Raises:
        DataError: an answer is missing or empty, or belongs to another item.
    """
    spellings = published_spellings(published, labels)
    rows = []
    for index, (uid, texts) in enumerate(_train_texts(items, text_fields)):
        for key in labels.keys:
            path = directory / published.answers.format(index=index, label=spellings[key])
            rows.append({"uid": uid, "label": key, "text": _answer(published, path, texts)})
    return pd.DataFrame(rows, columns=["uid", "label", "text"])


def published_spellings(published: PublishedSet, labels: LabelSet) -> dict[str, str]:
    """How a published set spells each of our labels in its paths, by our keys.

    The set's labels are the codes of the NLI labels (`NLI_LABELS`): the *name* tells which of our labels that is, for
    our keys may be any, even another label's code.

    Raises:
        DataError: the set has no answers for a label.
    """
    found: dict[str, str] = {}
    for code, spelling in published.labels.items():
        with contextlib.suppress(DataError):
            found[labels.normalise(NLI_LABELS.get(code, code))] = spelling
    lacking = [label for label in labels if label.key not in found]
    if lacking:
        raise DataError(
            f"Published set {published.title} has no answers for label {lacking[0].key!r} ({lacking[0].name}).",
            f"Name task.labels {', '.join(NLI_LABELS.get(code, code) for code in published.labels)}, "
            "or use another generator.",
        )
    return found


def _train_texts(items: pd.DataFrame, text_fields: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """uid and texts of each train item, the texts in the order of `text_fields`."""
    train = train_items(items)
    texts = train[list(text_fields)].itertuples(index=False, name=None)
    return list(zip(train["uid"], texts, strict=True))


def _answer(published: PublishedSet, path: Path, texts: Sequence[str]) -> str:
    try:
        answer = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        problem = f"{path}, a published answer, does not exist."
        raise DataError(problem, "Run the rule that downloads it, with the data set it was published for.") from None
    if published.answer_after:
        prompt, marker, answer = answer.partition(published.answer_after)
        if not marker:
            raise DataError(f"{path} lacks {published.answer_after!r}.", "Correct answer_after in the registry.")
        known = _squeezed(prompt)
        for text in texts:
            if _squeezed(text) not in known:
                problem = f"{path} answers another item: its prompt lacks {text!r}."
                raise DataError(problem, "Use the published set with the data set it was published for.")
    if published.answer_before:
        answer = answer.partition(published.answer_before)[0]
    if not answer.strip():
        raise DataError(f"{path} holds no answer.", "Download the file again.")
    return answer.strip()


def _squeezed(text: str) -> str:
    """Text without white space: decoding the prompt has closed up the space before punctuation in some files."""
    return "".join(text.split())


def load_published_selection(
    path: Path, items: pd.DataFrame, labels: LabelSet, text_fields: Sequence[str]
) -> pd.DataFrame:
    """The authors' selected explanations of the train items, in schema `explanations`, joined by text.

    Args:
        text_fields: the columns of `items` that hold premise and hypothesis.

    Raises:
        DataError: an item is not in the file, the file is not of the published form, or there are not two texts.
    """
    keys, fields = nli_keys(labels, "published selections"), two_texts(text_fields, "published selections")
    records = index_by_text(read_json_lines(path), str(path))
    rows = []
    for uid, texts in _train_texts(items, fields):
        record = records.get(text_key(*texts))
        if record is None:
            problem = f"{path} has no selection for item {uid!r}."
            raise DataError(problem, "Compare selections only on the data set they were published for.")
        rows += [
            {"uid": uid, "position": position, "label": keys[code], "text": text.strip()}
            for position, (text, code) in enumerate(_comments(record, path))
        ]
    return pd.DataFrame(rows, columns=["uid", "position", "label", "text"])


def _comments(record: dict[str, Any], path: Path) -> list[tuple[str, str]]:
    """The one list of [text, label] pairs; its name differs between files (machine_comments, ...)."""
    found = [value for name, value in record.items() if name.endswith("comments")]
    if len(found) != 1 or any(code not in NLI_LABELS for _, code in found[0]):
        problem = f"{path}: a record has no list of [text, label] pairs whose name ends in comments."
        raise DataError(problem, "Give a file of the published form.")
    return [(text, code) for text, code in found[0]]


def load_published_selections(
    name: str,
    published: PublishedSet,
    directory: Path,
    answers: pd.DataFrame,
    items: pd.DataFrame,
    human_explanations: pd.DataFrame,
    guided_by: Mapping[str, Literal["explanations", "counts"]],
    labels: LabelSet,
    text_fields: Sequence[str],
) -> list[PublishedSelection]:
    """Every published selection of a set, with what it was made from, ready to be compared with ours.

    Args:
        name: id of the set.
        directory: where the set's `selections_source` was downloaded to.
        answers: the set's raw answers: uid, label, text.
        items: train items.
        guided_by: what guides each label-guided source of the task; selections from other sources are left out.

    Raises:
        DataError: an item is not in a file, or a file is not of the published form.
    """
    found = []
    for key, path in published.selections.items():
        source, selection = key.rsplit("-", 1)
        if source != "lf" and source not in guided_by:
            continue
        found.append(
            PublishedSelection(
                llm=name,
                title=published.title,
                source=source,
                selection=cast(Selection, selection),
                wanted=wanted_labels(source, guided_by.get(source), items, human_explanations, labels),
                theirs=load_published_selection(directory / path, items, labels, text_fields),
                answers=answers,
                line_breaks=published.longest_counts_line_breaks,
            )
        )
    return found
