"""Explanations: parsing of answers, refusals, label-free and label-guided selection."""

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mjd.config.files import read_config
from mjd.errors import DataError
from mjd.explanations.selection import (
    candidates,
    check_sources,
    is_refusal,
    parse_candidates,
    rank_candidates,
    select,
    wanted_labels,
    without_answer,
)

LABELS = read_config("config/config.yaml").labels
ITEMS = pd.DataFrame({"uid": ["i1"], "mnli_e": [2], "mnli_n": [0], "mnli_c": [3]})
HUMAN = pd.DataFrame({"uid": ["i1"] * 4, "position": [2, 0, 1, 3], "label": list("nenc"), "text": list("wxyz")})
FOUND = pd.DataFrame(
    [
        ("i1", "e", 0, "e0"),
        ("i1", "e", 1, "e1 longer"),
        ("i1", "n", 0, "n0"),
        ("i1", "c", 0, "c0"),
        ("i1", "c", 1, "c1"),
    ],
    columns=["uid", "label", "rank", "text"],
)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("* one\n* two", ["one", "two"]),
        ("Here they are:\n\n1. one\n2) two \n", ["one", "two"]),
        ("- one\n  more of one\n• two", ["one", "two"]),
        ("Because\nit rains.", ["Because it rains."]),
        ("It rains.  \nIt\npours.  \n", ["It rains.", "It pours."]),
        ("* one  \n* two  \nthree", ["one", "two"]),
        ("  \n", []),
        ("1982 was a good year", ["1982 was a good year"]),
        ("*bold* text is no list", ["*bold* text is no list"]),
    ],
)
def test_parse_candidates(answer: str, expected: list[str]) -> None:
    assert parse_candidates(answer) == expected


@given(st.lists(st.text(st.characters(categories=["L", "N"]), min_size=1), min_size=1))
def test_bulleted_lists_come_back_whole(texts: list[str]) -> None:
    assert parse_candidates("\n".join(f"- {text}" for text in texts)) == texts


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("There are no possible explanations why the statement is true.", True),
        ("None. The statement is not true.", True),
        ("There is no logical explanation for this.", True),
        ("I cannot list any.", True),
        ("There is no mention of lepers in the context.", False),
        ("Nonetheless the grass is wet.", False),
        ("No one is named in the context.", False),
    ],
)
def test_refusals_are_flagged(text: str, refusal: bool) -> None:
    assert is_refusal(text) is refusal


def test_candidates_are_ranked_within_item_and_label() -> None:
    answers = pd.DataFrame({"uid": ["i1", "i1"], "label": ["e", "n"], "text": ["- a\n- b", "None."]})
    found = candidates(answers)
    assert list(found.itertuples(index=False, name=None)) == [
        ("i1", "e", 0, "a", False),
        ("i1", "e", 1, "b", False),
        ("i1", "n", 0, "None.", True),
    ]


def test_label_free_wants_each_label_once() -> None:
    assert wanted_labels("lf", None, ITEMS, HUMAN, LABELS) == {"i1": ["e", "n", "c"]}


def test_guided_by_explanations_walks_them_in_order() -> None:
    assert wanted_labels("varierr-lg", "explanations", ITEMS, HUMAN, LABELS) == {"i1": ["e", "n", "n", "c"]}


def test_guided_by_counts_repeats_labels_in_label_order() -> None:
    assert wanted_labels("mnli-lg", "counts", ITEMS, HUMAN, LABELS) == {"i1": ["e", "e", "c", "c", "c"]}


def test_item_without_human_explanation_is_an_error() -> None:
    items = pd.DataFrame({"uid": ["i1", "i2"]})
    with pytest.raises(DataError, match="Item i2 has no human explanation, but source varierr-lg needs one"):
        wanted_labels("varierr-lg", "explanations", items, HUMAN, LABELS)


def test_item_without_counts_is_an_error() -> None:
    items = ITEMS.assign(mnli_n=float("nan"))
    with pytest.raises(DataError, match=r"Item i1 has no label counts \(mnli_e, mnli_n, mnli_c\)"):
        wanted_labels("mnli-lg", "counts", items, HUMAN, LABELS)


def test_first_takes_candidates_as_listed_and_cycles() -> None:
    chosen = select(FOUND, {"i1": ["e", "e", "c", "c", "c"]}, "first")
    assert chosen["text"].tolist() == ["e0", "e1 longer", "c0", "c1", "c0"]
    assert chosen["position"].tolist() == [0, 1, 2, 3, 4]


def test_longest_takes_the_longest_first_ties_as_listed() -> None:
    assert select(FOUND, {"i1": ["e", "c"]}, "longest")["text"].tolist() == ["e1 longer", "c0"]


def test_longest_may_count_the_line_break_that_the_last_candidate_lacks() -> None:
    assert rank_candidates(["12", "1", "123"], "longest") == ["123", "12", "1"]
    assert rank_candidates(["12", "1", "123"], "longest", line_breaks=True) == ["12", "123", "1"]
    assert rank_candidates(["12", "1", "1234"], "longest", line_breaks=True) == ["1234", "12", "1"]
    assert rank_candidates(["1", "123"], "first", line_breaks=True) == ["1", "123"]


def test_missing_candidate_is_an_error() -> None:
    with pytest.raises(DataError, match="item i1 has no explanation for label 'n'"):
        select(FOUND[FOUND["label"] != "n"], {"i1": ["n"]}, "first")


def test_sources_are_checked_before_any_model_runs() -> None:
    items = pd.concat([ITEMS, ITEMS.assign(uid="i2")])
    with pytest.raises(DataError, match="Item i2 has no human explanation, but source human needs one"):
        check_sources(["none", "lf", "human"], {}, items, HUMAN, LABELS)


def test_sources_that_need_no_humans_pass_the_check() -> None:
    check_sources(["none", "lf", "mnli-lg"], {"mnli-lg": "counts"}, ITEMS, HUMAN[:0], LABELS)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("<think>\n- maybe\n- or not\n</think>\n- one\n- two", ["one", "two"]),
        # The chat template began the reasoning.
        ("- maybe\n</think>\n\n- one", ["one"]),
        ("<think></think>It rains.", ["It rains."]),
        ("- one\n<think>\n- hm\n</think>\n- two", ["one", "two"]),
        ("<seed:think>- a</seed:think>- one", ["one"]),
        ("[THINK]\n- a\n[/THINK]\n- one", ["one"]),
        ("◁think▷- a◁/think▷- one", ["one"]),
        ("<|channel|>analysis<|message|>- a<|end|>assistant<|channel|>final<|message|>- one", ["one"]),
        ("analysis- aassistantfinal- one", ["one"]),
        ("Here is my thought process:\n- a\nHere is my response:\n- one", ["one"]),
        ("<think>a</think><answer>\n- one\n</answer>", ["one"]),
        ("<Thought>- a</Thought>\n<Output>\n- one\n</Output>", ["one"]),
        ("<think>a</think>\n<response>\n- one\n</response>", ["one"]),
        ("<think>\n- maybe\n- or", []),
        ("Sure.\n<think>\n- maybe", []),
        ("We use <analysis> tags", ["We use <analysis> tags"]),
    ],
)
def test_candidates_are_read_after_reasoning_never_out_of_it(answer: str, expected: list[str]) -> None:
    assert parse_candidates(answer) == expected


@given(st.text("-*ab\n <>/think", max_size=40), st.text("ab \n", max_size=20))
def test_nothing_of_a_reasoning_block_becomes_a_candidate(reasoning: str, answer: str) -> None:
    block = f"<think>{reasoning.replace('<', '(')}secret</think>"
    assert "secret" not in "".join(parse_candidates(block + answer))
    assert parse_candidates(block + answer) == parse_candidates(answer)


def test_answers_that_end_within_their_reasoning_are_named(caplog: pytest.LogCaptureFixture) -> None:
    answers = pd.DataFrame({"uid": ["i1", "i2"], "label": "e", "text": ["- a", "<think>- a\n- b"]})
    assert candidates(answers)["uid"].tolist() == ["i1"]
    assert without_answer(answers) == ["i2 (label e)"]
    assert "1 answers end within their reasoning and hold no explanation: i2 (label e)" in caplog.text
