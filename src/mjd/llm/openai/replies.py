"""Requests and replies of the chat completions API: bodies, answers, and label scores out of `top_logprobs`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from mjd.config.llms import OpenAi
from mjd.llm.base import Generated, GenerateRequest, Message, Scored, ScoreRequest, Usage
from mjd.llm.logprobs import ROUNDING, is_meant
from mjd.llm.openai import markers as openai_markers
from mjd.llm.openai.errors import MissingLogprobsError, NoLetterError, UnreadableReplyError, WithheldReplyError
from mjd.llm.openai.usage import read_usage
from mjd.llm.reasoning import after_reasoning
from mjd.llm.usage import bytes_count

ENDPOINT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
# Tokens that a chat template adds around a message, at most.
_TEMPLATE_TOKENS = 32
# Names of one end of an answer in several APIs ("MAX_TOKENS", "FinishReason.SAFETY", "model_context_window_exceeded").
_CUT_OFF = re.compile(r"length|max_(output_|new_|completion_)?tokens|token_limit|^limit$|truncated|context_window")
_WITHHELD = re.compile(
    r"filter|safety|refus|block|prohibit|policy|moderat|sensitive|recitation|spii|toxic|guardrail|flagged|compliance"
)
_BROKEN_OFF = re.compile(r"error|abort|cancel|time_?out|fail|overload|insufficient|malformed|interrupt")


def score_body(
    model: str, request: ScoreRequest, settings: OpenAi, template: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """JSON body that asks for the most likely first tokens; `template` holds variables of the chat template."""
    asked = {"logprobs": True, "top_logprobs": settings.top_logprobs, "temperature": 0, settings.max_tokens_key: 1}
    return {"model": model, "messages": _chat(request.messages), **asked, **_template(template)}


def generate_body(
    model: str, request: GenerateRequest, settings: OpenAi, template: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """JSON body that asks for an answer; `template` as for `score_body`."""
    asked: dict[str, Any] = {"temperature": request.temperature, settings.max_tokens_key: request.max_new_tokens}
    if request.temperature:
        asked |= {"top_p": request.top_p, "seed": request.random_seed()}
    return {"model": model, "messages": _chat(request.messages), **asked, **_template(template)}


def _template(variables: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"chat_template_kwargs": dict(variables)} if variables else {}


def _chat(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": openai_markers.neutralised(message.content)} for message in messages]


def most_usage(body: Mapping[str, Any], settings: OpenAi) -> Usage:
    """More tokens than the request can use: a token is at least one byte of text."""
    prompt = sum(len(message["content"].encode()) + _TEMPLATE_TOKENS for message in body["messages"])
    return Usage(prompt + _TEMPLATE_TOKENS, int(body[settings.max_tokens_key]))


def likely_usage(body: Mapping[str, Any], settings: OpenAi) -> int:
    """Tokens in and out that a request counts as against a limit per minute: about four characters each."""
    text = sum(len(message["content"]) for message in body["messages"])
    return text // 4 + _TEMPLATE_TOKENS + int(body[settings.max_tokens_key])


# -- answers -----------------------------------------------------------------------------------------------------------


def read_answer(reply: Mapping[str, Any], usage: Usage | None = None) -> Generated:
    """The answer in a reply, with a reasoning block that it may begin with; `reasoning_content` is never read.

    Args:
        usage: its tokens; None reads them from the reply.

    Raises:
        WithheldReplyError: the endpoint or the model refused.
        UnreadableReplyError: there is no answer: none at all, or reasoning alone.
    """
    choice = _choice(reply)
    message = choice.get("message")
    if not isinstance(message, Mapping):
        raise UnreadableReplyError("a reply has no message")
    # JSON may hold half of a character (an emoji cut in two), which no file can: U+FFFD stands for it.
    text = _text(message.get("content")).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    ended = _finish(choice.get("finish_reason"))
    if not (after_reasoning(text) or "").strip():
        raise _without_answer(choice, message, text, ended)
    return Generated(text, ended, usage or _usage(reply))


def _usage(reply: Mapping[str, Any]) -> Usage:
    return read_usage(reply, {"messages": []}, bytes_count)[0]


def _finish(reason: Any) -> Literal["stop", "length"]:
    """How an answer ended: `length` by any name, else `stop`, which endpoints call by many names.

    Raises:
        WithheldReplyError, UnreadableReplyError: the endpoint withheld it, or broke it off.
    """
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", str(reason or "").strip())  # MaxTokens
    name = re.sub(r"[\s-]+", "_", words).lower()
    if _WITHHELD.search(name):
        raise WithheldReplyError(f"the endpoint withheld the answer (finish_reason {reason!r})")
    if _CUT_OFF.search(name):
        return "length"
    if _BROKEN_OFF.search(name):
        raise UnreadableReplyError(f"the endpoint broke the answer off (finish_reason {reason!r})")
    return "stop"


def _text(content: Any) -> str:
    """The text of `content`: a text, or a list of parts, of which reasoning is left out."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise UnreadableReplyError(f"the content of a reply is no text ({type(content).__name__})")
    found = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        text = part.get("text") if isinstance(part, Mapping) else part
        if kind in ("thinking", "reasoning"):
            continue
        if not isinstance(text, str):
            raise UnreadableReplyError(f"the content of a reply has a part that is no text ({kind!r})")
        found.append(text)
    return "".join(found)


def _without_answer(
    choice: Mapping[str, Any], message: Mapping[str, Any], text: str, ended: str
) -> WithheldReplyError | UnreadableReplyError:
    """The error of a reply without an answer, and why it has none."""
    if refusal := message.get("refusal"):
        return WithheldReplyError(f"the model refused ({str(refusal)[:100]!r})")
    if _calls_a_tool(choice, message):
        return WithheldReplyError(f"a reply calls a tool instead (finish_reason {choice.get('finish_reason')!r})")
    if text.strip() or message.get("reasoning_content") or message.get("reasoning"):
        what = "a reply holds reasoning and no answer"
        if ended == "length":  # with the same budget of tokens it would end there again
            return WithheldReplyError(f"{what}: raise explanations.sampling.max_new_tokens, or switch reasoning off")
        return UnreadableReplyError(what)
    return UnreadableReplyError(f"a reply is empty (finish_reason {choice.get('finish_reason')!r})")


def _calls_a_tool(choice: Mapping[str, Any], message: Mapping[str, Any]) -> bool:
    named = choice.get("finish_reason") in ("tool_calls", "function_call", "tool_use")
    return named or bool(message.get("tool_calls") or message.get("function_call"))


def _choice(reply: Mapping[str, Any]) -> Mapping[str, Any]:
    """The one choice of a reply; raises `UnreadableReplyError`."""
    choices = reply.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], Mapping):
        said = reply.get("error")
        n = len(choices) if isinstance(choices, list) else 0
        raise UnreadableReplyError(f"a reply has {n} choices, not one" + (f" ({str(said)[:200]})" if said else ""))
    return choices[0]


# -- scores ------------------------------------------------------------------------------------------------------------


class Listed(NamedTuple):
    """A token that a reply lists, with its log-probability."""

    token: str
    logprob: float


def read_scores(
    reply: Mapping[str, Any], letters: Sequence[str], merge_variants: bool, usage: Usage | None = None
) -> Scored:
    """Log-probabilities of the letters among the most likely first tokens.

    A letter that is not among them scores None. Each of its spellings is at most as likely as the least likely token of
    `top_logprobs`: together they are the bound. `mass` counts the letters listed. A log-probability that is not finite,
    or too low (`mjd.llm.logprobs`), is how APIs write "not listed": its token counts for nothing, nor for the bound.

    Args:
        merge_variants: add up all spellings of a letter; False counts the letter itself alone.
        usage: the reply's tokens; None reads them from it.

    Raises:
        MissingLogprobsError: the reply has no `top_logprobs`.
        WithheldReplyError: nor will it have any.
        UnreadableReplyError: it is no chat completion, or its numbers are no log-probabilities.
    """
    most_likely, listed = _first_tokens(reply)
    scores = [_letter_score(letter, merge_variants, listed) for letter in letters]
    mass = sum(math.exp(score) for score in scores if score is not None)
    bound = _bound(most_likely, 2 if merge_variants else 1) if None in scores else None
    top = max(listed, key=lambda one: one.logprob).token
    return Scored(tuple(scores), "logprob", min(mass, 1.0), usage or _usage(reply), bound, top)


def check_lists_a_letter(reply: Mapping[str, Any], scored: Scored) -> None:
    """Raise `NoLetterError`, naming the most likely tokens, when none of them is an option letter."""
    if all(score is None for score in scored.scores):
        _, listed = _first_tokens(reply)
        top = sorted(listed, key=lambda one: -one.logprob)[:5]
        raise NoLetterError(", ".join(f"{one.token!r} {math.exp(one.logprob):.1%}" for one in top))


def spelling(token: str, letter: str) -> Literal["bare", "spaced"] | None:
    """How a token spells a letter: bare, with a space or a tokenizer's mark for one before it, or not at all.

    Servers give the text of a token, or its entry in the vocabulary: `▁A` (SentencePiece), `ĠA` (byte level), `<0x41>`.
    """
    if token in (letter, "".join(f"<0x{byte:02X}>" for byte in letter.encode())):
        return "bare"
    return "spaced" if token in (f" {letter}", f"▁{letter}", f"Ġ{letter}") else None


def _bound(most_likely: Sequence[Listed], n_spellings: int) -> float:
    """Most that a letter's unlisted spellings can score together: each at most what the least likely token listed has.

    Where that is more than the most likely token has (a list of one token, say), what all listed ones leave over.
    """
    logprobs = [one.logprob for one in most_likely]
    bound = min(logprobs) + math.log(n_spellings)
    if bound > max(logprobs):
        bound = min(bound, math.log(max(1 - sum(map(math.exp, logprobs)), 1e-4)))
    return bound


def _first_tokens(reply: Mapping[str, Any]) -> tuple[list[Listed], list[Listed]]:
    """The most likely first tokens, each once; the same with the generated one, likely or not."""
    choice = _choice(reply)
    logprobs = choice.get("logprobs")
    try:
        first = logprobs["content"][0]  # type: ignore[index]
        top = list(first["top_logprobs"])
    except (KeyError, IndexError, TypeError):
        first, top = {}, []
    _check_not_withheld(choice, bool(top))
    if not top:
        raise MissingLogprobsError("a reply has no top_logprobs")
    most_likely = _distinct(top)
    if not most_likely:
        raise UnreadableReplyError("no log-probability of a reply is one that a model can mean")
    if sum(math.exp(one.logprob) for one in most_likely) > 1 + 2 * ROUNDING:
        raise UnreadableReplyError("the log-probabilities of a reply add up to more than 1")
    chosen = Listed(_token_text(first), _number(first.get("logprob")))
    return most_likely, [*most_likely, chosen] if _is_further(chosen, most_likely) else most_likely


def _is_further(chosen: Listed, most_likely: Sequence[Listed]) -> bool:
    """True for a generated token that is not among those listed; some servers write it there in another way."""
    is_listed = any(
        one.token == chosen.token or math.isclose(one.logprob, chosen.logprob, abs_tol=1e-4) for one in most_likely
    )
    return is_meant(chosen.logprob) and not is_listed


def _check_not_withheld(choice: Mapping[str, Any], has_logprobs: bool) -> None:
    """Raise the error of a reply that was withheld or broken off, or that is a refusal or a tool call instead."""
    _finish(choice.get("finish_reason"))
    message = choice.get("message")
    if not has_logprobs and isinstance(message, Mapping):
        if message.get("refusal"):
            raise WithheldReplyError(f"the model refused ({str(message['refusal'])[:100]!r})")
        if _calls_a_tool(choice, message):
            raise WithheldReplyError(f"a reply calls a tool instead ({choice.get('finish_reason')!r})")


def _distinct(entries: Sequence[Any]) -> list[Listed]:
    """Listed tokens with a log-probability that a model can mean, an entry that is repeated once.

    Two entries of one text and different log-probabilities are two tokens: SentencePiece's `▁A` and `A` may both be
    written `A`.

    Raises:
        UnreadableReplyError: a number is positive, so that none of them is a log-probability.
    """
    found: list[Listed] = []
    for entry in entries:
        logprob = _number(entry.get("logprob") if isinstance(entry, Mapping) else None)
        if logprob == math.inf or (math.isfinite(logprob) and logprob > ROUNDING):
            raise UnreadableReplyError(f"a reply lists a log-probability of {logprob:g}")
        if not is_meant(logprob):
            continue
        one = Listed(_token_text(entry), min(logprob, 0.0))
        if not any(one.token == o.token and math.isclose(one.logprob, o.logprob, abs_tol=1e-4) for o in found):
            found.append(one)
    return found


def _number(value: Any) -> float:
    """A JSON value as a number; NaN for anything that is none."""
    if value is None or isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _token_text(entry: Mapping[str, Any]) -> str:
    """A token's text: out of its `bytes` where the text is missing, a part of a character, or only an id."""
    token = entry.get("token")
    if isinstance(token, str) and "\ufffd" not in token and not token.startswith("token_id:"):
        return token
    try:
        return bytes([*entry["bytes"]]).decode()
    except (KeyError, TypeError, ValueError):
        return str(token or "")


def _letter_score(letter: str, merge_variants: bool, listed: Sequence[Listed]) -> float | None:
    """Log of the summed probability of the tokens that spell a letter; None when none is listed."""
    if merge_variants:
        spelt = [one.logprob for one in listed if spelling(one.token, letter)]
    else:
        spelt = [max((one.logprob for one in listed if one.token == letter), default=-math.inf)]
    highest = max(spelt, default=-math.inf)
    if highest == -math.inf:
        return None
    return highest + math.log(sum(math.exp(logprob - highest) for logprob in spelt))
