"""Requests to a chat completions API, many at once: limits, tries, and what was paid stored at once."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import logging
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

from aiolimiter import AsyncLimiter
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_before_delay, wait_random_exponential

import openai
from mjd.errors import BudgetError
from mjd.llm.base import Generated, Scored, Unanswered, reply_fields
from mjd.llm.openai import replies
from mjd.llm.openai.errors import LateReplyError, ReplyError, is_passing, may_pass, one_line
from mjd.runtime.interruption import SAME_INTERRUPTION

if TYPE_CHECKING:
    from mjd.llm.openai.engine import OpenAiEngine

log = logging.getLogger(__name__)

# Requests given up in a row that end a job: the endpoint is down, not a single prompt at fault.
FAILURES_IN_A_ROW = 10

Body = dict[str, Any]

# Statuses of the replies to the request under way whose beginning has come.
_statuses: ContextVar[list[int]] = ContextVar("statuses")


async def _note_status(response: Any) -> None:
    _statuses.get().append(response.status_code)


class Asked(NamedTuple):
    """A request: its key, the request as the store keeps it, and its JSON body."""

    key: str
    record: dict[str, Any]
    body: Body


class Unclear(NamedTuple):
    """A request that was refused, for its prompt or for what all requests share: other replies tell."""

    reason: str
    error: Exception


class RefusedPromptError(Exception):
    """The endpoint refuses one prompt; it costs nothing."""


class UnclearRefusalError(Exception):
    """The endpoint refuses a request and does not say what is wrong with it; its cause is the endpoint's error."""


Response = Generated | Scored | Unanswered
Found = tuple[int, Response | Unclear]


class _StoppedError(Exception):
    """No further try: the call ends."""


class ConcurrentRequests:
    """Requests of one call, `concurrency` at a time.

    When something ends the call early (a refusal, the budget, an interrupt), no further request or try starts, and
    those under way are waited for: their replies are paid for, and stored as they come.
    """

    def __init__(self, engine: OpenAiEngine, key: str, asked: Sequence[Asked]) -> None:
        self.engine, self.settings, self.ledger = engine, engine.settings, engine.ledger
        self.key, self.asked = key, asked
        self._waiting = iter(range(len(asked)))
        self._stop = asyncio.Event()
        self._end: Exception | None = None
        self._failed_in_a_row = 0

    def results(self) -> Iterator[Found]:
        """Results as they come. The event loop rests while the caller handles one."""
        loop = asyncio.new_event_loop()
        finished: asyncio.Queue[Found | None] = asyncio.Queue()
        work = loop.create_task(self._work(finished))
        with deferred_interrupts(lambda: loop.call_soon_threadsafe(self._stop.set)):
            try:
                while (result := loop.run_until_complete(finished.get())) is not None:
                    yield result
            except KeyboardInterrupt:  # the second one: whoever asks twice does not want to wait
                work.cancel()
                raise
            finally:
                self._stop.set()
                loop.run_until_complete(asyncio.gather(work, return_exceptions=True))
                loop.run_until_complete(loop.shutdown_asyncgens())
                loop.close()
        if work.exception():
            raise work.exception()  # type: ignore[misc]
        if self._end:
            raise self._end

    async def _work(self, finished: asyncio.Queue[Found | None]) -> None:
        limits = _Limits(self.settings.requests_per_minute, self.settings.tokens_per_minute)
        client = openai.AsyncOpenAI(
            api_key=self.key,
            base_url=self.settings.base_url,
            timeout=self.settings.timeout,
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(event_hooks={"response": [_note_status]}),
        )
        try:
            async with client:
                n = min(self.settings.concurrency, len(self.asked))
                await asyncio.gather(*(self._worker(client, limits, finished) for _ in range(n)))
        finally:
            finished.put_nowait(None)

    async def _worker(self, client: openai.AsyncOpenAI, limits: _Limits, finished: asyncio.Queue[Found | None]) -> None:
        for i in self._waiting:
            if self._stop.is_set():
                return
            try:
                result = await self._outcome(client, limits, self.asked[i])
            except _StoppedError:
                return
            except Exception as error:  # a refusal of all, the budget, a store that cannot be written
                self._end = self._end or error
                self._stop.set()
                return
            await finished.put((i, result))

    async def _outcome(self, client: openai.AsyncOpenAI, limits: _Limits, one: Asked) -> Response | Unclear:
        """The response to one request, or why it has none."""
        try:
            response: Response | Unclear = await self._answer(client, limits, one)
        except UnclearRefusalError as error:
            response = Unclear(one_line(error.__cause__, self.key), error.__cause__ or error)  # type: ignore[arg-type]
        except (ReplyError, RefusedPromptError) as error:
            response = Unanswered(one_line(error, self.key))
        except openai.OpenAIError as error:
            return self._given_up(one_line(error, self.key))
        self._failed_in_a_row = 0
        return response

    def _given_up(self, reason: str) -> Unanswered:
        """A request that nothing answered for as long as it may be tried."""
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= FAILURES_IN_A_ROW:
            self._end = self._end or self.engine.incomplete(self._failed_in_a_row, reason)
            self._stop.set()
        return Unanswered(reason, is_final=False)

    async def _answer(self, client: openai.AsyncOpenAI, limits: _Limits, one: Asked) -> Generated | Scored:
        """One request, tried again while that may help.

        Raises:
            BudgetError: it could cross the budget.
            ModelError: the endpoint refuses all requests, or cannot score.
            RefusedPromptError, UnclearRefusalError: it refuses this one.
            OpenAIError, ReplyError: trying again does not help, or was tried for as long, or as often, as the settings
                say.
        """
        n_paid, most_paid = 0, self.settings.paid_tries
        tries = AsyncRetrying(
            retry=retry_if_exception(
                lambda error: may_pass(error) and not (isinstance(error, ReplyError) and n_paid >= most_paid)
            ),
            stop=stop_before_delay(self.settings.retry_seconds),
            wait=_Wait(self.settings.max_wait),
            sleep=self._sleep,
            before_sleep=self._log_retry,
            reraise=True,
        )
        try:
            async for attempt in tries:
                with attempt:
                    # Waiting for the limits is no trying: it does not count against `retry_seconds`.
                    waits_since = time.monotonic()
                    await self._unless_stopped(limits.wait(replies.likely_usage(one.body, self.settings)))
                    attempt.retry_state.start_time += time.monotonic() - waits_since
                    n_paid += 1
                    try:
                        return await self._paid(client, one)
                    except (openai.OpenAIError, BudgetError):
                        n_paid -= 1
                        raise
        except openai.APIStatusError as error:
            if is_passing(error.status_code) and may_pass(error):
                raise
            self._refused(error, one)
        raise AssertionError("unreachable: tries end by a return or an error")

    def _refused(self, error: openai.APIStatusError, one: Asked) -> None:
        """Raise what a refused request means: for the job, for its prompt, or either."""
        whom = self.engine.refusal_concerns(error.status_code, _error_body(error), one)
        if whom == "job":
            raise self.engine.refused(error, self.key) from None
        if whom == "either":
            raise UnclearRefusalError from error
        raise RefusedPromptError(f"the endpoint refuses this prompt: {one_line(error, self.key)}") from None

    async def _paid(self, client: openai.AsyncOpenAI, one: Asked) -> Generated | Scored:
        """The response to one try: booked in place of its reservation, and stored with that.

        A reply that is of no use costs as much, and is booked too.
        """
        lapse = 2 * self.settings.timeout + 60
        reservation = self.ledger.reserve(replies.most_usage(one.body, self.settings), lapse)
        try:
            reply = await self._send(client, one.body)
            usage, estimated = self.engine.usage(reply, one.body)
            try:
                response = self.engine.read(one.record, reply, usage)
            except ReplyError as error:
                self.ledger.book(usage, reservation=reservation, estimated=estimated)
                raise self.engine.ending(error, one.record) or error from None
            stored = (one.key, one.record, reply_fields(response))
            self.ledger.book(usage, reservation=reservation, estimated=estimated, keep=[stored])
        finally:
            self.ledger.release(reservation)
        return response

    async def _send(self, client: openai.AsyncOpenAI, body: Body) -> Any:
        """The JSON value that a request is answered with; the text where it is no JSON, or broke off.

        Raises:
            OpenAIError: no reply; nothing is owed.
        """
        statuses: list[int] = []
        _statuses.set(statuses)
        known = {name: value for name, value in body.items() if name != "chat_template_kwargs"}
        further = {name: value for name, value in body.items() if name == "chat_template_kwargs"}
        try:
            async with asyncio.timeout(self.settings.timeout):
                raw = await client.chat.completions.with_raw_response.create(**known, extra_body=further or None)
        except (openai.APIConnectionError, TimeoutError) as error:
            if any(200 <= status < 300 for status in statuses):  # it was computed: the connection broke afterwards
                return f"broken off: {str(error) or 'time-out'}"
            if isinstance(error, TimeoutError):
                raise LateReplyError(f"timed out: no reply within {self.settings.timeout:g} s") from None
            raise
        except openai.InternalServerError as error:
            reply = _error_body(error)
            if isinstance(reply, dict) and ("usage" in reply or "choices" in reply):
                return reply  # computed, and billed, all the same
            raise
        try:
            return raw.http_response.json()
        except (ValueError, RecursionError):
            return raw.http_response.text

    async def _sleep(self, seconds: float) -> None:
        """A pause between tries, which the end of the call cuts short."""
        await self._unless_stopped(asyncio.sleep(seconds))

    async def _unless_stopped(self, waiting: Awaitable[None]) -> None:
        """Wait for something; raises `_StoppedError` when the call ends meanwhile."""
        waits, stops = asyncio.ensure_future(waiting), asyncio.ensure_future(self._stop.wait())
        await asyncio.wait({waits, stops}, return_when=asyncio.FIRST_COMPLETED)
        stops.cancel()
        if self._stop.is_set():
            waits.cancel()
            raise _StoppedError
        await waits

    def _log_retry(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        pause = state.next_action.sleep if state.next_action else 0.0
        reason = one_line(error, self.key, 200)
        log.info("trying again in %.1f s (try %d failed: %s)", pause, state.attempt_number, reason)


def _error_body(error: openai.APIStatusError) -> Any:
    """The whole body of an error, as JSON where it is that."""
    try:
        return error.response.json()
    except ValueError:
        return error.response.text


@contextlib.contextmanager
def deferred_interrupts(on_interrupt: Callable[[], object]) -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP call `on_interrupt` inside the block, and take their effect at its end.

    A second signal takes effect at once, unless it comes with the first: a terminal and Snakemake may both send one.
    Outside the main thread, which gets no signals, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    since = 0.0
    before = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    handled = {name: handler for name, handler in before.items() if handler not in (signal.SIG_IGN, None)}

    def restore() -> None:
        for name, handler in handled.items():
            signal.signal(name, handler)

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal since
        if received:
            if time.monotonic() - since > SAME_INTERRUPTION:
                restore()
                signal.raise_signal(number)
            return
        received.append(number)
        since = time.monotonic()
        log.warning(
            "interrupted: waiting for the replies under way, which are paid for (interrupt again in %.0f s to end now)",
            SAME_INTERRUPTION,
        )
        on_interrupt()

    for name in handled:
        signal.signal(name, handle)
    try:
        yield
    finally:
        restore()
    if received:
        signal.raise_signal(received[0])


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
