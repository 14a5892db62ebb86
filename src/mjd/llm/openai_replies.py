"""Requests and replies of the chat completions API: bodies, label scores out of `top_logprobs`, usage."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from mjd.config import OpenAi
from mjd.llm.base import Generate, Generated, Message, Score, Scored, Usage

ENDPOINT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
# Tokens that a chat template adds around a message, at most.
_TEMPLATE_TOKENS = 32


class ReplyError(Exception):
    """A reply that is of no use."""


class WithheldReplyError(ReplyError):
    """A reply that the endpoint ended for a reason of its own, such as a content filter: it would do so again."""


class UnreadableReplyError(ReplyError):
    """A reply that is not a chat completion: cut off, or of another form. Trying again may help."""


class MissingLogprobsError(UnreadableReplyError):
    """A reply without `top_logprobs`, though they were asked for."""


def score_body(model: str, request: Score, settings: OpenAi) -> dict[str, Any]:
    """JSON body that asks for the most likely first tokens."""
    asked = {"logprobs": True, "top_logprobs": settings.top_logprobs, "temperature": 0, settings.max_tokens_key: 1}
    return {"model": model, "messages": _chat(request.messages), **asked}


def generate_body(model: str, request: Generate, settings: OpenAi) -> dict[str, Any]:
    """JSON body that asks for an answer."""
    asked: dict[str, Any] = {"temperature": request.temperature, settings.max_tokens_key: request.max_new_tokens}
    if request.temperature:
        asked |= {"top_p": request.top_p, "seed": request.random_seed()}
    return {"model": model, "messages": _chat(request.messages), **asked}


def _chat(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def most_usage(body: Mapping[str, Any], settings: OpenAi) -> Usage:
    """More tokens than the request can use: a token is at least one byte of text."""
    prompt = sum(len(message["content"].encode()) + _TEMPLATE_TOKENS for message in body["messages"])
    return Usage(prompt + _TEMPLATE_TOKENS, int(body[settings.max_tokens_key]))


def likely_usage(body: Mapping[str, Any], settings: OpenAi) -> int:
    """Tokens in and out that a request counts as against a limit per minute: about four characters each."""
    text = sum(len(message["content"]) for message in body["messages"])
    return text // 4 + _TEMPLATE_TOKENS + int(body[settings.max_tokens_key])


def read_usage(reply: Mapping[str, Any]) -> Usage:
    """Tokens of a reply; raises `UnreadableReplyError` when it does not say."""
    try:
        usage = reply["usage"]
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        return Usage(int(usage["prompt_tokens"]), int(usage.get("completion_tokens") or 0), int(cached))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnreadableReplyError(f"a reply has no usage ({error!r})") from None


def read_answer(reply: Mapping[str, Any]) -> Generated:
    """The answer in a reply; raises `UnreadableReplyError` or `WithheldReplyError`."""
    try:
        choice = reply["choices"][0]
        text, reason = choice["message"]["content"], choice["finish_reason"]
    except (KeyError, IndexError, TypeError) as error:
        raise UnreadableReplyError(f"a reply has no answer ({error!r})") from None
    _check_not_withheld(reason)
    return Generated(str(text or ""), reason, read_usage(reply))


def _check_not_withheld(reason: Any) -> None:
    if reason not in ("stop", "length"):
        raise WithheldReplyError(
            f"the endpoint ended an answer for the reason {reason!r}; leave the item out, or take another LLM"
        )


def read_scores(reply: Mapping[str, Any], letters: Sequence[str], merge_variants: bool) -> Scored:
    """Log-probabilities of the letters among the most likely first tokens.

    A letter that is not among them scores None. Each of its spellings is at most as likely as the least likely token of
    `top_logprobs`: together they are the bound. `mass` counts the letters listed.

    Raises:
        MissingLogprobsError: the reply has no `top_logprobs`.
        WithheldReplyError: nor will it have any.
        UnreadableReplyError: it is no chat completion at all.
    """
    most_likely, listed = _first_tokens(reply)
    scores = [_letter_score(spellings(letter, merge_variants), listed) for letter in letters]
    mass = sum(math.exp(score) for score in scores if score is not None)
    lowest = min(logprob for _, logprob in most_likely)
    bound = lowest + math.log(len(spellings(letters[0], merge_variants))) if None in scores else None
    return Scored(tuple(scores), "logprob", min(mass, 1.0), read_usage(reply), bound)


def spellings(letter: str, merge_variants: bool) -> tuple[str, ...]:
    """Tokens that count as a letter."""
    return (letter, f" {letter}") if merge_variants else (letter,)


def _first_tokens(reply: Mapping[str, Any]) -> tuple[list[tuple[str, float]], list[tuple[str, float]]]:
    """(token, log-probability) of the most likely first tokens; the same with the generated one, likely or not."""
    try:
        choice = reply["choices"][0]
        logprobs = choice.get("logprobs")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise UnreadableReplyError(f"a reply has no choices ({error!r})") from None
    try:
        first = logprobs["content"][0]
        most_likely = [(str(top["token"]), float(top["logprob"])) for top in first["top_logprobs"]]
        chosen = (str(first["token"]), float(first["logprob"]))
    except (KeyError, IndexError, TypeError, ValueError):
        most_likely = []
    if not most_likely:
        _check_not_withheld(choice.get("finish_reason"))
        raise MissingLogprobsError("a reply has no top_logprobs")
    is_listed = chosen[0] in {token for token, _ in most_likely}
    return most_likely, most_likely if is_listed else [*most_likely, chosen]


def _letter_score(spelt_as: Sequence[str], listed: Sequence[tuple[str, float]]) -> float | None:
    """Log of the summed probability of the tokens that spell a letter; None when none is listed."""
    spelt = [logprob for token, logprob in listed if token in spelt_as]
    if not spelt:
        return None
    highest = max(spelt)
    return highest + math.log(sum(math.exp(logprob - highest) for logprob in spelt))
