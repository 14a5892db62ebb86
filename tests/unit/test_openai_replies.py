"""Reading chat completions: label scores out of top_logprobs, bounds, usage, and replies that are none."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mjd.config import OpenAi
from mjd.llm.base import Generate, Message, Score, Usage
from mjd.llm.openai_replies import (
    MissingLogprobsError,
    UnreadableReplyError,
    WithheldReplyError,
    generate_body,
    likely_usage,
    most_usage,
    read_answer,
    read_scores,
    score_body,
)
from mjd.llm.openai_requests import retry_after

ASKED = (Message("user", "Which one? Ω"),)
USAGE = {"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 4}}


def reply(top: dict[str, float], chosen: str | None = None, usage: Any = USAGE) -> dict[str, Any]:
    """A chat completion whose first token has these probabilities."""
    listed = [{"token": token, "logprob": math.log(p), "bytes": None} for token, p in top.items()]
    first = {"token": chosen or next(iter(top)), "logprob": math.log(0.01 if chosen else max(top.values()))}
    choice = {
        "message": {"role": "assistant", "content": "A"},
        "finish_reason": "length",
        "logprobs": {"content": [{**first, "top_logprobs": listed}]},
    }
    return {"choices": [choice], "usage": usage}


def test_spellings_of_a_letter_are_added_up() -> None:
    found = read_scores(reply({"A": 0.5, " A": 0.2, "B": 0.1}), ("A", "B"), merge_variants=True)
    assert [math.exp(score or 0) for score in found.scores] == pytest.approx([0.7, 0.1])
    assert found.mass == pytest.approx(0.8)
    assert (found.kind, found.bound, found.usage) == ("logprob", None, Usage(9, 1, 4))


def test_without_merging_only_the_letter_itself_counts() -> None:
    found = read_scores(reply({"A": 0.5, " A": 0.2, "B": 0.1}), ("A", "B"), merge_variants=False)
    assert [math.exp(score or 0) for score in found.scores] == pytest.approx([0.5, 0.1])


def test_words_that_begin_with_a_letter_do_not_count() -> None:
    found = read_scores(reply({"A": 0.5, "Apple": 0.2, "a": 0.1, "B": 0.05}), ("A", "B"), merge_variants=True)
    assert math.exp(found.scores[0] or 0) == pytest.approx(0.5)


@pytest.mark.parametrize(("merge_variants", "bound"), [(False, 0.05), (True, 0.1)])
def test_a_letter_that_is_not_listed_is_null_with_its_spellings_bound(merge_variants: bool, bound: float) -> None:
    """Each spelling may be as likely as the least likely token."""
    found = read_scores(reply({"A": 0.5, "The": 0.2, "x": 0.05}), ("A", "B"), merge_variants)
    assert found.scores[1] is None
    assert math.exp(found.bound or 0) == pytest.approx(bound)


def test_the_chosen_token_counts_though_it_is_not_listed() -> None:
    found = read_scores(reply({"The": 0.6, "A": 0.2}, chosen="B"), ("A", "B"), merge_variants=True)
    assert math.exp(found.scores[1] or 0) == pytest.approx(0.01)


def test_a_chosen_token_that_is_not_listed_bounds_nothing() -> None:
    found = read_scores(reply({"The": 0.6, "A": 0.2}, chosen="zzz"), ("A", "B"), merge_variants=False)
    assert math.exp(found.bound or 0) == pytest.approx(0.2)


@pytest.mark.parametrize("reason", ["content_filter", "tool_calls"])
def test_withheld_replies_are_told_apart(reason: str) -> None:
    withheld = reply({"A": 0.5})
    withheld["choices"][0].update(finish_reason=reason, message={"content": None}, logprobs=None)
    with pytest.raises(WithheldReplyError, match=reason):
        read_answer(withheld)
    with pytest.raises(WithheldReplyError, match=reason):
        read_scores(withheld, ("A",), merge_variants=True)


@pytest.mark.parametrize(
    "logprobs", [None, {"content": None}, {"content": []}, {"content": [{"token": "A", "logprob": 0.0}]}]
)
def test_missing_logprobs_are_told_apart(logprobs: Any) -> None:
    broken = reply({"A": 0.5})
    broken["choices"][0]["logprobs"] = logprobs
    with pytest.raises(MissingLogprobsError):
        read_scores(broken, ("A",), merge_variants=True)


@pytest.mark.parametrize("broken", [{}, {"choices": []}, {"choices": None}, {"choices": [{}]}])
def test_other_replies_are_unreadable(broken: dict[str, Any]) -> None:
    with pytest.raises(UnreadableReplyError):
        read_answer(broken)


def test_bodies_ask_for_what_the_request_says() -> None:
    settings = OpenAi(top_logprobs=5, max_tokens_key="max_completion_tokens")
    scoring = score_body("m", Score(ASKED, ("A", "B")), settings)
    assert (scoring["logprobs"], scoring["top_logprobs"], scoring["max_completion_tokens"]) == (True, 5, 1)
    greedy = generate_body("m", Generate(ASKED, 8), settings)
    assert (greedy["temperature"], "seed" in greedy) == (0, False)
    sampled = [generate_body("m", Generate(ASKED, 8, 0.7, 0.9, 1, i), settings) for i in (0, 1)]
    assert sampled[0]["seed"] != sampled[1]["seed"]
    assert all(0 <= body["seed"] < 2**31 for body in sampled)


def test_no_request_uses_more_tokens_than_are_set_aside() -> None:
    body = score_body("m", Score(ASKED, ("A", "B")), OpenAi())
    assert most_usage(body, OpenAi()).prompt_tokens >= len(ASKED[0].content.encode())
    assert likely_usage(body, OpenAi()) <= sum(vars(most_usage(body, OpenAi())).values())


@pytest.mark.parametrize(("value", "seconds"), [("3", 3.0), ("0.5", 0.5), ("soon", None), (None, None)])
def test_retry_after_in_seconds(value: str | None, seconds: float | None) -> None:
    assert retry_after({} if value is None else {"retry-after": value}) == seconds


def test_retry_after_as_a_date() -> None:
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert (retry_after({"retry-after": "Wed, 21 Oct 2099 07:28:00 GMT"}) or 0) > 1e6
