"""Scoring and generation: label order, errors, and nothing done twice (with the fake engine)."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mjd import schemas
from mjd.analyses.bias import bias_table
from mjd.config.analyses import Statistics
from mjd.config.explanations import Sampling
from mjd.config.files import read_config
from mjd.config.scoring import Softmax
from mjd.errors import DataError, ModelError
from mjd.estimators import first_token as scoring
from mjd.estimators.aggregation import model_judgments
from mjd.estimators.base import FIRST_ANSWERS
from mjd.estimators.first_token import Known, ScoreChunks, StoredScores, score_items
from mjd.estimators.item_prompts import PromptSettings, item_prompts
from mjd.explanations.generation import generate_answers
from mjd.io import read_parquet, to_table, write_parquet
from mjd.labels import label_set
from mjd.llm.base import EngineInfo, Generate, Generated, Message, Score, Scored, Usage, request_key
from mjd.llm.fake import FakeEngine
from mjd.llm.store.replies import Store
from mjd.llm.usage import Tally
from mjd.systems import System

CONFIG = read_config("config/config.yaml")
ITEMS = pd.DataFrame({"uid": ["i1", "i2"], "premise": ["P one.", "P two."], "hypothesis": ["H one.", "H two."]})
SHOWN = pd.DataFrame(
    {"uid": ["i1", "i1", "i2"], "position": [1, 0, 0], "label": ["n", "e", "c"], "text": ["t1", "t0", "t2"]}
)


def settings(mode: str = "explicit", orders: str | int = "all") -> PromptSettings:
    return PromptSettings(CONFIG.prompts, CONFIG.labels, ("premise", "hypothesis"), mode, orders, 1)


class LetterEngine(FakeEngine):
    """Scores A, B, C as 3, 2, 1; fails after `fail_after` requests."""

    def __init__(self, fail_after: int | None = None) -> None:
        super().__init__()
        self.fail_after = fail_after

    def score(self, requests: Sequence[Score]) -> Iterator[tuple[int, Scored]]:
        for i, _ in reversed(list(enumerate(requests))):
            if self.fail_after is not None and self.asked >= self.fail_after:
                raise RuntimeError("killed")
            self.asked += 1
            yield i, Scored((3.0, 2.0, 1.0), "logit", 0.5, Usage(1))


def test_scores_are_in_label_order_whatever_the_option_order(tmp_path: Path) -> None:
    found = score_items(LetterEngine(), ITEMS, SHOWN, settings(), ScoreChunks(tmp_path), Tally()).set_index(
        "option_order"
    )
    row = found.loc["c,e,n"].iloc[0]
    assert (row["score_c"], row["score_e"], row["score_n"]) == (3, 2, 1)


def test_one_row_for_every_prompt(tmp_path: Path) -> None:
    found = score_items(FakeEngine(), ITEMS, SHOWN, settings(), ScoreChunks(tmp_path), Tally())
    assert found.groupby("uid").size().to_dict() == {"i1": 12, "i2": 6}
    assert set(found.loc[found["uid"] == "i1", "explanation_order"]) == {"0,1", "1,0"}


def test_plain_prompts_have_no_explanation_order(tmp_path: Path) -> None:
    found = score_items(FakeEngine(), ITEMS, None, settings("plain"), ScoreChunks(tmp_path), Tally())
    assert set(found["explanation_order"]) == {""}


def test_finished_scores_are_not_asked_for_again(tmp_path: Path) -> None:
    first = score_items(FakeEngine(), ITEMS, SHOWN, settings(), ScoreChunks(tmp_path), Tally())
    engine = FakeEngine()
    again = score_items(engine, ITEMS, SHOWN, settings(), ScoreChunks(tmp_path), Tally())
    assert engine.asked == 0
    pd.testing.assert_frame_equal(first, again)


def test_an_engine_is_not_called_when_all_is_finished(tmp_path: Path) -> None:
    class Unwilling(FakeEngine):
        def score(self, requests: Sequence[Score]) -> Iterator[tuple[int, Scored]]:
            raise AssertionError("called")

    first = score_items(FakeEngine(), ITEMS, SHOWN, settings(), ScoreChunks(tmp_path), Tally())
    again = score_items(Unwilling(), ITEMS, SHOWN, settings(), ScoreChunks(tmp_path), Tally())
    pd.testing.assert_frame_equal(first, again)


@pytest.mark.parametrize(("size", "calls"), [(2048, [18]), (12, [12, 6]), (1, [12, 6]), (None, [18])])
def test_engines_say_how_many_prompts_they_take(tmp_path: Path, size: int | None, calls: list[int]) -> None:
    found: list[int] = []

    class Counting(FakeEngine):
        prompts_per_call = size

        def score(self, requests: Sequence[Score]) -> Iterator[tuple[int, Scored]]:
            found.append(len(requests))
            yield from super().score(requests)

    score_items(Counting(), ITEMS, SHOWN, settings(), ScoreChunks(tmp_path), Tally())
    assert found == calls


def test_equal_prompts_are_asked_for_once(tmp_path: Path) -> None:
    twice = pd.DataFrame({"uid": ["i1", "i1"], "position": [0, 1], "label": ["e", "e"], "text": ["t", "t"]})
    engine, tally = FakeEngine(), Tally()
    found = score_items(engine, ITEMS[:1], twice, settings(), ScoreChunks(tmp_path), tally)
    assert (len(found), engine.asked, tally.asked, tally.cached) == (12, 6, 6, 6)


def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "SECONDS_PER_CHUNK", 0.0)
    with pytest.raises(RuntimeError, match="killed"):
        score_items(LetterEngine(fail_after=5), ITEMS, SHOWN, settings(), ScoreChunks(tmp_path), Tally())
    engine = LetterEngine()
    found = score_items(engine, ITEMS, SHOWN, settings(), ScoreChunks(tmp_path), Tally())
    assert (engine.asked, len(found)) == (18 - 5, 18)


def test_chunks_are_merged_when_the_job_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "SECONDS_PER_CHUNK", 0.0)
    score_items(FakeEngine(), ITEMS, SHOWN, settings(), ScoreChunks(tmp_path), Tally())
    assert len(list(tmp_path.glob("*.parquet"))) == 1


@pytest.mark.parametrize("left", [0, 100])
def test_a_damaged_chunk_is_an_error_with_the_cure(tmp_path: Path, left: int) -> None:
    score_items(FakeEngine(), ITEMS, SHOWN, settings(), ScoreChunks(tmp_path), Tally())
    (chunk,) = tmp_path.glob("*.parquet")
    os.truncate(chunk, left)
    with pytest.raises(DataError, match=r"chunk-.* is not a readable Parquet file .*Delete it and run again"):
        ScoreChunks(tmp_path)


def test_another_model_revision_is_scored_anew(tmp_path: Path) -> None:
    score_items(FakeEngine(), ITEMS, SHOWN, settings(), ScoreChunks(tmp_path), Tally())
    engine = FakeEngine()
    engine.info = EngineInfo("fake", "1", "fake-model@2")
    score_items(engine, ITEMS, SHOWN, settings(), ScoreChunks(tmp_path), Tally())
    assert engine.asked == 18


class ReasoningEngine(FakeEngine):
    """Begins every answer, or every n-th, with its reasoning."""

    def __init__(self, every: int = 1) -> None:
        super().__init__()
        self.every = every

    def score(self, requests: Sequence[Score]) -> Iterator[tuple[int, Scored]]:
        for i, scored in super().score(requests):
            first = self.asked % self.every == 0
            yield i, replace(scored, mass=1e-9, top_token="<think>") if first else scored


def test_scorer_that_reasons_first_is_refused_after_its_first_scores(tmp_path: Path) -> None:
    engine = ReasoningEngine()
    for _ in range(2):  # what was scored stays, and does not make the next run pass
        with pytest.raises(
            ModelError, match=r"fake-model reasons before it answers.*'<think>'.*enable_thinking: false"
        ):
            score_items(engine, ITEMS, SHOWN, settings(), ScoreChunks(tmp_path), Tally())
    assert engine.asked == 2 * FIRST_ANSWERS


def test_few_prompts_of_a_scorer_that_reasons_first_are_refused_too(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="reasons before it answers"):
        score_items(ReasoningEngine(), ITEMS[:1], None, settings("plain"), ScoreChunks(tmp_path), Tally())


def test_scorer_that_seldom_reasons_is_not_refused(tmp_path: Path) -> None:
    found = score_items(ReasoningEngine(every=5), ITEMS, SHOWN, settings(), ScoreChunks(tmp_path), Tally())
    assert (found["top_token"] == "<think>").sum() == 3


class BracketEngine(FakeEngine):
    """Its first token is a lone bracket: that of a mark of reasoning, or of an answer in brackets."""

    def score(self, requests: Sequence[Score]) -> Iterator[tuple[int, Scored]]:
        for i, scored in super().score(requests):
            yield i, replace(scored, mass=1e-9, top_token=" <" if i % 2 else "<")


@pytest.mark.parametrize("answer", ["<think>\nOkay, the", "<thinki"])
def test_scorer_whose_mark_of_reasoning_is_several_tokens_is_refused(tmp_path: Path, answer: str) -> None:
    engine = BracketEngine(answer)
    with pytest.raises(ModelError, match=r"reasons before it answers: its answers begin with '<think"):
        score_items(engine, ITEMS, SHOWN, settings(), ScoreChunks(tmp_path), Tally())
    assert engine.asked == 18 + 1  # the beginning of one answer is enough


def test_scorer_that_begins_with_a_bracket_but_not_with_reasoning_is_not_refused(tmp_path: Path) -> None:
    found = score_items(BracketEngine("<answer>B</answer>"), ITEMS, SHOWN, settings(), ScoreChunks(tmp_path), Tally())
    assert len(found) == 18


def test_top_tokens_are_kept_in_chunks_and_in_the_store(tmp_path: Path) -> None:
    engine = FakeEngine()
    with Store(tmp_path / "store.sqlite") as store:
        for make in (lambda: ScoreChunks(tmp_path / "chunks"), lambda: StoredScores(store)):
            fresh, again = (score_items(engine, ITEMS, SHOWN, settings(), make(), Tally()) for _ in range(2))
            assert set(fresh["top_token"]) <= set("ABC")
            pd.testing.assert_frame_equal(fresh, again)
            to_table(fresh, schemas.scores(CONFIG.labels))
    assert engine.asked == 36


def test_chunks_and_replies_of_earlier_versions_have_no_top_token(tmp_path: Path) -> None:
    engine, request = FakeEngine(), Score((), ("A", "B", "C"))
    key = request_key(engine.info, request)
    old = {"key": [key], "scores": [[1.0, 2.0, 3.0]], "mass": [0.5]}
    pq.write_table(pa.table(old), tmp_path / "chunk-old.parquet")
    assert ScoreChunks(tmp_path).look_up([key]) == {key: Known([1.0, 2.0, 3.0], 0.5, None, None)}
    with Store(tmp_path / "store.sqlite") as store:
        store.put([(key, {}, {"scores": [1.0, 2.0, 3.0], "mass": 0.5})])
        assert StoredScores(store).look_up([key]) == {key: Known([1.0, 2.0, 3.0], 0.5, None, None)}


class CheckingEngine(FakeEngine):
    """Notes what it is asked to check."""

    def check(self, requests: Iterable[tuple[Generate | Score, str]]) -> None:
        self.checked = [(type(request), name, self.asked) for request, name in requests]


def test_all_prompts_are_checked_with_their_items_before_the_first_is_scored(tmp_path: Path) -> None:
    engine = CheckingEngine()
    score_items(engine, ITEMS, SHOWN, settings(), ScoreChunks(tmp_path), Tally())
    assert engine.checked == [(Score, f"item {uid}", 0) for uid in ["i1"] * 12 + ["i2"] * 6]


def test_all_prompts_are_checked_with_their_items_before_the_first_is_answered(tmp_path: Path) -> None:
    engine = CheckingEngine()
    answers(engine, tmp_path / "s.sqlite")
    assert engine.checked == [(Generate, f"item {uid} (label {label})", 0) for uid in ("i1", "i2") for label in "enc"]


class CutEngine(FakeEngine):
    """The first answer ends with the model's context, the second at max_new_tokens, all others by themselves."""

    def generate(self, requests: Sequence[Generate]) -> Iterator[tuple[int, Generated]]:
        for i, request in enumerate(requests):
            cut = (request.max_new_tokens - 1, request.max_new_tokens)
            yield i, Generated("- a", "length" if i < 2 else "stop", Usage(10, cut[i] if i < 2 else 3))


def test_answers_cut_off_by_the_models_context_are_counted_with_their_items(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):  # stored ones too
        tally = Tally()
        caplog.clear()
        answers(CutEngine(), tmp_path / "s.sqlite", tally=tally)
        assert "cut off by the end of the model's context, before max_new_tokens: item i1 (label e)" in caplog.text
        assert tally.provenance()["cut_at_context_end"] == ["item i1 (label e)"]


@pytest.mark.parametrize("text", ["{premise}", "{0} {options}", "{{ 7 * 7 }}", "{% raw %}", "%s $x \\1", "{"])
def test_braces_in_texts_and_explanations_stay_text(text: str) -> None:
    shown = SHOWN.assign(text=f"so {text}")
    items = ITEMS.assign(premise=f"P {text} one.")
    for _, of_item in item_prompts(items, shown, settings()):
        for prompt in of_item:
            assert f"P {text} one." in prompt.messages[-1].content
            assert f"so {text}" in prompt.messages[-1].content


def test_item_without_explanation_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="item i2 has no explanation, but this source shows them"):
        score_items(FakeEngine(), ITEMS, SHOWN[:2], settings(), ScoreChunks(tmp_path), Tally())


def answers(engine: FakeEngine, path: Path, items: pd.DataFrame = ITEMS, tally: Tally | None = None) -> pd.DataFrame:
    fields, counts = ("premise", "hypothesis"), tally or Tally()
    with Store(path) as store:
        return generate_answers(engine, items, CONFIG.labels, fields, CONFIG.prompts, Sampling(), 1, store, counts)


def test_every_item_and_label_is_answered(tmp_path: Path) -> None:
    found = answers(FakeEngine(), tmp_path / "s.sqlite")
    assert list(zip(found["uid"], found["label"], strict=True)) == [(u, k) for u in ("i1", "i2") for k in "enc"]


def test_stored_answers_are_not_asked_for_again(tmp_path: Path) -> None:
    first = answers(FakeEngine(), tmp_path / "s.sqlite", ITEMS[:1])
    engine = FakeEngine()
    again = answers(engine, tmp_path / "s.sqlite")
    assert engine.asked == 3
    pd.testing.assert_frame_equal(first, again[:3])


def test_a_damaged_store_is_an_error_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    path.write_bytes(b"this is not a database" * 100)
    with pytest.raises(DataError, match=r"response store .*s\.sqlite cannot be used"):
        answers(FakeEngine(), path)
    assert path.read_bytes() == b"this is not a database" * 100


@pytest.mark.parametrize(
    "change", [{"max_new_tokens": 9}, {"temperature": 0.5}, {"seed": 2}, {"sample_index": 1}, {"messages": ()}]
)
def test_the_key_covers_the_whole_request(change: dict) -> None:
    info = EngineInfo("fake", "1", "m")
    base = {"messages": (), "max_new_tokens": 8, "temperature": 0.0, "seed": 1, "sample_index": 0}
    if change == {"messages": ()}:
        base["messages"] = (Message("user", "x"),)
    assert request_key(info, Generate(**base)) != request_key(info, Generate(**{**base, **change}))


# -- keys of labels ------------------------------------------------------------------------------------------------


def test_scores_mjds_and_biases_do_not_depend_on_the_keys_of_labels(tmp_path: Path) -> None:
    """Keys of a scale, and keys with hyphen and underscore, through scores, Parquet, MJDs and tables."""
    items = pd.DataFrame({"uid": ["i1", "i2"], "premise": ["P", "Q"], "hypothesis": ["H", "I"]})
    found = []
    for keys in (("e", "n", "c"), ("-3", "a_b", "a-b")):
        labels = label_set({"key": key, "name": label.name} for key, label in zip(keys, CONFIG.labels, strict=True))
        texts = pd.DataFrame(
            {"uid": ["i1", "i1", "i2", "i2"], "position": [0, 1, 0, 1], "label": [*keys[:2], *keys[1:]], "text": "t"}
        )
        settings = PromptSettings(CONFIG.prompts, labels, ("premise", "hypothesis"), "explicit", "all", 1)
        path = tmp_path / f"{keys[0]}.parquet"
        scores = score_items(FakeEngine(), items, texts, settings, ScoreChunks(tmp_path / keys[0]), Tally())
        write_parquet(scores, path, schemas.scores(labels))
        read = read_parquet(path)
        mjd = model_judgments(read, Softmax(temperature=1), labels)
        system = System("s", "s", "mjd", scorer="llm", source="human", mode="explicit")
        bias = bias_table([system], [read], labels, Statistics(resamples=100), 1, "made up")
        found.append((read[labels.columns("score")].to_numpy(), mjd[labels.columns("p")].to_numpy(), bias))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])
    p_options = [column for column in found[0][2] if str(column).startswith("p_option")]
    np.testing.assert_allclose(found[0][2][p_options].astype(float), found[1][2][p_options].astype(float))
