"""The OpenAI engine: any OpenAI-compatible endpoint, many requests at once, paid for once."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import openai
from mjd.config.llms import Llm
from mjd.errors import ModelError
from mjd.llm.base import (
    Engine,
    EngineInfo,
    EngineResources,
    Generated,
    GenerateRequest,
    Request,
    Scored,
    ScoreRequest,
    Unanswered,
    Usage,
    request_key,
)
from mjd.llm.openai import markers as openai_markers
from mjd.llm.openai import replies
from mjd.llm.openai.batch import holds_open_batch, run_batches
from mjd.llm.openai.errors import (
    ABOUT_THE_REQUEST,
    Concerns,
    MissingLogprobsError,
    NoLetterError,
    ReasonsFirstError,
    ReplyError,
    UnreadableReplyError,
    concerns,
    one_line,
)
from mjd.llm.openai.requests import FAILURES_IN_A_ROW, Asked, Body, ConcurrentRequests, Response, Unclear
from mjd.llm.openai.usage import ByteRate, read_usage
from mjd.llm.reasoning import reasons_first
from mjd.llm.specs import ENGINES
from mjd.llm.store.replies import record_kind, request_record

log = logging.getLogger(__name__)
for _chatty in ("httpx", "httpx2", "openai"):  # a line for each request otherwise
    logging.getLogger(_chatty).setLevel(logging.WARNING)

# The protocol, not the client library: a new version of that must not make replies be paid for again.
PROTOCOL = "chat-completions-1"
# Prompts, taken evenly from all, that are asked one at a time until one is answered, at most.
PROBES = 20
# Prompts among them whose refusal without a reason, where nothing was ever answered, is a refusal of all.
UNCLEAR_PROBES = 5


class OpenAiEngine(Engine):
    """Generates and scores at an OpenAI-compatible endpoint; scores are log-probabilities of the most likely tokens.

    A prompt that gets no usable reply is given as `Unanswered`. Every reply is booked, and every usable one stored in
    the same transaction, as it comes.

    Args:
        directory: not used, API models have none.
        settings: the LLM's configuration entry.
        identity: `api:` and the endpoint's name of the model.
        resources: holds the ledger that prices are booked in.

    Raises:
        ModelError: the job has no ledger.
    """

    score_kind = ENGINES["openai"].score_kind
    is_paid = ENGINES["openai"].is_paid

    def __init__(self, directory: str | Path, settings: Llm, identity: str, resources: EngineResources) -> None:
        if resources.ledger is None:
            raise ModelError(f"{identity} is behind an API, and this job books no spending.", "Report this as a bug.")
        self.settings = settings.openai
        self.letter_tokens = settings.letter_tokens
        self.template = settings.chat_template_kwargs
        if self.settings.batch:  # all at once: `batch_size` is what cuts them, and batches run side by side
            self.prompts_per_call = None
        self.ledger = resources.ledger
        self.count_tokens = resources.count_tokens or ByteRate()
        self.model = identity.removeprefix("api:")
        self.info = engine_info(settings, identity)
        self._lists_letters = False
        self._answered: set[str] = set()
        self._served: set[tuple[str, str]] = set()
        self._neutralised = 0

    @classmethod
    def info_of(cls, settings: Llm, identity: str) -> EngineInfo:
        return engine_info(settings, identity)

    # -- what an engine does -----------------------------------------------------------------------------------

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[tuple[int, Generated | Unanswered]]:
        """Answer every request; see `score` for errors."""
        bodies = [replies.generate_body(self.model, one, self.settings, self.template) for one in requests]
        return self._run(requests, bodies)  # type: ignore[return-value]

    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[tuple[int, Scored | Unanswered]]:
        """Score every request.

        The first request is sent alone, so that an endpoint without `logprobs`, or a model that begins with something
        else than a letter, costs one reply, not many.

        Raises:
            ModelError: the endpoint refuses all requests, gives no log-probabilities or lists no letter, or is down.
                Every reply that came is stored.
            BudgetError: the next request could cross the budget; the same holds.
        """
        bodies = [replies.score_body(self.model, one, self.settings, self.template) for one in requests]
        return self._run(requests, bodies)  # type: ignore[return-value]

    def report(self) -> dict[str, Any]:
        """Client library, models that answered, and what this job was billed."""
        served = sorted(f"{model} ({fingerprint})" if fingerprint else model for model, fingerprint in self._served)
        usd = round(self.ledger.usd, 6) if self.ledger.has_prices else None
        return {
            "client": f"openai {openai.__version__}",
            "served": served,
            "billed_requests": self.ledger.requests,
            "billed_usd": usd,
            "estimated_requests": self.ledger.estimated,
            "neutralised_prompts": self._neutralised,
        }

    def note(self) -> str:
        """Spending of this job so far."""
        if not self.ledger.has_prices:
            return ""
        estimated = f" ({self.ledger.estimated} replies estimated)" if self.ledger.estimated else ""
        return f"{self.ledger.usd:.4f} USD spent{estimated}"

    # -- requests ----------------------------------------------------------------------------------------------

    def _run(self, requests: Sequence[Request], bodies: Sequence[Body]) -> Iterator[tuple[int, Response]]:
        """Responses to requests; equal ones are sent once."""
        places: dict[str, list[int]] = {}
        asked: list[Asked] = []
        for i, (request, body) in enumerate(zip(requests, bodies, strict=True)):
            key = request_key(self.info, request)
            if key not in places:
                asked.append(Asked(key, request_record(self.info, request), body))
            places.setdefault(key, []).append(i)
        if not asked:
            return
        self._count_markers(asked)
        for place, response in self._respond(self._key(), asked):
            for i in places[asked[place].key]:
                yield i, response

    def _respond(self, key: str, asked: Sequence[Asked]) -> Iterator[tuple[int, Response]]:
        """Responses: first one prompt at a time, until one is answered, then all others at once.

        Raises:
            ModelError: nothing was answered, and what was said concerns all requests.
        """
        kind = record_kind(asked[0].record)
        unclear: list[tuple[int, Unclear]] = []
        outage: Unanswered | None = None
        ordinary = not self.settings.batch
        rest = list(range(len(asked)))
        is_probed = kind in self._answered or not (ordinary or kind == "Score")
        if not ordinary and holds_open_batch(self.ledger, self.settings.base_url, [one.key for one in asked]):
            is_probed = True
        probes = [] if is_probed else _spread(len(asked), PROBES)
        for i, found in self._found(key, asked, probes, rest, ordinary):
            if isinstance(found, Unclear):
                unclear.append((i, found))
                if len(unclear) >= UNCLEAR_PROBES and not self._ever_answered(kind):
                    raise self.refused(found.error, key)
                continue
            if not isinstance(found, Unanswered):
                self._answered.add(kind)
            elif not found.is_final:
                outage = found
            yield i, found
        if not self._ever_answered(kind):
            if len(unclear) > 1:
                raise self.refused(unclear[-1][1].error, key)
            if outage:
                raise self.incomplete(1, outage.reason)
        yield from ((i, Unanswered(f"the endpoint refuses this prompt: {found.reason}")) for i, found in unclear)

    def refusal_concerns(self, status: int, body: Any, asked: Asked) -> Concerns:
        """Whom a refusal concerns (`errors.concerns`).

        All requests of a kind have the same settings: what is wrong with one while others are answered is its prompt.
        """
        whom = concerns(status, body, asked.body)
        about_settings = whom == "job" and status in ABOUT_THE_REQUEST
        return "prompt" if about_settings and record_kind(asked.record) in self._answered else whom

    def _ever_answered(self, kind: str) -> bool:
        """True when the endpoint answered a request of this kind, now or in an earlier job."""
        return kind in self._answered or self.ledger.has_answered

    def _found(
        self, key: str, asked: Sequence[Asked], probes: Sequence[int], rest: list[int], ordinary: bool
    ) -> Iterator[tuple[int, Response | Unclear]]:
        """Responses to the probes, one at a time until one is answered, then to the rest, or a refusal in their place.

        Raises:
            ModelError: the probes' replies are paid for, and none of them is usable.
        """
        n_unusable, billed = 0, self.ledger.requests
        for i in probes:
            rest.remove(i)
            for _, found in ConcurrentRequests(self, key, [asked[i]]).results():
                yield i, found
            if isinstance(found, Generated | Scored) or (isinstance(found, Unanswered) and not found.is_final):
                break
            n_unusable += self.ledger.requests > billed
            billed = self.ledger.requests
            if n_unusable >= FAILURES_IN_A_ROW:
                if not self.ledger.has_replies(asked[i].record["engine"], record_kind(asked[i].record)):
                    raise self.unusable(n_unusable, found.reason)
                break  # these prompts are at fault: others were answered in an earlier job
        part = [asked[i] for i in rest]
        if part and ordinary:
            yield from ((rest[place], found) for place, found in ConcurrentRequests(self, key, part).results())
        elif part:
            yield from ((rest[place], found) for place, found in self._batches(key, part))

    def _batches(self, key: str, asked: Sequence[Asked]) -> Iterator[tuple[int, Response | Unclear]]:
        places = {one.key: place for place, one in enumerate(asked)}
        client = openai.OpenAI(
            api_key=key, base_url=self.settings.base_url, timeout=self.settings.timeout, max_retries=8
        )
        try:
            for name, found in run_batches(client, self, asked):
                yield places[name], found
        except openai.OpenAIError as error:
            raise self.refused(error, key) from None

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

    def usage(self, reply: Any, body: Mapping[str, Any]) -> tuple[Usage, bool]:
        """Tokens of a reply, and whether some are an estimate (`usage.read_usage`)."""
        found, estimated = read_usage(reply, body, self.count_tokens)
        if isinstance(self.count_tokens, ByteRate) and not estimated:
            self.count_tokens.learn(body, found)
        return found, estimated

    def read(self, record: Mapping[str, Any], reply: Any, usage: Usage) -> Generated | Scored:
        """The response in a reply to a stored request; raises `ReplyError` when there is none."""
        if not isinstance(reply, Mapping):
            raise UnreadableReplyError(f"a reply is no JSON object ({str(reply)[:100]!r})")
        self._served.add((str(reply.get("model") or self.model), str(reply.get("system_fingerprint") or "")))
        if record_kind(record) == "Generate":
            return replies.read_answer(reply, usage)
        scored = replies.read_scores(reply, record["letters"], self.letter_tokens == "all", usage)
        try:
            replies.check_lists_a_letter(reply, scored)
            if token := reasons_first([(scored.top_token, scored.mass)]):
                raise ReasonsFirstError(repr(token))
            self._lists_letters = True
        except NoLetterError:  # of a model that lists them as a rule, a reply without is a score, all bounds
            if not self._can_score(record):
                raise
        return scored

    def _can_score(self, record: Mapping[str, Any]) -> bool:
        """True when the endpoint has listed letters: in this job, or in an earlier one with the same settings."""
        self._lists_letters = self._lists_letters or self.ledger.has_replies(record["engine"], "Score")
        return self._lists_letters

    def _count_markers(self, asked: Iterable[Asked]) -> None:
        """Count and report prompts whose texts hold markers of chat templates (`mjd.llm.openai.markers`)."""
        found = [
            marker
            for one in asked
            if (marker := next(filter(None, (openai_markers.find(m["content"]) for m in one.record["messages"])), None))
        ]
        if found:
            self._neutralised += len(found)
            log.warning(
                "%d prompts hold chat-template markers, such as %r: they are sent with a space after the first "
                "character of each, so that they cannot end a turn",
                len(found),
                found[0],
            )

    # -- errors ------------------------------------------------------------------------------------------------

    def refused(self, error: Exception, key: str) -> ModelError:
        """The error of an endpoint that will not answer, without the key in it."""
        status = getattr(error, "status_code", None)
        asked = filter(None, ("base_url", "the model's name", self.settings.api_key_env))
        check = f"{', '.join(asked)} and the account"
        if status in ABOUT_THE_REQUEST:
            check = "the model's name, top_logprobs, max_tokens_key and chat_template_kwargs, which every request holds"
        return ModelError(
            f"{self.settings.base_url} refused a request for {self.model} ({one_line(error, key, 400)}).",
            f"Everything answered so far is kept. Check {check}, then run again.",
        )

    def ending(self, error: ReplyError, record: Mapping[str, Any]) -> ModelError | None:
        """The error that ends the job where a reply shows that the endpoint, or its model, cannot score.

        None for any other error; and where the endpoint has scored other prompts: then it is this one's.
        """
        if isinstance(error, ReasonsFirstError):
            return self.reasoning_first(str(error))
        if isinstance(error, NoLetterError):
            return self.without_letters(str(error))
        if isinstance(error, MissingLogprobsError) and not self._can_score(record):
            return self.without_logprobs()
        return None

    def without_logprobs(self) -> ModelError:
        """The error of an endpoint that cannot score."""
        return ModelError(
            f"{self.settings.base_url} answered for {self.model} without top_logprobs, though they were asked for: "
            "scores cannot be read from it.",
            "Use an endpoint that supports logprobs and top_logprobs (vLLM, llama.cpp, OpenAI), or this LLM as a "
            "generator only.",
        )

    def without_letters(self, top: str) -> ModelError:
        """The error of a model that begins its answers with something else than a letter."""
        return ModelError(
            f"{self.model} lists no option letter among the {self.settings.top_logprobs} most likely first tokens "
            f"of its answer: {top}. All of its MJDs would be uniform.",
            "If it thinks first, switch that off (chat_template_kwargs: {enable_thinking: false}, or the endpoint's "
            "own way); if it lists ids of tokens, let it list texts. Else take another endpoint or model as scorer.",
        )

    def reasoning_first(self, token: str) -> ModelError:
        """The error of a model that writes reasoning where a letter is asked for."""
        return ModelError(
            f"{self.model} reasons before it answers: its first token is {token}, and the option letters have next to "
            "no probability.",
            "Switch that off (chat_template_kwargs: {enable_thinking: false}, or the endpoint's own way), or take "
            "another scorer.",
        )

    def unusable(self, n: int, reason: str) -> ModelError:
        """The error of an endpoint none of whose first replies can be used."""
        return ModelError(
            f"None of the first {n} prompts got a usable reply from {self.settings.base_url}; the last: {reason}.",
            f"Their cost is booked. Mend the endpoint or the settings of {self.model}, then run again.",
        )

    def incomplete(self, n_failed: int, reason: str) -> ModelError:
        """The error of an endpoint that does not answer."""
        return ModelError(
            f"{n_failed} request(s) to {self.settings.base_url} failed for good; the last: {reason.rstrip('.')}.",
            "All other replies are kept: run again to ask for the missing ones alone.",
        )


def _spread(n: int, most: int) -> list[int]:
    """At most `most` of the places 0 ... n - 1, evenly spaced: neighbours are prompts of one item."""
    return sorted({round(k * (n - 1) / max(min(n, most) - 1, 1)) for k in range(min(n, most))})


def engine_info(settings: Llm, identity: str) -> EngineInfo:
    """What is part of every request key of an API model; known without a key or a connection."""
    own = settings.openai
    # `merge_variants` is the older name of `letter_tokens`: keys of replies that were paid for keep it.
    changing: dict[str, Any] = {"base_url": own.base_url, "top_logprobs": own.top_logprobs}
    changing |= {"merge_variants": settings.letter_tokens == "all"}
    if settings.chat_template_kwargs:
        changing["chat_template_kwargs"] = json.dumps(settings.chat_template_kwargs, sort_keys=True)
    return EngineInfo("openai", PROTOCOL, identity, tuple((name, str(value)) for name, value in changing.items()))
