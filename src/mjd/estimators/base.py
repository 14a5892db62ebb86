"""The interface of estimators: what an LLM is asked about an item, and what is read out of its answers.

`ask_items` is the job that all of them share: every request is checked before the first is answered, answers that are
known already are not asked for again, and requests without a usable reply are collected.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import pandas as pd
import pyarrow as pa

from mjd.estimators.item_prompts import explanations_by_item
from mjd.llm.base import Engine, Generated, Request, Scored, Unanswered
from mjd.llm.cache import CachedEngine, ReplyCache
from mjd.llm.unanswered import UnansweredPrompts
from mjd.llm.usage import UsageTracker
from mjd.logs import Progress
from mjd.prompts.templates import ScorePrompt

RequestT = TypeVar("RequestT", bound=Request)
ReplyT = TypeVar("ReplyT", bound=Generated | Scored)
AnswerT = TypeVar("AnswerT")


@dataclass(frozen=True)
class ItemRequest(Generic[RequestT]):
    """A request about an item, and the prompt that it sends: which orders it shows."""

    uid: str
    prompt: ScorePrompt
    request: RequestT

    @property
    def name(self) -> str:
        """The request in a message: its item and orders."""
        order = self.prompt.explanation_order
        shown = f"explanations {','.join(map(str, order))}, " if order else ""
        return f"item {self.uid} ({shown}options {','.join(self.prompt.option_order)})"


class Estimator(ABC, Generic[RequestT, ReplyT, AnswerT]):
    """Requests of an item, and what their answers say: scores of the labels, or a distribution.

    A request is whatever an engine answers (`mjd.llm.base`): a score, a generated text. An estimator makes one table of
    answers for a scorer and variant, a row for each request; entries of `scoring.estimators` that differ only in how
    answers become distributions share it. The table of first-token scores is `scores/{llm}/{variant}.parquet`, that of
    any other estimator `answers/{llm}/{variant}-{estimator}.parquet` (`mjd.paths.Paths.estimator_answers`).
    """

    answer_name = "answer"
    """What an item without a row lacks, for messages and provenance."""

    @abstractmethod
    def schema(self) -> pa.Schema:
        """Columns of its table: uid, explanation_order, option_order, then those of `values`."""

    @abstractmethod
    def requests(
        self, items: pd.DataFrame, explanations: pd.DataFrame | None, drops: bool = False
    ) -> Iterator[list[ItemRequest[RequestT]]]:
        """The requests of each item, items in order.

        Args:
            items: uid and text fields.
            explanations: uid, position, label, text; None when no explanations are shown.
            drops: leave out items without an explanation that the source would show.

        Raises:
            DataError: an item has no explanation although the source shows some, and is not to be left out.
        """

    @abstractmethod
    def n_requests(self, items: pd.DataFrame, explanations: pd.DataFrame | None) -> int:
        """How many requests there are, without making them."""

    @abstractmethod
    def read(self, reply: ReplyT) -> AnswerT | Unanswered:
        """What is kept of a reply; `Unanswered` where nothing can be read from it."""

    @abstractmethod
    def values(self, prompt: ScorePrompt, answer: AnswerT) -> tuple[Any, ...]:
        """The row of an answer, from the fourth column of `schema` on; labels in label order, whatever was shown."""

    def check(self, engine: Engine, answers: Sequence[AnswerT], requests: Sequence[RequestT] = ()) -> None:
        """Look at answers of a job: after its first `FIRST_REPLIES` from a local engine, and after each group.

        Args:
            engine: whose answers they are.
            answers: finished ones.
            requests: theirs, if the engine is at no other work, so that it may be asked more about them.

        Raises:
            ModelError: the estimator has no meaning for this LLM.
        """


def ask_items(
    engine: Engine,
    estimator: Estimator[RequestT, ReplyT, AnswerT],
    items: pd.DataFrame,
    explanations: pd.DataFrame | None,
    cache: ReplyCache[ReplyT],
    tracker: UsageTracker,
    what: str,
    unanswered: UnansweredPrompts,
) -> pd.DataFrame:
    """The estimator's table of answers about all items; answers in `cache` are not asked for again.

    All requests are checked before the first is answered. They are made twice, and never all held at once: the corpus
    may be large.

    Args:
        what: the job's work, for messages.
        unanswered: collects requests that got no usable reply; all others are answered before these end the job
            (`unanswered: stop`) or are left out (`drop`).

    Raises:
        ModelError: requests got no usable reply, and the policy is not to drop them; or `Estimator.check` refuses.
    """
    drops = unanswered.drops
    requests = estimator.requests(items, explanations, drops)
    engine.check((one.request, f"item {one.uid}") for of_item in requests for one in of_item)
    uids = items["uid"].astype(str)
    shown = explanations_by_item(explanations)
    kept = [uid for uid in uids if explanations is None or uid in shown]
    left_out = sorted(set(uids) - set(kept))
    unanswered.leave_out("items_without_explanations", left_out, f"items of {what} have no explanation")
    total = estimator.n_requests(items[uids.isin(kept)], explanations)
    cached = CachedEngine(engine, cache, tracker, unanswered)
    rows: list[tuple[Any, ...]] = []
    with cached.asking(what, total, "prompts") as progress:
        for group in _groups(estimator.requests(items, explanations, drops), engine.prompts_per_call):
            rows += _ask_group(cached, estimator, group, progress)
    missing = sorted(set(kept) - {row[0] for row in rows})
    name = estimator.answer_name
    unanswered.leave_out(f"items_without_{name}s", missing, f"items of {what} have no {name} at all")
    return pd.DataFrame(rows, columns=estimator.schema().names)


def _groups(requests: Iterable[list[ItemRequest[RequestT]]], size: int | None) -> Iterator[list[ItemRequest[RequestT]]]:
    """Whole items together, at most `size` requests a group where items allow it; None is one group."""
    group: list[ItemRequest[RequestT]] = []
    for of_item in requests:
        if group and size and len(group) + len(of_item) > size:
            yield group
            group = []
        group += of_item
    if group:
        yield group


def _ask_group(
    cached: CachedEngine,
    estimator: Estimator[RequestT, ReplyT, AnswerT],
    group: Sequence[ItemRequest[RequestT]],
    progress: Progress,
) -> Iterator[tuple[Any, ...]]:
    """Rows of the table; requests that get no usable reply have none."""
    engine, requests = cached.engine, [one.request for one in group]
    answers = cached.ask(
        requests,
        [one.name for one in group],
        progress,
        estimator.read,
        lambda first: estimator.check(engine, first),
    )
    answered = [(one, answer) for one, answer in zip(group, answers, strict=True) if answer is not None]
    estimator.check(
        engine, [answer for _, answer in answered], [] if engine.is_paid else [one.request for one, _ in answered]
    )
    for one, answer in answered:
        orders = (one.prompt.explanation_order, one.prompt.option_order)
        yield one.uid, *(",".join(map(str, order)) for order in orders), *estimator.values(one.prompt, answer)
