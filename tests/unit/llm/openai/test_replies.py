"""Reading chat completions: label scores out of top_logprobs, bounds, usage, and replies that are none."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mjd.config.llms import OpenAi
from mjd.llm.base import Generate, Message, Score, Usage
from mjd.llm.openai import markers as openai_markers
from mjd.llm.openai.errors import (
    MissingLogprobsError,
    NoLetterError,
    ReplyError,
    UnreadableReplyError,
    WithheldReplyError,
)
from mjd.llm.openai.replies import (
    check_lists_a_letter,
    generate_body,
    likely_usage,
    most_usage,
    read_answer,
    read_scores,
    score_body,
)
from mjd.llm.openai.requests import retry_after

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


def test_half_of_a_character_in_an_answer_is_replaced() -> None:
    """An emoji that `max_tokens` cut in two comes as a lone surrogate, which Parquet and tokenizers refuse."""
    answer = {"choices": [{"message": {"content": "- Rain \ud83c\udf27 falls \ud83d"}, "finish_reason": "stop"}]}
    assert read_answer(answer, Usage(1)).text == "- Rain \U0001f327 falls \ufffd"


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


# -- how answers end ---------------------------------------------------------------------------------------------------


def answered(content: Any, finish_reason: Any = "stop", **message: Any) -> dict[str, Any]:
    choice = {"message": {"role": "assistant", "content": content, **message}, "finish_reason": finish_reason}
    return {"choices": [choice], "usage": USAGE}


@pytest.mark.parametrize(
    ("reason", "ended"),
    [
        *(
            (reason, "stop")
            for reason in ("stop", "eos", "EOS", "eos_token", "end_turn", "stop_sequence", "STOP", None)
        ),
        *((reason, "stop") for reason in ("", "tool_calls", "function_call", "COMPLETE", "FinishReason.STOP", "x", 1)),
        *((reason, "length") for reason in ("length", "max_tokens", "MAX_TOKENS", "max_output_tokens", "model_length")),
        *((reason, "length") for reason in ("FinishReason.MAX_TOKENS", "max_new_tokens", "max-tokens")),
        *((reason, "length") for reason in ("MaxTokens", "maxOutputTokens", "limit", "truncated")),
        ("model_context_window_exceeded", "length"),
    ],
)
def test_a_finish_reason_with_content_is_an_end_or_a_cut(reason: Any, ended: str) -> None:
    found = read_answer(answered("Because.", reason))
    assert (found.text, found.finish_reason) == ("Because.", ended)


def test_a_missing_finish_reason_is_an_end() -> None:
    whole = answered("Because.")
    del whole["choices"][0]["finish_reason"]
    assert read_answer(whole).finish_reason == "stop"


@pytest.mark.parametrize(
    "reason", ["content_filter", "SAFETY", "refusal", "RECITATION", "PROHIBITED_CONTENT", "guardrail_intervened"]
)
def test_a_withheld_answer_is_unusable_though_it_has_text(reason: str) -> None:
    with pytest.raises(WithheldReplyError, match=reason):
        read_answer(answered("I", reason))


@pytest.mark.parametrize("reason", ["error", "abort", "cancelled", "insufficient_system_resource", "ERROR_TOXIC"])
def test_an_answer_that_was_broken_off_is_unusable(reason: str) -> None:
    with pytest.raises(ReplyError, match=reason):
        read_answer(answered("Because", reason))


@pytest.mark.parametrize(
    "unusable",
    [
        answered(""),
        answered(" \n"),
        answered(None),
        answered(None, refusal="No."),
        answered(None, reasoning_content="Let me think."),
        answered("", reasoning="Let me think."),
        answered("<think>Let me think"),
        answered("<think>Let me think</think>\n"),
        answered("Let me think</think>"),
        answered({"text": "x"}),
        answered([{"type": "image_url", "image_url": "x"}]),
        answered([{"type": "thinking", "thinking": "x"}]),
        {"choices": answered("a")["choices"] * 2, "usage": USAGE},
        {"choices": [], "usage": USAGE, "error": {"message": "overloaded"}},
    ],
)
def test_a_reply_without_an_answer_is_unusable(unusable: dict[str, Any]) -> None:
    with pytest.raises(ReplyError):
        read_answer(unusable)


def test_parts_of_text_are_joined_and_reasoning_parts_are_not_read() -> None:
    parts = [
        {"type": "thinking", "thinking": "no"},
        {"type": "text", "text": "- one\n"},
        {"type": "text", "text": "- two"},
    ]
    assert read_answer(answered(parts)).text == "- one\n- two"


def test_a_reasoning_block_before_the_answer_is_stored_as_it_came() -> None:
    text = "<think>\n- not this\n</think>\n- this"
    assert read_answer(answered(text, reasoning_content="- nor this")).text == text


# -- numbers that are no log-probabilities -----------------------------------------------------------------------------


def listing(*top: tuple[Any, Any], chosen: tuple[str, Any] = ("A", -0.5), **entry: Any) -> dict[str, Any]:
    """A chat completion that lists these tokens with these log-probabilities, whatever they are."""
    tops = [{"token": token, "logprob": value, **entry} for token, value in top]
    first = {"token": chosen[0], "logprob": chosen[1], "top_logprobs": tops}
    choice = {"message": {"content": "A"}, "finish_reason": "length", "logprobs": {"content": [first]}}
    return {"choices": [choice], "usage": USAGE}


@pytest.mark.parametrize("sentinel", [-9999, -9999.0, -1000, -100, -1e30, -math.inf, math.nan, None, "NaN", "-inf"])
def test_a_sentinel_is_not_listed_and_stays_out_of_the_bound(sentinel: Any) -> None:
    found = read_scores(listing(("A", -0.5), ("x", -3.0), ("B", sentinel)), ("A", "B"), merge_variants=False)
    assert found.scores == (-0.5, None)
    assert found.bound == -3.0
    assert found.mass == pytest.approx(math.exp(-0.5))


def test_a_sentinel_of_the_chosen_token_is_not_listed() -> None:
    found = read_scores(listing(("A", -0.5), ("x", -3.0), chosen=("B", -9999.0)), ("A", "B"), merge_variants=False)
    assert (found.scores[1], found.bound) == (None, -3.0)


def test_log_probabilities_that_models_mean_are_kept() -> None:
    found = read_scores(listing(("A", 0.0), ("B", -87.0)), ("A", "B"), merge_variants=True)
    assert found.scores == (0.0, -87.0)


def test_rounding_above_zero_is_zero() -> None:
    assert read_scores(listing(("A", 1e-4), ("B", -9.0)), ("A", "B"), merge_variants=True).scores == (0.0, -9.0)


@pytest.mark.parametrize(
    "unusable",
    [
        listing(("A", -math.inf), ("B", -math.inf)),
        listing(("A", math.nan), ("B", None)),
        listing(("A", -9999.0), ("B", -9999.0)),
        listing(("A", math.inf), ("B", -1.0)),
        listing(("A", 0.97), ("B", 0.02)),  # probabilities
        listing(("A", 1.0), ("B", 0.0)),
        listing(("A", -0.01), ("B", -0.02)),  # more than 1 together
        listing(("A", 12.5), ("B", 9.0)),  # logits
    ],
)
def test_numbers_that_are_no_log_probabilities_make_a_reply_unusable(unusable: dict[str, Any]) -> None:
    with pytest.raises(UnreadableReplyError):
        read_scores(unusable, ("A", "B"), merge_variants=True)


def test_the_bound_of_a_list_of_one_token_is_what_it_leaves_over() -> None:
    """And not that token's own probability, which would put an unlisted letter beside it."""
    found = read_scores(listing(("A", math.log(0.9)), ("B", -9999.0)), ("A", "B"), merge_variants=True)
    assert math.exp(found.bound or 0) == pytest.approx(0.1)


def test_a_list_in_any_order_gives_the_same() -> None:
    tops = [("x", -3.0), ("A", -0.5), ("y", -5.0), ("B", -2.0)]
    first, second = (read_scores(listing(*order), ("A", "B", "C"), False) for order in (tops, tops[::-1]))
    assert first == second
    assert (first.bound, first.top_token) == (-5.0, "A")


# -- spellings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spaced", [" A", "▁A", "ĠA"])
def test_every_spelling_of_a_letter_is_added_up_once(spaced: str) -> None:
    """Servers write tokens as texts, or as their vocabulary has them."""
    tops = ("A", math.log(0.5)), (spaced, math.log(0.2)), (spaced, math.log(0.2)), ("B", math.log(0.1))
    found = read_scores(listing(*tops), ("A", "B"), merge_variants=True)
    assert math.exp(found.scores[0] or 0) == pytest.approx(0.7)
    assert math.exp(read_scores(listing(*tops), ("A", "B"), False).scores[0] or 0) == pytest.approx(0.5)


def test_two_tokens_of_one_text_are_two_tokens() -> None:
    """SentencePiece's bare and marked letter, both decoded as the letter."""
    tops = ("A", math.log(0.5)), ("A", math.log(0.2)), ("B", math.log(0.1))
    assert math.exp(read_scores(listing(*tops), ("A", "B"), True).scores[0] or 0) == pytest.approx(0.7)
    assert math.exp(read_scores(listing(*tops), ("A", "B"), False).scores[0] or 0) == pytest.approx(0.5)


@pytest.mark.parametrize("token", ["\ufffd", "token_id:330", None])
def test_bytes_stand_in_for_a_token_without_text(token: Any) -> None:
    reply_ = listing(("B", -2.0))
    reply_["choices"][0]["logprobs"]["content"][0]["top_logprobs"].append(
        {"token": token, "logprob": -0.5, "bytes": list(b" A")}
    )
    found = read_scores(reply_, ("A", "B"), merge_variants=True)
    assert found.scores == (-0.5, -2.0)
    assert found.top_token == " A"


def test_the_most_probable_token_is_told() -> None:
    found = read_scores(listing(("A", -3.0), ("<think>", -0.1)), ("A", "B"), merge_variants=True)
    assert found.top_token == "<think>"


def test_a_reply_that_lists_no_letter_is_told_with_its_tokens() -> None:
    whole = listing(("<think>", math.log(0.98)), ("Okay", math.log(0.01)), chosen=("<think>", math.log(0.98)))
    scored = read_scores(whole, ("A", "B"), merge_variants=True)
    with pytest.raises(NoLetterError, match=r"'<think>' 98\.0%, 'Okay' 1\.0%"):
        check_lists_a_letter(whole, scored)


# -- bodies ------------------------------------------------------------------------------------------------------------


def test_template_variables_are_in_bodies() -> None:
    template = {"enable_thinking": False}
    assert score_body("m", Score(ASKED, ("A",)), OpenAi(), template)["chat_template_kwargs"] == template
    assert "chat_template_kwargs" not in generate_body("m", Generate(ASKED, 8), OpenAi(), {})


@pytest.mark.parametrize(
    "marker",
    [
        *("<|im_end|>", "<|endoftext|>", "<s>", "</s>", "[INST]", "[/INST]", "<<SYS>>", "<start_of_turn>"),
        *("<end_of_turn>", "<|eot_id|>", "<|start_header_id|>", "<｜User｜>", "<｜end▁of▁sentence｜>", "<think>"),
        *("</think>", "<|<|x|>|>"),
    ],
)
def test_markers_of_chat_templates_do_not_reach_an_api(marker: str) -> None:
    text = f"He wrote {marker} and left; 3 < 4 | 5 > 2, [1] <b>bold</b>."
    (sent,) = score_body("m", Score((Message("user", text),), ("A",)), OpenAi())["messages"]
    assert marker not in sent["content"]
    assert openai_markers.find(sent["content"]) is None
    assert sent["content"].replace(" ", "") == text.replace(" ", "")


def test_texts_without_markers_are_sent_as_they_are() -> None:
    text = "if a <| b |> c: [x] <s2> </section> <thinks> || <|a b|>"
    assert openai_markers.neutralised(text) == text


def test_a_chosen_token_written_in_another_way_is_not_counted_twice() -> None:
    found = read_scores(listing(("▁A", -0.5), ("B", -2.0), chosen=("A", -0.5)), ("A", "B"), merge_variants=True)
    assert found.scores == (-0.5, -2.0)


@pytest.mark.parametrize(
    "entry",
    [
        {"token": "A", "logprob": -(10**400)},
        {"token": None, "bytes": 10**12, "logprob": -1.0},
        {"token": ["A"], "logprob": -1.0},
        {"token": 5, "logprob": "-1"},
    ],
)
def test_an_entry_of_any_form_is_no_letter_and_no_crash(entry: dict[str, Any]) -> None:
    values = reply({"B": 0.5})
    values["choices"][0]["logprobs"]["content"][0]["top_logprobs"].append(entry)
    assert read_scores(values, ("A", "B"), merge_variants=True).scores == (None, math.log(0.5))
