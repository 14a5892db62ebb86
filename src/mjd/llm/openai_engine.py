"""The OpenAI engine: any OpenAI-compatible endpoint, many requests at once, paid for once."""

from __future__ import annotations

import asyncio
import email.utils
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from aiolimiter import AsyncLimiter
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_before_delay, wait_random_exponential

import openai
from mjd.config import Llm
from mjd.errors import BudgetError, ModelError
from mjd.llm import openai_replies as replies
from mjd.llm.base import (
    Engine,
    EngineInfo,
    Generate,
    Generated,
    Score,
    Scored,
    ScoreKind,
    Workplace,
    request_key,
)
from mjd.llm.openai_batch import BatchError, run_batches
from mjd.llm.openai_replies import MissingLogprobsError, ReplyError, UnreadableReplyError

log = logging.getLogger(__name__)
for _chatty in ("httpx", "httpx2", "openai"):  # a line for each request otherwise
    logging.getLogger(_chatty).setLevel(logging.WARNING)

# The protocol, not the client library: a new version of that must not make replies be paid for again.
PROTOCOL = "chat-completions-1"
# Requests given up in a row that end a job: the endpoint is down, not a single prompt at fault.
FAILURES_IN_A_ROW = 10

R = TypeVar("R", Generated, Scored)
Body = dict[str, Any]


class OpenAiEngine(Engine):
    """Generates and scores at an OpenAI-compatible endpoint; scores are log-probabilities of the most likely tokens.

    Args:
        directory: not used, API models have none.
        settings: the LLM's configuration entry.
        identity: `api:` and the endpoint's name of the model.
        workplace: holds the ledger that prices are booked in.

    Raises:
        ModelError: the job has no ledger.
    """

    score_kind: ScoreKind = "logprob"
    is_paid = True

    def __init__(self, directory: str | Path, settings: Llm, identity: str, workplace: Workplace) -> None:
        if workplace.ledger is None:
            raise ModelError(f"{identity} is behind an API, and this job books no spending.", "Report this as a bug.")
        self.settings = settings.openai
        self.letter_tokens = settings.letter_tokens
        if self.settings.batch:  # all at once: `batch_size` is what cuts them, and batches run side by side
            self.prompts_per_call = None
        self.ledger = workplace.ledger
        self.model = identity.removeprefix("api:")
        self.info = engine_info(settings, identity)
        self._gives_logprobs = False
        self._served: set[tuple[str, str]] = set()

    # -- what an engine does -----------------------------------------------------------------------------------

    def generate(self, requests: Sequence[Generate]) -> Iterator[tuple[int, Generated]]:
        """Answer every request; see `score` for errors."""
        bodies = [replies.generate_body(self.model, request, self.settings) for request in requests]
        return self._run(requests, bodies, lambda reply, i: replies.read_answer(reply))

    def score(self, requests: Sequence[Score]) -> Iterator[tuple[int, Scored]]:
        """Score every request.

        The first request is sent alone, so that an endpoint without `logprobs` costs one reply, not many.

        Raises:
            ModelError: the endpoint refuses the request, gives no log-probabilities, or requests failed for good. Every
                reply that came has been yielded before.
            BudgetError: the next request could cross the budget; the same holds.
        """
        bodies = [replies.score_body(self.model, request, self.settings) for request in requests]

        def read(reply: Mapping[str, Any], i: int) -> Scored:
            scored = replies.read_scores(reply, requests[i].letters, self.letter_tokens == "all")
            self._gives_logprobs = True
            return scored

        if bodies and not self._gives_logprobs and not self.settings.batch:
            yield from self._run(requests[:1], bodies[:1], read)
            for i, scored in self._run(requests[1:], bodies[1:], lambda reply, i: read(reply, i + 1)):
                yield i + 1, scored
            return
        yield from self._run(requests, bodies, read)

    def report(self) -> dict[str, Any]:
        """Client library, models that answered, and what this job was billed."""
        served = sorted(f"{model} ({fingerprint})" if fingerprint else model for model, fingerprint in self._served)
        usd = round(self.ledger.usd, 6) if self.ledger.has_prices else None
        return {
            "client": f"openai {openai.__version__}",
            "served": served,
            "billed_requests": self.ledger.requests,
            "billed_usd": usd,
        }

    def note(self) -> str:
        """Spending of this job so far."""
        return f"{self.ledger.usd:.4f} USD spent" if self.ledger.has_prices else ""

    # -- requests at once --------------------------------------------------------------------------------------

    def _run(
        self, requests: Sequence[Generate | Score], bodies: Sequence[Body], read: Callable[[Mapping[str, Any], int], R]
    ) -> Iterator[tuple[int, R]]:
        if not bodies:
            return
        key = self._key()
        if self.settings.batch:
            yield from self._run_batches(key, [request_key(self.info, request) for request in requests], bodies, read)
            return
        crew = _Crew(self, key, bodies, read)
        yield from crew.results()

    def _run_batches(
        self, key: str, keys: Sequence[str], bodies: Sequence[Body], read: Callable[[Mapping[str, Any], int], R]
    ) -> Iterator[tuple[int, R]]:
        index = {name: i for i, name in enumerate(keys)}
        failed: list[str] = []
        client = openai.OpenAI(
            api_key=key, base_url=self.settings.base_url, timeout=self.settings.timeout, max_retries=8
        )
        try:
            for name, reply in run_batches(client, dict(zip(keys, bodies, strict=True)), self.settings, self.ledger):
                try:
                    if isinstance(reply, BatchError):
                        raise UnreadableReplyError(str(reply))
                    self._seen(reply)
                    yield index[name], read(reply, index[name])
                except ReplyError as error:
                    failed.append(str(error))
        except openai.OpenAIError as error:
            raise self.refused(error, key) from None
        if failed:
            raise self.incomplete(len(failed), failed[-1])

    def _key(self) -> str:
        """The API key; raises `ModelError`, which never shows it, when its variable does not hold one."""
        name = self.settings.api_key_env
        if name is None:
            return "none"
        key = os.environ.get(name, "").strip()
        if not key:
            raise ModelError(
                f"{self.model} needs an API key, and the environment variable {name} is empty.",
                f"Set {name}, or openai.api_key_env: null for a server that asks for none.",
            )
        if not (key.isascii() and key.isprintable()):
            raise ModelError(
                f"The environment variable {name} holds characters that no API key has, such as a curly quote.",
                f"Copy the key of {self.model} into {name} once more.",
            )
        return key

    def _seen(self, reply: Mapping[str, Any]) -> None:
        self._served.add((str(reply.get("model") or self.model), str(reply.get("system_fingerprint") or "")))

    # -- errors ------------------------------------------------------------------------------------------------

    def refused(self, error: Exception, key: str) -> ModelError:
        """The error of an endpoint that will not answer, without the key in it."""
        reason = " ".join(str(error).split()).replace(key, "***")[:400]
        return ModelError(
            f"{self.settings.base_url} refused a request for {self.model} ({reason}).",
            f"Everything answered so far is kept. Check base_url, the model's name, {self.settings.api_key_env} and "
            "the account, then run again.",
        )

    def without_logprobs(self) -> ModelError:
        """The error of an endpoint that cannot score."""
        return ModelError(
            f"{self.settings.base_url} answered for {self.model} without top_logprobs, though they were asked for: "
            "scores cannot be read from it.",
            "Use an endpoint that supports logprobs and top_logprobs (vLLM, llama.cpp, OpenAI), or this LLM as a "
            "generator only.",
        )

    def incomplete(self, n_failed: int, reason: str) -> ModelError:
        """The error of a job some of whose requests failed for good."""
        return ModelError(
            f"{n_failed} request(s) to {self.settings.base_url} failed for good; the last: {reason}.",
            "All other replies are kept: run again to ask for the missing ones alone.",
        )


def engine_info(settings: Llm, identity: str) -> EngineInfo:
    """What is part of every request key of an API model; known without a key or a connection."""
    own = settings.openai
    # `merge_variants` is the older name of `letter_tokens`: keys of replies that were paid for keep it.
    changing: dict[str, Any] = {"base_url": own.base_url, "top_logprobs": own.top_logprobs}
    changing |= {"merge_variants": settings.letter_tokens == "all"}
    if settings.chat_template_kwargs:
        changing["chat_template_kwargs"] = json.dumps(settings.chat_template_kwargs, sort_keys=True)
    return EngineInfo("openai", PROTOCOL, identity, tuple((name, str(value)) for name, value in changing.items()))


class _Crew:
    """Requests of one call, `concurrency` at a time.

    When something ends the call early (a refusal, the budget), no further request starts, and those under way are
    waited for: their replies are paid for.
    """

    def __init__(
        self, engine: OpenAiEngine, key: str, bodies: Sequence[Body], read: Callable[[Mapping[str, Any], int], Any]
    ) -> None:
        self.engine, self.settings, self.ledger = engine, engine.settings, engine.ledger
        self.key, self.bodies, self.read = key, bodies, read
        self._waiting = iter(range(len(bodies)))
        self._end: Exception | None = None
        self._failed: list[str] = []
        self._failed_in_a_row = 0

    def results(self) -> Iterator[tuple[int, Any]]:
        """Results as they come. The event loop rests while the caller stores one."""
        loop = asyncio.new_event_loop()
        finished: asyncio.Queue[tuple[int, Any] | None] = asyncio.Queue()
        work = loop.create_task(self._work(finished))
        try:
            while (result := loop.run_until_complete(finished.get())) is not None:
                yield result
            loop.run_until_complete(work)
        finally:
            work.cancel()
            loop.run_until_complete(asyncio.gather(work, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
        if self._end:
            raise self._end
        if self._failed:
            raise self.engine.incomplete(len(self._failed), self._failed[-1])

    async def _work(self, finished: asyncio.Queue[tuple[int, Any] | None]) -> None:
        limits = _Limits(self.settings.requests_per_minute, self.settings.tokens_per_minute)
        client = openai.AsyncOpenAI(
            api_key=self.key, base_url=self.settings.base_url, timeout=self.settings.timeout, max_retries=0
        )
        try:
            async with client:
                n = min(self.settings.concurrency, len(self.bodies))
                await asyncio.gather(*(self._worker(client, limits, finished) for _ in range(n)))
        finally:
            finished.put_nowait(None)

    async def _worker(
        self, client: openai.AsyncOpenAI, limits: _Limits, finished: asyncio.Queue[tuple[int, Any] | None]
    ) -> None:
        for i in self._waiting:
            try:
                await finished.put((i, await self._answer(client, limits, i)))
                self._failed_in_a_row = 0
            except (BudgetError, ModelError) as error:
                self._end = self._end or error
            except (openai.OpenAIError, ReplyError) as error:
                self._failed.append(" ".join(str(error).split()).replace(self.key, "***")[:300])
                self._failed_in_a_row += 1
                log.warning("a request failed for good: %s", self._failed[-1])
            if self._end or self._failed_in_a_row >= FAILURES_IN_A_ROW:
                return

    async def _answer(self, client: openai.AsyncOpenAI, limits: _Limits, i: int) -> Any:
        """One request, tried again while that may help.

        Raises:
            BudgetError: it could cross the budget.
            ModelError: the endpoint refuses it.
            OpenAIError, ReplyError: trying again does not help, or was tried for as long as the settings say.
        """
        body = self.bodies[i]
        tries = AsyncRetrying(
            retry=retry_if_exception(_may_pass),
            stop=stop_before_delay(self.settings.retry_seconds),
            wait=_Wait(self.settings.max_wait),
            before_sleep=self._log_retry,
            reraise=True,
        )
        try:
            async for attempt in tries:
                with attempt:
                    # Waiting for the limits is no trying: it does not count against `retry_seconds`.
                    waits_since = time.monotonic()
                    await limits.wait(replies.likely_usage(body, self.settings))
                    attempt.retry_state.start_time += time.monotonic() - waits_since
                    return self._read(await self._paid(client, body), i)
        except openai.APIStatusError as error:
            if _may_pass(error):
                raise
            raise self.engine.refused(error, self.key) from None
        raise AssertionError("unreachable: tries end by a return or an error")

    async def _paid(self, client: openai.AsyncOpenAI, body: Body) -> Mapping[str, Any]:
        """The reply to one try, booked in place of its reservation: a reply that is of no use costs as much."""
        lapse = 2 * self.settings.timeout + 60
        reservation = self.ledger.reserve(replies.most_usage(body, self.settings), lapse)
        try:
            reply = await self._send(client, body)
            # Read in full before it is booked: a reply cut off on its way was never seen.
            self.ledger.book(replies.read_usage(reply), reservation=reservation)
        finally:
            self.ledger.release(reservation)
        self.engine._seen(reply)
        return reply

    def _read(self, reply: Mapping[str, Any], i: int) -> Any:
        try:
            return self.read(reply, i)
        except MissingLogprobsError:
            if self.engine._gives_logprobs:  # a hiccup of a server that can: ask again
                raise
            raise self.engine.without_logprobs() from None

    async def _send(self, client: openai.AsyncOpenAI, body: Body) -> Mapping[str, Any]:
        """Send a request; raises `UnreadableReplyError` when the reply is not a JSON object."""
        raw = await client.chat.completions.with_raw_response.create(**body)
        try:
            reply = raw.http_response.json()
        except ValueError as error:
            raise UnreadableReplyError(f"a reply is no JSON ({error})") from None
        if not isinstance(reply, dict):
            raise UnreadableReplyError("a reply is no JSON object")
        return reply

    def _log_retry(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        reason = " ".join(str(error).split()).replace(self.key, "***")[:200]
        pause = state.next_action.sleep if state.next_action else 0.0
        log.info("trying again in %.1f s (try %d failed: %s)", pause, state.attempt_number, reason)


class _Limits:
    """Requests and tokens per minute."""

    def __init__(self, requests: int | None, tokens: int | None) -> None:
        # Spread evenly: a whole minute's allowance at once would be refused by most endpoints.
        self._requests = AsyncLimiter(1, 60 / requests) if requests else None
        self._tokens = AsyncLimiter(tokens / 6, 10) if tokens else None

    async def wait(self, tokens: int) -> None:
        """Wait until one more request of that many tokens may be sent."""
        if self._requests:
            await self._requests.acquire()
        if self._tokens:
            await self._tokens.acquire(min(tokens, self._tokens.max_rate))


class _Wait:
    """Seconds before the next try: what Retry-After asks for, else random up to a doubling limit."""

    def __init__(self, longest: float) -> None:
        self._random = wait_random_exponential(multiplier=1, max=longest)

    def __call__(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = retry_after(error.response.headers) if isinstance(error, openai.APIStatusError) else None
        # A little jitter, so that requests refused together do not come back together.
        return float(self._random(state)) if asked is None else asked + float(self._random(state)) / 10


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds of a Retry-After header, in either of its forms; None where it is absent or unreadable."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _may_pass(error: BaseException) -> bool:
    """True when trying again may help: no answer, an unreadable one, 408, 409, 429 (but not a used-up account), 5xx."""
    if isinstance(error, openai.APIStatusError):
        used_up = getattr(error, "code", None) == "insufficient_quota"
        return not used_up and (error.status_code in (408, 409, 429) or error.status_code >= 500)
    return isinstance(error, openai.APIConnectionError | UnreadableReplyError)
