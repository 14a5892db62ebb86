"""The loop round every engine: look up what is known, ask for the rest, keep what comes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from mjd.errors import ModelError
from mjd.llm.base import (
    Engine,
    EngineInfo,
    Generated,
    GenerateRequest,
    Request,
    Scored,
    ScoreRequest,
    Unanswered,
    request_key,
)
from mjd.llm.unanswered import UnansweredPrompts
from mjd.llm.usage import UsageTracker
from mjd.logs import Progress

# Fresh replies of a local engine after which a job looks at them for the first time.
FIRST_REPLIES = 4

ReplyT = TypeVar("ReplyT", bound=Generated | Scored)
AnswerT = TypeVar("AnswerT")


class ReplyCache(ABC, Generic[ReplyT]):
    """Usable replies by request key, on disk: of local engines in Parquet files of a job (`mjd.llm.store.files`), of
    paid ones in the response store (`mjd.llm.store.paid`)."""

    @abstractmethod
    def look_up(self, keys: Sequence[str]) -> dict[str, ReplyT]:
        """The replies of those keys that have a usable one."""

    @abstractmethod
    def add(self, key: str, info: EngineInfo, request: Request, reply: ReplyT) -> None:
        """Keep a fresh reply."""

    def flush(self) -> None:
        """Put everything on disk."""

    def compact(self) -> None:
        """Tidy up at the end of a job."""


@dataclass(frozen=True)
class CachedEngine:
    """An engine, and where a job keeps its replies: nothing known is asked again, and equal requests are asked once.

    Attributes:
        engine: the engine.
        cache: replies to keep and to find; of the kind that the requests ask for.
        tracker: counts what was asked and what was known.
        unanswered: collects requests without a usable reply.
    """

    engine: Engine
    cache: ReplyCache[Any]
    tracker: UsageTracker
    unanswered: UnansweredPrompts

    @contextmanager
    def asking(self, what: str, n_requests: int, unit: str) -> Iterator[Progress]:
        """Show the progress of a job's requests, keep what was answered however the block ends, and settle the others.

        Args:
            what: the job's work, for messages.
            unit: what progress counts, such as prompts.

        Raises:
            ModelError: requests got no usable reply, and the policy is not to drop them.
        """
        with Progress(what, n_requests, unit) as progress:
            progress.note = self.engine.note
            try:
                yield progress
            finally:
                self.cache.flush()
        self.cache.compact()
        self.unanswered.settle(what, n_requests)

    def ask(
        self,
        requests: Sequence[Request],
        names: Sequence[str],
        progress: Progress,
        read: Callable[[Any], AnswerT | Unanswered],
        watch: Callable[[Sequence[AnswerT]], None] | None = None,
    ) -> list[AnswerT | None]:
        """What is read out of the reply to each request, in order; None where there is no usable one.

        Args:
            requests: all of one kind.
            names: what each request is, for messages.
            progress: counts each request as done, cached or failed.
            read: what is kept of a reply; `Unanswered` where nothing can be read from it. Such a reply is not kept.
            watch: gets what the job has after its first `FIRST_REPLIES` fresh replies, and may end it; not of paid
                engines, whose other replies are under way then.

        Raises:
            ModelError: a request has an `answer_so_far`, which the engine does not read; nothing was asked.
        """
        self._check_support(requests, names)
        keys = [request_key(self.engine.info, request) for request in requests]
        known = self._look_up(keys, read)
        missing = list({key: i for i, key in enumerate(keys) if key not in known}.values())
        n_cached = len(requests) - len(missing)
        progress.cached(n_cached)
        self.tracker.cached += n_cached
        without: dict[str, Unanswered] = {}
        if missing:
            self.tracker.start()
        try:
            for position, reply in _send(self.engine, [requests[i] for i in missing]):
                i = missing[position]
                answer = reply if isinstance(reply, Unanswered) else read(reply)
                if isinstance(answer, Unanswered):
                    without[keys[i]] = answer
                    progress.failed()
                    continue
                known[keys[i]] = answer
                self.cache.add(keys[i], self.engine.info, requests[i], reply)
                self.tracker.add(reply.usage)
                progress.done()
                if watch and progress.n_done == FIRST_REPLIES and not self.engine.is_paid:
                    watch([known[key] for key in keys if key in known])
        finally:  # whatever ends the job, its log names them
            for key, name in zip(keys, names, strict=True):
                if key in without:
                    self.unanswered.add(name, without[key])
        return [known.get(key) for key in keys]

    def _check_support(self, requests: Sequence[Request], names: Sequence[str]) -> None:
        for request, name in zip(requests, names, strict=True):
            if isinstance(request, ScoreRequest) and request.answer_so_far and not self.engine.continues_answers:
                raise ModelError(
                    f"{name}: engine {self.engine.info.engine} cannot score what follows the beginning of an answer.",
                    "Choose an engine that runs the model's weights (transformers, vllm) or another estimator.",
                )

    def _look_up(self, keys: Sequence[str], read: Callable[[Any], AnswerT | Unanswered]) -> dict[str, AnswerT]:
        answers = {key: read(reply) for key, reply in self.cache.look_up(keys).items()}
        return {key: answer for key, answer in answers.items() if not isinstance(answer, Unanswered)}


def _send(engine: Engine, requests: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """An engine's replies as (index into `requests`, reply), in any order."""
    if not requests:
        return
    if isinstance(requests[0], ScoreRequest):
        yield from engine.score(requests)
        return
    assert isinstance(requests[0], GenerateRequest)
    per_call = engine.answers_per_call or len(requests)
    for start in range(0, len(requests), per_call):
        for position, reply in engine.generate(requests[start : start + per_call]):
            yield start + position, reply
