"""Scoring and generation: label order, errors, and nothing done twice (with the fake engine)."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mjd import schemas, scoring
from mjd.bias import bias_table
from mjd.config import Sampling, Softmax, Statistics, System, read_config
from mjd.distributions import model_judgments
from mjd.errors import DataError
from mjd.generation import generate_answers
from mjd.io import read_parquet, write_parquet
from mjd.labels import label_set
from mjd.llm.base import EngineInfo, Generate, Score, Scored, Usage, request_key
from mjd.llm.fake import FakeEngine
from mjd.llm.store import Store
from mjd.llm.tally import Tally
from mjd.scoring import PromptSettings, ScoreChunks, score_items

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


def test_item_without_explanation_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="item i2 has no explanation, but this source shows them"):
        score_items(FakeEngine(), ITEMS, SHOWN[:2], settings(), ScoreChunks(tmp_path), Tally())


def answers(engine: FakeEngine, path: Path, items: pd.DataFrame = ITEMS) -> pd.DataFrame:
    with Store(path) as store:
        return generate_answers(
            engine, items, CONFIG.labels, ("premise", "hypothesis"), CONFIG.prompts, Sampling(), 1, store, Tally()
        )


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
        base["messages"] = ("x",)
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
    p_options = [column for column in found[0][2] if column.startswith("p_option")]
    np.testing.assert_allclose(found[0][2][p_options].astype(float), found[1][2][p_options].astype(float))
