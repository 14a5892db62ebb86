"""The paper's prompts out of a notebook and published answers: small files of the same shape, other words."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from mjd.config.prompts import Prompts
from mjd.errors import DataError
from mjd.labels import LabelSet, label_set
from mjd.prompts.templates import Explanation, prompts_from, score_prompts, write_prompts
from mjd.registry import PublishedSet
from mjd.reproduction.upstream_prompts import explain_templates, read_prompts, scoring_templates

TEXTS = ("premise", "hypothesis")
SETUP = """\
%load_ext autoreload
!nvidia-smi
import json
option_dict = {"e": "Yes", "n": "Maybe", "c": "No"}
"""
WRITERS = """\
def message_generate(items, option_order_word):
    made = []
    for one_instance in items:
        first = one_instance[0]
        second = one_instance[1]
        made.append([{"role": "user", "content": f"Does it follow {{so to say}}?\\nIf: {first} \\nThen: {second} \\nA) {option_order_word[0]}\\nB) {option_order_word[1]}\\nC) {option_order_word[2]}. \\nSay:"}])
    return made


def message_generate_for_comments(items, option_order_word, order):
    made = []
    for one_instance in items:
        first = one_instance[0]
        second = one_instance[1]
        comments = ""
        for i, comments_id in enumerate(order):
            remark = one_instance[-1][comments_id][0]
            comments += f"\\nRemark {i+1} - {remark} "
        made.append([{"role": "user", "content": f"Mind the remarks.\\nIf: {first} \\nThen: {second} {comments}\\nA) {option_order_word[0]}\\nB) {option_order_word[1]}\\nC) {option_order_word[2]}. \\nSay:"}])
    return made


def message_generate_for_comments_add_labels(items, option_order_word, order):
    made = []
    for one_instance in items:
        first = one_instance[0]
        second = one_instance[1]
        comments = ""
        for i, comments_id in enumerate(order):
            remark = one_instance[-1][comments_id][0]
            the_label = one_instance[-1][comments_id][1]
            comments += f"\\nRemark {i+1} - {remark} Hence {option_dict[the_label]}. "
        made.append([{"role": "user", "content": f"Mind the remarks.\\nIf: {first} \\nThen: {second} {comments}\\nA) {option_order_word[0]}\\nB) {option_order_word[1]}\\nC) {option_order_word[2]}. \\nSay:"}])
    return made
"""  # noqa: E501
ITEM = {"premise": "It {rained}. ", "hypothesis": "Streets are wet.", "comments": [["a", "e"], ["b {x}", "c"]]}


def notebook(path: Path, *cells: str) -> Path:
    """A notebook of a note and these code cells."""
    note = {"cell_type": "markdown", "source": ["# Not code: def"]}
    code = [{"cell_type": "code", "source": cell.splitlines(keepends=True), "outputs": []} for cell in cells]
    path.write_text(json.dumps({"cells": [note, *code], "nbformat": 4}), encoding="utf-8")
    return path


@pytest.fixture
def templates(tmp_path: Path, nli_labels: LabelSet) -> Prompts:
    scoring = scoring_templates(notebook(tmp_path / "n.ipynb", SETUP, WRITERS), nli_labels, TEXTS)
    return Prompts(explain="{premise}{hypothesis}", **scoring)


def test_templates_of_the_notebook(templates: Prompts) -> None:
    head, tail = "\nIf: {premise} \nThen: {hypothesis} ", "\nA) {option_A}\nB) {option_B}\nC) {option_C}. \nSay:"
    assert templates.score == f"Does it follow {{{{so to say}}}}?{head}{tail}"
    assert templates.score_with_explanations == f"Mind the remarks.{head}\n{{explanations}}{tail}"
    assert templates.implicit == "Remark {number} - {text} "
    assert templates.explicit == "Remark {number} - {text} Hence {label}. "
    assert templates.label_names == {"e": "Yes", "n": "Maybe", "c": "No"}


@pytest.mark.parametrize("mode", ["plain", "implicit", "explicit"])
def test_prompts_are_the_ones_the_notebook_writes(templates: Prompts, nli_labels: LabelSet, mode: Any) -> None:
    """All orders of options and explanations, beside what the notebook's own functions make of the item."""
    cells: dict[str, Any] = {"option_dict": {"e": "Yes", "n": "Maybe", "c": "No"}}
    exec(WRITERS, cells)
    writer = {"plain": "", "implicit": "_for_comments", "explicit": "_for_comments_add_labels"}[mode]
    shown = [Explanation(label, text) for text, label in ITEM["comments"]]
    item = [ITEM["premise"], ITEM["hypothesis"], ITEM["comments"]]
    texts = {field: str(ITEM[field]) for field in TEXTS}
    found = score_prompts(templates, texts, shown, nli_labels, mode, "all", 1)
    expected = [
        cells[f"message_generate{writer}"]([item], words, *([list(order)] if writer else []))[0][0]["content"]
        for order in permutations(range(2 if writer else 0))
        for words in permutations(["Yes", "Maybe", "No"])
    ]
    assert [prompt.messages[0].content for prompt in found] == expected
    assert {prompt.messages[0].role for prompt in found} == {"user"}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("def message_generate(", "def make(", "a function message_generate"),
        ("add_labels(", "with_labels(", "a function message_generate_for_comments_add_labels"),
        ('"role": "user"', '"role": "system"', "one message, the user's, in message_generate"),
        ('"content"', '"text"', "one message, the user's, in message_generate"),
        ("{first} \\nThen: {second} \\nA", "{other} \\nThen: {second} \\nA", "one of .*one_instance.0., .*not {other}"),
        ("{first} \\nThen: {second} \\nA", "{first!r} \\nThen: {second} \\nA", "not {first!r}"),
        ("{first} \\nThen: {second} \\nA", "{first} \\nA", r"prompts\.score lacks the field {hypothesis}"),
        ("\\nB) {option_order_word[1]}", "", r"prompts\.score lacks the field {options}"),
        ("comments += f", "comments = f", "one \\+= in message_generate_for_comments, which adds an explanation"),
        ('f"\\nRemark', 'f"Remark', "each explanation on a line of its own in message_generate_for_comments"),
        ('f"\\nRemark {i+1} - {remark} "', '"Remark"', "an f-string in message_generate_for_comments instead of"),
        ("Mind the remarks.", "Mind them.", "to show explanations within the same prompt"),
        ("for i, comments_id", "for i comments_id", "Python in code cell 2 .line 16"),
    ],
)
def test_changed_notebook_says_what_was_expected(
    tmp_path: Path, nli_labels: LabelSet, old: str, new: str, expected: str
) -> None:
    assert old in WRITERS
    answers, items = answer_files(tmp_path)
    path = notebook(tmp_path / "n.ipynb", SETUP, WRITERS.replace(old, new, 1))
    with pytest.raises(DataError, match=f"n\\.ipynb.*{expected}"):
        read_prompts(path, items, PUBLISHED, answers, nli_labels, TEXTS)


@pytest.mark.parametrize("words", ["{'e': 'Yes'", "{'e': 'Yes', 'x': 'No'}", "dict(e='Yes')", "['Yes']"])
def test_notebook_without_label_words_is_refused(tmp_path: Path, nli_labels: LabelSet, words: str) -> None:
    setup = f"option_dict = {words}\n" if words.endswith(("}", ")", "]")) else "pass\n"
    with pytest.raises(DataError, match="a dictionary option_dict from e, n and c"):
        scoring_templates(notebook(tmp_path / "n.ipynb", setup, WRITERS), nli_labels, TEXTS)


@pytest.mark.parametrize("content", ["no JSON", "[]", '{"cells": [{"source": []}]}', '{"cells": 3}'])
def test_file_that_is_no_notebook_is_refused(tmp_path: Path, nli_labels: LabelSet, content: str) -> None:
    path = tmp_path / "n.ipynb"
    path.write_text(content)
    with pytest.raises(DataError, match=r"n\.ipynb has changed: expected a notebook"):
        scoring_templates(path, nli_labels, TEXTS)
    path.unlink()
    with pytest.raises(DataError, match=r"n\.ipynb does not exist"):
        scoring_templates(path, nli_labels, TEXTS)


def test_prompts_of_the_paper_with_other_labels_or_texts_are_refused(tmp_path: Path, nli_labels: LabelSet) -> None:
    path = notebook(tmp_path / "n.ipynb", SETUP, WRITERS)
    other = label_set([{"key": "y", "name": "yes"}, {"key": "n", "name": "no"}])
    with pytest.raises(DataError, match="has the labels entailment, neutral, contradiction"):
        scoring_templates(path, other, TEXTS)
    with pytest.raises(DataError, match=r"has two texts, but task\.text_fields names 1"):
        read_prompts(path, path, PUBLISHED, tmp_path, nli_labels, ["comment"])


# -- explanation prompts ---------------------------------------------------------------------------------------------

PUBLISHED = PublishedSet(
    title="Big",
    source="s",
    answers="{index}/{label}",
    labels={"e": "E", "n": "N", "c": "C"},
    prompt_after="[user]",
    answer_after="[assistant]",
    answer_before="[end]",
)
ITEMS = [("It {rained}.", "It is wet."), ("A dog .", "A dog.")]


def answer_files(folder: Path) -> tuple[Path, Path]:
    """Answers with their prompts for two items, one of them with closed-up white space, and the items' file."""
    for index, (premise, hypothesis) in enumerate(ITEMS):
        (folder / str(index)).mkdir(parents=True)
        for label in "ENC":
            shown = premise.replace(" .", ".")
            prompt = f"[begin][user]\n\nTell me {{all}} for {label}. \nIf: {shown} \nThen: {hypothesis} \nSay:[end]"
            (folder / f"{index}/{label}").write_text(f"{prompt}[assistant]\n\n* because {premise}[end]")
    items = folder / "items.json"
    items.write_text("".join(json.dumps(dict(zip(TEXTS, item, strict=True))) + "\n" for item in ITEMS))
    return folder, items


def test_explanation_prompts_become_a_template_for_each_label(tmp_path: Path, nli_labels: LabelSet) -> None:
    answers, _ = answer_files(tmp_path)
    found = explain_templates(PUBLISHED, answers, ITEMS, nli_labels, TEXTS)
    assert found == {
        key: f"Tell me {{{{all}}}} for {label}. \nIf: {{premise}} \nThen: {{hypothesis}} \nSay:"
        for key, label in PUBLISHED.labels.items()
    }


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("1/N", "[user] Tell us. If: A dog. Then: A dog. Say: [end][assistant]", "1/N has changed: .* prompt of .*0/N"),
        (
            "0/E",
            "[user] Tell me. If: It snowed. [end][assistant]",
            "0/E has changed: expected the premise 'It {rained}",
        ),
        ("0/E", "* because[end]", r"0/E has changed: expected a prompt between '\[user\]' and '\[assistant\]'"),
        ("1/C", None, "1/C does not exist"),
    ],
)
def test_answers_to_another_prompt_are_refused(
    tmp_path: Path, nli_labels: LabelSet, path: str, text: str | None, message: str
) -> None:
    answers, _ = answer_files(tmp_path)
    (answers / path).unlink() if text is None else (answers / path).write_text(text)
    with pytest.raises(DataError, match=message):
        explain_templates(PUBLISHED, answers, ITEMS, nli_labels, TEXTS)


def test_set_without_prompts_is_refused(tmp_path: Path, nli_labels: LabelSet) -> None:
    bare = PUBLISHED.model_copy(update={"prompt_after": None})
    with pytest.raises(DataError, match="Big names no prompt_after and answer_after"):
        explain_templates(bare, tmp_path, ITEMS, nli_labels, TEXTS)


def test_templates_come_back_from_their_file(tmp_path: Path, nli_labels: LabelSet) -> None:
    answers, items = answer_files(tmp_path)
    path = notebook(tmp_path / "n.ipynb", SETUP, WRITERS)
    prompts = read_prompts(path, items, PUBLISHED, answers, nli_labels, TEXTS)
    write_prompts(prompts, tmp_path / "prompts.json", {"version": "1"})
    assert prompts_from(str(tmp_path / "prompts.json")) == prompts
    assert prompts_from(prompts.model_dump()) == prompts
