"""Tokens of a reply of a chat completions API: as it counts them, estimated where it does not."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from mjd.llm.base import Usage
from mjd.llm.usage import bytes_count

# Tokens that a chat template adds around a message, as a rule.
_TEMPLATE_TOKENS = 8
# A larger number of tokens is none: no context is as long.
_MOST_TOKENS = 10**9

CountTokens = Callable[[str], int]


class ByteRate:
    """Counts tokens by the bytes of a text, where no tokenizer does: at the rate of the replies that say theirs.

    Before one came, as `bytes_count`.
    """

    def __init__(self) -> None:
        self._tokens, self._bytes = 0, 0

    def __call__(self, text: str) -> int:
        if not self._bytes:
            return bytes_count(text)
        return math.ceil(len(text.encode()) * self._tokens / self._bytes)

    def learn(self, body: Mapping[str, Any], usage: Usage) -> None:
        """Take the tokens that a reply says its request had into account."""
        texts = [str(message["content"]) for message in body["messages"]]
        self._tokens += max(usage.prompt_tokens - len(texts) * _TEMPLATE_TOKENS, 1)
        self._bytes += sum(len(text.encode()) for text in texts)


def read_usage(reply: Any, body: Mapping[str, Any], count: CountTokens) -> tuple[Usage, bool]:
    """Tokens of a reply, and whether some of them are an estimate.

    A number that is missing, no number, negative, or 0 where there is text, is estimated from the text. Tokens of
    reasoning that `completion_tokens` leaves out count as written (`total_tokens` and the details show them).

    Args:
        reply: the reply; anything that is no mapping has no usage.
        body: the request's JSON body.
        count: tokens of a text.
    """
    given = _mapping(_mapping(reply).get("usage"))
    prompt = _first_count(given, "prompt_tokens", "input_tokens")
    written = _first_count(given, "completion_tokens", "output_tokens")
    said = _written(reply)
    if estimated := not prompt:
        prompt = sum(count(str(m["content"])) + _TEMPLATE_TOKENS for m in body["messages"])
    total = 0 if estimated else _count(given.get("total_tokens")) or 0
    if not written and total <= prompt:
        estimated = estimated or bool(said)
        written = max(count(said), 1) if said else 0
    reasoning = _count(_mapping(given.get("completion_tokens_details")).get("reasoning_tokens")) or 0
    written = written or 0
    written = max(written + (reasoning if reasoning > written else 0), total - prompt)
    cached = 0 if estimated else _count(_mapping(given.get("prompt_tokens_details")).get("cached_tokens")) or 0
    return Usage(prompt, written, min(cached, prompt)), estimated


def _written(reply: Any) -> str:
    """All text that a reply's choices hold: answers, refusals, reasoning."""
    choices = _mapping(reply).get("choices")
    found: list[str] = []
    for choice in choices if isinstance(choices, list) else []:
        message = _mapping(_mapping(choice).get("message"))
        for name in ("content", "refusal", "reasoning_content", "reasoning"):
            value = message.get(name)
            found.append(value if isinstance(value, str) else str(value) if value else "")
    return "".join(found)


def _first_count(values: Mapping[str, Any], *names: str) -> int | None:
    return next((found for name in names if (found := _count(values.get(name))) is not None), None)


def _count(value: Any) -> int | None:
    """A number of tokens; None for anything that is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return int(number) if 0 <= number <= _MOST_TOKENS else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
