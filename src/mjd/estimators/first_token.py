"""First-token scores of every prompt of every item."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa

from mjd import schemas
from mjd.errors import ModelError
from mjd.estimators.base import Estimator, ItemRequest, ask_items
from mjd.estimators.item_prompts import PromptSettings, item_prompts, n_prompts
from mjd.llm import reasoning
from mjd.llm.base import Engine, Generated, GenerateRequest, Scored, ScoreRequest, Unanswered
from mjd.llm.cache import ReplyCache
from mjd.llm.unanswered import UnansweredPrompts
from mjd.llm.usage import UsageTracker
from mjd.prompts.templates import ScorePrompt

log = logging.getLogger(__name__)

# Tokens of an answer that tell whether it begins reasoning, where the first token leaves that open.
TOKENS_READ_ON = 8


@dataclass(frozen=True)
class FirstTokenScores(Estimator[ScoreRequest, Scored, Scored]):
    """Scores of the option letters at the first answer position, for every order of explanations and options."""

    settings: PromptSettings

    answer_name = "score"

    def schema(self) -> pa.Schema:
        return schemas.scores(self.settings.labels)

    def requests(
        self, items: pd.DataFrame, explanations: pd.DataFrame | None, drops: bool = False
    ) -> Iterator[list[ItemRequest[ScoreRequest]]]:
        letters = self.settings.labels.letters
        for uid, prompts in item_prompts(items, explanations, self.settings, drops=drops):
            yield [ItemRequest(uid, prompt, ScoreRequest(prompt.messages, letters)) for prompt in prompts]

    def n_requests(self, items: pd.DataFrame, explanations: pd.DataFrame | None) -> int:
        return n_prompts(items, explanations, self.settings)

    def read(self, reply: Scored) -> Scored | Unanswered:
        if not all(
            score is None or math.isfinite(score) for score in reply.scores
        ):  # such as float16 logits that overflow
            return Unanswered(f"its scores are no finite numbers: {list(reply.scores)}")
        return reply

    def values(self, prompt: ScorePrompt, answer: Scored) -> tuple[float | str | None, ...]:
        by_label = dict(zip(prompt.option_order, answer.scores, strict=True))
        scores = (by_label[label] for label in self.settings.labels.keys)
        return (*scores, answer.bound, answer.mass, answer.top_token)

    def check(self, engine: Engine, answers: Sequence[Scored], requests: Sequence[ScoreRequest] = ()) -> None:
        check_answers_at_once(engine, answers, requests)


def score_items(
    engine: Engine,
    items: pd.DataFrame,
    explanations: pd.DataFrame | None,
    settings: PromptSettings,
    cache: ReplyCache[Scored],
    tracker: UsageTracker,
    what: str = "scoring",
    unanswered: UnansweredPrompts | None = None,
) -> pd.DataFrame:
    """Score every prompt of every item (schema `scores`), as `mjd.estimators.base.ask_items` does.

    A scorer that turns out to reason before it answers is refused after its first scores. `score_*` is in label order,
    whatever the option order was.

    Raises:
        ModelError: prompts got no usable reply, and the policy is not to drop them; or the scorer reasons first.
    """
    unanswered = UnansweredPrompts() if unanswered is None else unanswered
    return ask_items(engine, FirstTokenScores(settings), items, explanations, cache, tracker, what, unanswered)


def check_answers_at_once(engine: Engine, scored: Sequence[Scored], requests: Sequence[ScoreRequest] = ()) -> None:
    """Refuse a scorer whose first tokens begin reasoning: its scores are of letters that it never writes there.

    Args:
        engine: the scorer.
        scored: the first scores of a job.
        requests: theirs, if the engine is at no other work: it may be asked to write the beginning of an answer.

    Raises:
        ModelError: it reasons before it answers.
    """

    def beginning(i: int) -> str:
        try:
            answers = list(engine.generate([GenerateRequest(requests[i].messages, TOKENS_READ_ON)]))
        except ModelError:  # the context ends there
            return ""
        return next((answer.text for _, answer in answers if isinstance(answer, Generated)), "")

    found = reasoning.reasons_first(((one.top_token, one.mass) for one in scored), beginning if requests else None)
    if found:
        raise ModelError(
            f"{engine.info.model} reasons before it answers: its answers begin with {found!r}, and the letters have "
            f"next to no probability ({len(scored)} prompts).",
            "Turn reasoning off (llms.*.chat_template_kwargs, such as enable_thinking: false), or choose a scorer that "
            "answers at once.",
        )
