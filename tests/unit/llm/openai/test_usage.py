"""Tokens of replies: as they count them, and an estimate that is marked where they do not."""

from __future__ import annotations

from typing import Any

import pytest

from mjd.llm.base import Usage
from mjd.llm.openai.usage import read_usage
from mjd.llm.usage import bytes_count

# 10 characters, and 8 for the template: 18 tokens where a character is one.
BODY = {"messages": [{"role": "user", "content": "Which one?"}]}


def reply(usage: Any, content: Any = "Because.", **message: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"content": content, **message}}], "usage": usage}


def details(cached: Any = None, reasoning: Any = None) -> dict[str, Any]:
    return {"prompt_tokens_details": {"cached_tokens": cached}, **_written(reasoning)}


def _written(reasoning: Any) -> dict[str, Any]:
    return {"completion_tokens_details": {"reasoning_tokens": reasoning}}


@pytest.mark.parametrize(
    ("usage", "expected", "estimated"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 2}, Usage(9, 2), False),
        ({"prompt_tokens": "9", "completion_tokens": 2.0}, Usage(9, 2), False),
        ({"input_tokens": 9, "output_tokens": 2}, Usage(9, 2), False),
        ({"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 1e25}, Usage(9, 2), False),
        ({"prompt_tokens": 10**400, "completion_tokens": 2}, Usage(18, 2), True),
        ({"prompt_tokens": 1e30, "completion_tokens": 2}, Usage(18, 2), True),
        ({"prompt_tokens": 9, "completion_tokens": 2, "cost": 0.3}, Usage(9, 2), False),
        ({"prompt_tokens": 9, "completion_tokens": 2, **details(cached=40)}, Usage(9, 2, 9), False),
        ({"prompt_tokens": 9, "completion_tokens": 2, **details(cached=-4)}, Usage(9, 2, 0), False),
        ({"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": None}, Usage(9, 2), False),
        ({"prompt_tokens": 9, "completion_tokens": 30, **details(reasoning=28)}, Usage(9, 30), False),
        ({"prompt_tokens": 9, "completion_tokens": 2, **details(reasoning=28)}, Usage(9, 30), False),
        ({"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 39}, Usage(9, 30), False),
        ({"prompt_tokens": 9, "total_tokens": 11}, Usage(9, 2), False),
        (None, Usage(18, 8), True),
        ({}, Usage(18, 8), True),
        ("none", Usage(18, 8), True),
        ({"prompt_tokens": None, "completion_tokens": None}, Usage(18, 8), True),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, Usage(18, 8), True),
        ({"prompt_tokens": -5, "completion_tokens": 2}, Usage(18, 2), True),
        ({"prompt_tokens": "many", "completion_tokens": 2}, Usage(18, 2), True),
        ({"prompt_tokens": float("nan"), "completion_tokens": 2}, Usage(18, 2), True),
        ({"prompt_tokens": 9}, Usage(9, 8), True),
        ({"prompt_tokens": 9, "completion_tokens": -1}, Usage(9, 8), True),
    ],
)
def test_usage_is_read_or_estimated(usage: Any, expected: Usage, estimated: bool) -> None:
    assert read_usage(reply(usage), BODY, len) == (expected, estimated)


def test_reasoning_counts_as_written_in_an_estimate() -> None:
    usage, _ = read_usage(reply(None, "A", reasoning_content="Let me think."), BODY, len)
    assert usage.completion_tokens == 14


@pytest.mark.parametrize("broken", ["cut off {", None, [], {"choices": None}, {"choices": [None]}])
def test_a_reply_of_any_form_has_an_estimate(broken: Any) -> None:
    usage, estimated = read_usage(broken, BODY, len)
    assert (usage.prompt_tokens, estimated) == (18, True)


@pytest.mark.parametrize(
    "text", ["The bridge will not be repaired this winter.", "桥今年冬天不会修好", "3.14159 != x[0]"]
)
def test_without_a_tokenizer_more_tokens_are_estimated_than_there_are(text: str) -> None:
    assert len(text) / 4 < bytes_count(text) <= len(text.encode())
