"""What can go wrong with one request to a chat completions API, and whom it concerns: the prompt, or the whole job."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import openai

Concerns = Literal["prompt", "job", "either"]


class ReplyError(Exception):
    """A reply that is paid for and cannot be used; `may_pass` is True where asking again may give another."""

    may_pass = False


class WithheldReplyError(ReplyError):
    """A reply that the endpoint ended for a reason of its own, such as a content filter: it would do so again."""


class UnreadableReplyError(ReplyError):
    """A reply that is no chat completion, was broken off, or holds nothing to read: cut off, empty, NaN."""

    may_pass = True


class MissingLogprobsError(UnreadableReplyError):
    """A reply without `top_logprobs`, though they were asked for."""


class NoLetterError(ReplyError):
    """A reply whose most likely first tokens hold no option letter at all; its text names them."""


class ReasonsFirstError(NoLetterError):
    """A reply whose first token begins reasoning, and whose option letters have next to no probability."""


class LateReplyError(openai.OpenAIError):
    """A reply that did not come in time: the client's own time limit is one for each part of it."""


# Error codes, types and phrases of OpenAI, Azure, Alibaba, Mistral, vLLM, llama.cpp, OpenRouter and Together for a
# prompt that they will not answer: content filters, and prompts that are too long.
_PROMPT = re.compile(
    r"content[_ ]?(filter|polic|management|moderation|block|safety)|responsible_?ai|data_?inspection|moderation|flagged"
    r"|prompt_(blocked|filter)|invalid_prompt|usage polic|safety (system|filter|setting|polic)"
    r"|prohibited_content"
    r"|inappropriate content|sensitive (content|word)|content exists risk|guardrail|\bSAFETY\b"
    r"|context_?length|context[_ ]?(window|size)|maximum context|max_model_len|string_above_max"
    r"|(prompt|input) (is )?too|too many (input )?tokens|(reduce|shorten) (the length|your prompt|the prompt)"
    r"|exceed_context|token count .{0,20}exceeds",
    re.IGNORECASE,
)
# The same for requests that no prompt could mend: unknown models, parameters and accounts.
_JOB = re.compile(
    r"(unsupported|unknown|unrecogni[sz]ed|invalid)[_ ](parameter|value|field|model|api[_ ]?key)"
    r"|(unsupported|unknown|unrecogni[sz]ed)[_ ](request[_ ])?argument"  # "invalid argument" Gemini says of anything
    r"|model_not_found|(model|deployment).{0,80}(does not|doesn't) exist|extra_forbidden|extra (fields|inputs)"
    r"|insufficient|quota|billing|(is|are) not (supported|permitted|allowed)|does not support|api[_ ]?key",
    re.IGNORECASE,
)
# Codes and types of a 429 that no waiting ends.
_USED_UP = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
# Statuses of requests that may be wrong in their prompt as well as in their settings.
ABOUT_THE_REQUEST = (400, 413, 422)


def concerns(status: int, body: Any, sent: Mapping[str, Any]) -> Concerns:
    """Whom the refusal of a request concerns.

    `prompt`: a content filter, or a prompt that is too long: others may be answered. `job`: the key, the model or a
    parameter: no other prompt would fare better. `either`: neither is said; it is the prompt where others are answered.

    Args:
        status: HTTP status.
        body: the error as the endpoint wrote it, plain values.
        sent: the request's JSON body, whose keys are the names of its parameters.
    """
    said = " ".join(_texts(body))
    if status in (403, 451, *ABOUT_THE_REQUEST) and _PROMPT.search(said):
        return "prompt"
    if status == 451:
        return "prompt"
    if status not in ABOUT_THE_REQUEST:
        return "job"
    named = _parameter(body, sent)
    if named not in (None, "messages") or _JOB.search(said):
        return "job"
    return "prompt" if status == 413 else "either"


def may_pass(error: BaseException) -> bool:
    """True when trying again may help: no answer, a broken one, 408, 409, 429 (but not a used-up account), 5xx."""
    if isinstance(error, ReplyError):
        return error.may_pass
    if isinstance(error, openai.APIStatusError):
        used_up = _USED_UP.intersection(map(str, (error.code, error.type)))
        return not used_up and is_passing(error.status_code)
    return isinstance(error, openai.APIConnectionError | LateReplyError)


def is_passing(status: int) -> bool:
    """True for an HTTP status that another try may not meet."""
    return status in (408, 409, 429) or status >= 500


def one_line(error: object, key: str, length: int = 300) -> str:
    """An error's text on one line, without the API key; of an endpoint's error whatever words its body has."""
    text = " ".join(str(error).split())
    if isinstance(error, openai.APIStatusError) and " - " not in text:  # the client shows one of many dialects
        text = " - ".join(filter(None, (text, " ".join(" ".join(_texts(error.body)).split()))))
    return (text.replace(key, "***") if key else text)[:length]


def _texts(body: Any) -> Iterator[str]:
    """Every text in an error's body that says what is wrong."""
    if isinstance(body, Mapping):
        for name, value in body.items():
            if name not in ("param", "loc", "status", "input", "ctx"):  # `input` repeats the request
                yield from _texts(value)
    elif isinstance(body, list | tuple):
        for value in body:
            yield from _texts(value)
    elif isinstance(body, str):
        yield body


def _parameter(body: Any, sent: Mapping[str, Any]) -> str | None:
    """The parameter of the request that an error names (`param`, or `loc` of a validation error); None if none."""
    text = json.dumps(body, default=str)
    named = re.findall(r'"param": "([^"]+)"', text) + re.findall(r'"loc": \["body", "([^"]+)"', text)
    found = [re.split(r"[.\[]", name)[0] for name in named]
    return next((name for name in found if name in sent), None)
