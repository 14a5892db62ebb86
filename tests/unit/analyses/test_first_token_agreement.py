"""Letters read out of answers, sampled answers of a fake engine, and the table made from them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mjd.analyses.first_token_agreement import (
    Variant,
    answer_letter,
    answers_schema,
    first_token_table,
    sample_answers,
    schema,
)
from mjd.config.analyses import Analyses
from mjd.config.files import read_config
from mjd.estimators.first_token import score_items
from mjd.estimators.item_prompts import PromptSettings
from mjd.io import to_table
from mjd.labels import label_set
from mjd.llm.cache import CachedEngine
from mjd.llm.fake import FakeEngine
from mjd.llm.store.files import LocalAnswers, LocalScores
from mjd.llm.unanswered import UnansweredPrompts
from mjd.llm.usage import UsageTracker
from mjd.systems import System

CONFIG = read_config("config/config.yaml")
LABELS = CONFIG.labels
SYSTEM = System("s", "System", "mjd", scorer="llm", source="none", mode="plain")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("B. neutral", "B"),
        ("The answer is C.", "C"),
        ("**A**", "A"),
        ("A", "A"),
        ("A man may be tall, so: B", "B"),
        ("A is correct, not B.", "A"),
        ("A or B", "A"),
        ("A neutral answer", None),
        ("entailment", None),
        ("I can't say", None),
        ("D", None),
        ("", None),
    ],
)
def test_letter_of_an_answer(text: str, letter: str | None) -> None:
    assert answer_letter(text, LABELS.letters) == letter


def variant(tmp_path: Path, engine: FakeEngine) -> tuple[pd.DataFrame, Variant]:
    items = pd.DataFrame({"uid": ["i1", "i2"], "premise": "P", "hypothesis": ["H", "I"]})
    settings = PromptSettings(CONFIG.prompts, LABELS, ("premise", "hypothesis"), "plain", "all", 1)
    scores = score_items(engine, items, None, settings, LocalScores(tmp_path / "chunks", "logit"), UsageTracker())
    return items, Variant("s", settings, None, scores)


def cached(engine: FakeEngine, tmp_path: Path) -> CachedEngine:
    return CachedEngine(engine, LocalAnswers(tmp_path / "answers"), UsageTracker(), UnansweredPrompts())


def test_sampled_answers_name_the_letter_of_the_best_score(tmp_path: Path) -> None:
    engine = FakeEngine(answer="B")
    items, given = variant(tmp_path, engine)
    found = sample_answers(cached(engine, tmp_path), items, [given], Analyses(generated_prompts=5), 1)
    assert to_table(found, answers_schema()).num_rows == 5
    both = found.merge(given.scores, on=["uid", "explanation_order", "option_order"], validate="one_to_one")
    for row in both.to_dict("records"):
        shown = row["option_order"].split(",")
        best = max(shown, key=lambda label: row[f"score_{label}"])
        assert row["first_token_letter"] == "ABC"[shown.index(best)]
    assert set(found["letter"]) == {"B"}


def test_answers_are_asked_for_once(tmp_path: Path) -> None:
    engine = FakeEngine(answer="B")
    items, given = variant(tmp_path, engine)
    first = sample_answers(cached(engine, tmp_path), items, [given], Analyses(generated_prompts=5), 1)
    asked = engine.asked
    second = sample_answers(cached(engine, tmp_path), items, [given], Analyses(generated_prompts=5), 1)
    assert engine.asked == asked
    pd.testing.assert_frame_equal(first, second)


def score_table(mass: list[float], option_orders: list[str], values: list[tuple[float, ...]]) -> pd.DataFrame:
    scores = pd.DataFrame(values, columns=LABELS.columns("score"))
    return scores.assign(label_mass=mass, option_order=option_orders, score_bound=np.nan)


def test_table_counts_by_hand() -> None:
    scores = score_table([0.5, 0.7], ["e,n,c", "n,c,e"], [(2.0, 1.0, np.nan), (2.0, 1.0, 0.0)])
    answers = pd.DataFrame(
        {"system": "s", "first_token_letter": ["A", "B", "C", "A"], "letter": ["A", "B", "A", None], "text": ""}
    )
    table = first_token_table([SYSTEM], [scores], answers, LABELS, 0.95, "made up")
    row = table.iloc[0]
    assert row["label_mass_mean"] == pytest.approx(0.6)
    assert (row["n_prompts"], row["n_generated"]) == (2, 4)
    assert row["share_no_letter"] == pytest.approx(1 / 4)
    assert row["share_first_option"] == pytest.approx(1 / 2)
    assert row["share_different"] == pytest.approx(1 / 3)
    assert row["share_different_low"] < 1 / 3 < row["share_different_high"]
    assert to_table(table, schema()).num_rows == 1


def test_table_without_answers_keeps_the_label_mass() -> None:
    answers = pd.DataFrame(columns=answers_schema().names)
    table = first_token_table(
        [SYSTEM], [score_table([0.5], ["e,n,c"], [(1.0, 2.0, 3.0)])], answers, LABELS, 0.95, "made up"
    )
    assert table["share_different"].isna().all()
    assert to_table(table, schema()).num_rows == 1


def test_first_option_is_found_by_label_whatever_columns_begin_with_score() -> None:
    scores = pd.DataFrame(
        {
            "option_order": ["-1,a_b", "a_b,-1"],
            "score_-1": [1.0, 0.0],
            "score_a_b": [0.0, 1.0],
            "score_bound": [9.0, 9.0],
            "score_of_something": [9.0, 9.0],
            "label_mass": [0.5, 0.5],
        }
    )
    answers = pd.DataFrame(columns=answers_schema().names)
    labels = label_set([{"key": "-1", "name": "against"}, {"key": "a_b", "name": "for"}])
    assert first_token_table([SYSTEM], [scores], answers, labels, 0.95, "made up")["share_first_option"].item() == 1


def test_share_of_the_first_option_labels_that_begin_with_one_another_are_told_apart() -> None:
    labels = label_set({"key": key, "name": f"label {key}"} for key in ("e", "e_x", "x"))
    scores = pd.DataFrame(
        {
            "score_e_x": [2.0, 0.0, 0.0],
            "score_x": [1.0, 2.0, 1.0],
            "score_e": [0.0, 1.0, 2.0],
            "option_order": ["e_x,e,x", "e,e_x,x", "x,e_x,e"],
            "label_mass": 0.5,
        }
    )
    answers = pd.DataFrame(columns=answers_schema().names)
    found = first_token_table([SYSTEM], [scores], answers, labels, 0.95, "made up")
    assert found["share_first_option"].item() == pytest.approx(1 / 3)


def test_first_token_table_all_prompts_dropped_has_no_share() -> None:
    answers = pd.DataFrame(columns=answers_schema().names)
    table = first_token_table([SYSTEM], [score_table([], [], [])], answers, LABELS, 0.95, "made up")
    assert table["n_prompts"].item() == 0
    assert table["share_first_option"].isna().all()
    assert to_table(table, schema()).num_rows == 1


@pytest.mark.parametrize("columns", [["e", "n", "c"], ["c", "n", "e"]])
def test_share_of_the_first_option_equal_scores_count_in_parts_in_any_label_order(columns: list[str]) -> None:
    scores = score_table([0.5] * 2, ["e,n,c", "c,n,e"], [(1.0, 1.0, 0.0), (1.0, 1.0, 1.0)])
    scores = scores[[f"score_{label}" for label in columns] + ["score_bound", "label_mass", "option_order"]]
    answers = pd.DataFrame(columns=answers_schema().names)
    found = first_token_table([SYSTEM], [scores], answers, LABELS, 0.95, "made up")["share_first_option"].item()
    assert found == pytest.approx((1 / 2 + 1 / 3) / 2)


def test_low_label_mass_is_in_the_table_and_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """An Arabic data set had letters with 0.05 to 0.09 of the probability, and no word of it."""
    orders, values = ["e,n,c"] * 4, [(1.0, 2.0, 3.0)] * 4
    low = score_table([0.05, 0.09, 0.06, 0.6], orders, values).assign(top_token=["ال", "ال", " Based", "A"])
    fine = score_table([0.8] * 4, orders, values).assign(top_token="A")
    answers = pd.DataFrame(columns=answers_schema().names)
    table = first_token_table([SYSTEM, System("t", "Fine", "mjd")], [low, fine], answers, LABELS, 0.95, "made up", 0.5)
    assert table["share_low_mass"].tolist() == [0.75, 0.0]
    assert table["top_tokens"].tolist() == ["'ال' 50 %, ' Based' 25 %, 'A' 25 %", "'A' 100 %"]
    assert "System: the letters hold a probability of 0.2 on average (below 0.5 for 75 % of the prompts)" in caplog.text
    assert "'ال' 50 %" in caplog.text
    assert "Fine" not in caplog.text
    assert to_table(table, schema()).num_rows == 2


def test_scores_without_label_mass_or_top_tokens_have_none_in_the_table(caplog: pytest.LogCaptureFixture) -> None:
    """Logits of vLLM, and scores files of earlier versions."""
    scores = score_table([np.nan], ["e,n,c"], [(1.0, 2.0, 3.0)])
    answers = pd.DataFrame(columns=answers_schema().names)
    table = first_token_table([SYSTEM], [scores], answers, LABELS, 0.95, "made up")
    assert table["share_low_mass"].isna().all()
    assert table["top_tokens"].isna().all()
    assert not caplog.text


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("<think>A or B? A it is.</think>\n\nC", "C"),
        ("So A is out.</think>B", "B"),
        ("[THINK]A[/THINK]B", "B"),
        ("<|channel|>analysis<|message|>A?<|end|>assistant<|channel|>final<|message|>B", "B"),
        ("<think>It may be A, since", None),
    ],
)
def test_letter_is_never_read_out_of_reasoning(text: str, letter: str | None) -> None:
    assert answer_letter(text, LABELS.letters) == letter
