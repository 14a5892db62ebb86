"""The interface of estimators: one that asks for a distribution in words fits it as first tokens do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import pandas as pd
import pyarrow as pa
import pytest

from mjd.config.files import read_config
from mjd.errors import ModelError
from mjd.estimators.base import Estimator, ItemRequest, ask_items
from mjd.estimators.item_prompts import PromptSettings, first_prompts
from mjd.io import to_table
from mjd.llm.base import Engine, EngineInfo, Generated, GenerateRequest, Request, Unanswered, Usage
from mjd.llm.cache import ReplyCache
from mjd.llm.fake import FakeEngine
from mjd.llm.unanswered import UnansweredPrompts
from mjd.llm.usage import UsageTracker
from mjd.prompts.templates import ScorePrompt

CONFIG = read_config("config/config.yaml")
LABELS = CONFIG.labels
ITEMS = pd.DataFrame({"uid": ["i1", "i2"], "premise": ["P one.", "P two."], "hypothesis": ["H one.", "H two."]})
SHOWN = pd.DataFrame({"uid": ["i1", "i2"], "position": [0, 0], "label": ["e", "c"], "text": ["t1", "t2"]})


class Verbalized(Estimator[GenerateRequest, Generated, dict[str, float]]):
    """Percentages in words, asked for once an item."""

    def __init__(self, settings: PromptSettings) -> None:
        self.settings = settings

    def schema(self) -> pa.Schema:
        names = ("uid", "explanation_order", "option_order")
        return pa.schema(
            [(name, pa.string()) for name in names] + [(name, pa.float64()) for name in LABELS.columns("p")]
        )

    def requests(
        self, items: pd.DataFrame, explanations: pd.DataFrame | None, drops: bool = False
    ) -> Iterator[list[ItemRequest[GenerateRequest]]]:
        prompts = first_prompts(items, explanations, self.settings)
        for uid, prompt in zip(items["uid"], prompts, strict=True):
            yield [ItemRequest(uid, prompt, GenerateRequest(prompt.messages, 32))]

    def n_requests(self, items: pd.DataFrame, explanations: pd.DataFrame | None) -> int:
        return len(items)

    def read(self, reply: Generated) -> dict[str, float] | Unanswered:
        found = {key: float(share) / 100 for key, share in re.findall(r"(\w): (\d+) %", reply.text)}
        return found if set(found) == set(LABELS.keys) else Unanswered(f"no distribution in {reply.text!r}")

    def values(self, prompt: ScorePrompt, answer: dict[str, float]) -> tuple[float, ...]:
        return tuple(answer[label] for label in LABELS.keys)


class Remembered(ReplyCache[Generated]):
    """Answers in memory."""

    def __init__(self, estimator: Verbalized) -> None:
        self.estimator = estimator
        self.replies: dict[str, Generated] = {}
        self.is_on_disk = False

    def look_up(self, keys: Sequence[str]) -> dict[str, Generated]:
        return {key: self.replies[key] for key in keys if key in self.replies}

    def add(self, key: str, info: EngineInfo, request: Request, reply: Generated) -> None:
        self.replies[key] = reply
        self.is_on_disk = False

    def flush(self) -> None:
        self.is_on_disk = True

    def compact(self) -> None:
        assert self.is_on_disk


class TalkingEngine(FakeEngine):
    """Answers in words; says nothing useful about items whose texts have a `mute` word."""

    def __init__(self, mute: str = "nothing") -> None:
        super().__init__()
        self.mute = mute

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[tuple[int, Generated]]:
        for i, request in reversed(list(enumerate(requests))):
            self.asked += 1
            is_mute = any(self.mute in message.content for message in request.messages)
            yield i, Generated("I do not know." if is_mute else "c: 20 %, e: 50 %, n: 30 %", "stop", Usage(9, 9))


def verbalized() -> Verbalized:
    return Verbalized(PromptSettings(CONFIG.prompts, LABELS, ("premise", "hypothesis"), "explicit", 1, 1))


def ask(engine: FakeEngine, cache: Remembered, unanswered: UnansweredPrompts | None = None) -> pd.DataFrame:
    policy = unanswered or UnansweredPrompts()
    return ask_items(engine, cache.estimator, ITEMS, SHOWN, cache, UsageTracker(), "percentages", policy)


def test_estimator_of_generated_answers_gives_a_distribution_a_request() -> None:
    table = ask(TalkingEngine(), Remembered(verbalized()))
    assert table["uid"].tolist() == ["i1", "i2"]
    assert table[LABELS.columns("p")].to_numpy().tolist() == [[0.5, 0.3, 0.2]] * 2
    assert to_table(table, verbalized().schema()).num_rows == 2


def test_answers_of_an_estimator_are_not_asked_for_again() -> None:
    engine, cache = TalkingEngine(), Remembered(verbalized())
    first, second = ask(engine, cache), ask(engine, cache)
    assert engine.asked == 2
    pd.testing.assert_frame_equal(first, second)


def test_answer_that_nothing_can_be_read_from_is_named_and_not_kept() -> None:
    engine, cache = TalkingEngine(mute="P two."), Remembered(verbalized())
    with pytest.raises(
        ModelError, match=r"1 of 2 prompts got no usable reply: item i2 \(explanations 0, options e,n,c"
    ):
        ask(engine, cache)
    assert len(cache.replies) == 1
    dropping = UnansweredPrompts("drop")
    assert ask(engine, cache, dropping)["uid"].tolist() == ["i1"]
    assert dropping.provenance() == {"unanswered_prompts": 1, "items_without_answers": 1}


def test_estimator_that_refuses_an_llm_ends_the_job() -> None:
    class Strict(Verbalized):
        def check(
            self, engine: Engine, answers: Sequence[dict[str, float]], requests: Sequence[GenerateRequest] = ()
        ) -> None:
            raise ModelError(f"{engine.info.model} cannot do this.", "Choose another.")

    engine = TalkingEngine()
    with pytest.raises(ModelError, match="fake-model cannot do this"):
        ask(engine, Remembered(Strict(verbalized().settings)))


def test_request_names_its_item_and_orders_in_messages() -> None:
    one = next(first_prompts(ITEMS, SHOWN, verbalized().settings))
    assert ItemRequest("i1", one, GenerateRequest(one.messages, 1)).name == "item i1 (explanations 0, options e,n,c)"
