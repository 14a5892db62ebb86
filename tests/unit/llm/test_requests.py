"""Requests and their keys."""

from dataclasses import dataclass, fields, replace

import pytest

from mjd.config.llms import Llm
from mjd.llm.base import (
    EngineInfo,
    Generated,
    GenerateRequest,
    Message,
    Scored,
    ScoreRequest,
    Usage,
    named_fields,
    reply_fields,
    reply_from,
    request_fields,
    request_key,
)
from mjd.llm.openai.engine import engine_info
from mjd.llm.store.replies import record_key, request_record


def test_request_keys_of_earlier_versions_stay() -> None:
    """A store that was filled before must still be hit: these hashes were computed by version 0.1.0's first commit."""
    score = "65966f911095fa5967ffdbe1b825fd3cbe6229a9e8036a8e9222c178dd227ebc"
    answer = "85915f819181e014c9c92bf3af196d5a710ffd8da008b47c04e0dc9df7045ee6"
    info = EngineInfo("transformers", "5.19.0", "m@1", (("dtype", "float32"),))
    messages = (Message("user", "Why?"),)
    assert request_key(info, ScoreRequest(messages, ("A", "B"))) == score
    assert request_key(info, GenerateRequest(messages, 8, seed=1)) == answer


@pytest.mark.parametrize(
    ("settings", "score", "answer"),
    [
        (
            {},
            "6c8c011b2bf8a247e431b9065463de9e0d55bce1f00ff8a972b90a83c40546fb",
            "ce0065a1022c694067c097c987b8aef2d0d6217b2bc579ab2b0c30e06c9a3250",
        ),
        (
            {"letter_tokens": "single"},
            "1137a2fd5c94971a1ee8e4974e7a7f20d1eed2124eb60f67921ed0c1f29041e9",
            "5a42875cf6fc2260090d080896b1c534ab960a9f43475d860d5fae39801e4f8b",
        ),
    ],
)
def test_api_request_keys_of_earlier_versions_stay(settings: dict[str, str], score: str, answer: str) -> None:
    """Replies that were paid for: hashes of commit aa4b8c1, with `merge_variants` true and false."""
    info = engine_info(Llm(title="m", model="m", engine="openai", **settings), "api:m")
    messages = (Message("user", "Why?"),)
    assert request_key(info, ScoreRequest(messages, ("A", "B"))) == score
    assert request_key(info, GenerateRequest(messages, 8, seed=1)) == answer


def test_scoring_settings_change_keys_of_scores_alone() -> None:
    plain, merged = (EngineInfo("e", "1", "m", scoring=more) for more in ((), (("letter_tokens", "all"),)))
    messages = (Message("user", "Why?"),)
    assert request_key(plain, GenerateRequest(messages, 8)) == request_key(merged, GenerateRequest(messages, 8))
    assert request_key(plain, ScoreRequest(messages, ("A",))) != request_key(merged, ScoreRequest(messages, ("A",)))


TWO_MESSAGES = (Message("system", "Be brief."), Message("user", "Why? \u00fc"))
INFOS = {
    "openai": EngineInfo(
        "openai",
        "1",
        "api:https://api.example.org/v1:m",
        (("max_tokens_key", "max_tokens"), ("reasoning_effort", "low")),
    ),
    "vllm": EngineInfo(
        "vllm",
        "0.10",
        "m@1",
        (("dtype", "bfloat16"), ("chat_template", "abc")),
        (("letter_tokens", "all"), ("quantisation", "fp8")),
    ),
    "transformers": EngineInfo("transformers", "5.19.0", "m@1", (("dtype", "float32"),), (("letter_tokens", "all"),)),
    "plain": EngineInfo("transformers", "5.19.0", "m@1"),
}
REQUESTS = {
    "score": ScoreRequest(TWO_MESSAGES, ("A", "B", "C")),
    "one letter": ScoreRequest(TWO_MESSAGES[1:], ("A",)),
    "greedy": GenerateRequest(TWO_MESSAGES, 8),
    "sampled": GenerateRequest(TWO_MESSAGES, 512, temperature=0.7, top_p=0.9, seed=13, sample_index=3),
}
# Computed by commit 3f80504, which hashed names of classes and attributes.
KEYS_OF_COMMIT_3F80504 = {
    ("openai", "score"): "0787697fb3603c41ce62985f41b3f86b5c1590e7282f40783601c3df8b3d4980",
    ("openai", "one letter"): "fa2d5443bf12fb0bef22ad7630dd72c5dc6003273f6a81fb2e9f3367298283bd",
    ("openai", "greedy"): "68360358c40fcb66cfa4ce9186d5417efdbdefb615c2806857ef784e7f85d03f",
    ("openai", "sampled"): "2d7a4a1a962a2ee193b37efd638f808f25ed6065b9c97504a1fd1ee873543bdf",
    ("vllm", "score"): "4f20f3cc86089cd7621586a7aee43691f61c108c1d481232a0aa1344d837ea69",
    ("vllm", "one letter"): "ebbdb563f35970540071ce8cbbc0abc5207378a301e6955ca925853aaaeb48e2",
    ("vllm", "greedy"): "fd260308613df344ccfd8f93521dcda9a063a2d24279d86cdf44942b4bdcf7d1",
    ("vllm", "sampled"): "ba1dd46aa9e6967de6bb13b9a469395dbcf0cb6310ca352d5626c0d997584737",
    ("transformers", "score"): "658d0d18eb029806e09b52ecb17b3e217394d193881c9ed6be15b40c39a748ff",
    ("transformers", "one letter"): "6bf53d6853bc2260a6ade1d383d299ed100b54d99853feebfa1f463826337cd8",
    ("transformers", "greedy"): "28b61fde7e6ba8c98a07ab5892dc25c25b99ac6b15467f4205b9ce90ec4246d7",
    ("transformers", "sampled"): "23b189bda7ec1b112f0691d9d1bad7370d1218cfaebd60648f841dd98aad9e32",
    ("plain", "score"): "89803b772c534f8005873c93cdf90f391a5d8b92943be94a94d519bf07bec737",
    ("plain", "one letter"): "5c1d3f1fc8e6a7a4298e7c968225ca9c5ee1a17fbd3c0717689a4d96576bf926",
    ("plain", "greedy"): "4b65f91f1b0585b387f8a369e9338a44c64c34c01f4589818bb2e32aefbc0663",
    ("plain", "sampled"): "fabf8fa5e2178ceca71180b11cb3cd6f249a61c08dea4220fa05ad6bd5026cad",
}


@pytest.mark.parametrize(("info", "request_name"), KEYS_OF_COMMIT_3F80504)
def test_keys_computed_from_class_names_stay(info: str, request_name: str) -> None:
    assert request_key(INFOS[info], REQUESTS[request_name]) == KEYS_OF_COMMIT_3F80504[info, request_name]


def test_stored_requests_keep_their_names_and_order() -> None:
    assert list(request_record(INFOS["plain"], REQUESTS["score"])) == ["engine", "messages", "letters"]
    sampled = request_record(INFOS["vllm"], REQUESTS["sampled"])
    sampling = ["max_new_tokens", "temperature", "top_p", "seed", "sample_index"]
    assert list(sampled) == ["engine", "messages", *sampling]
    assert list(sampled["engine"]) == ["engine", "engine_version", "model", "settings"]
    scored = request_record(INFOS["vllm"], REQUESTS["score"])
    assert list(scored["engine"]) == ["engine", "engine_version", "model", "settings", "scoring"]
    assert list(sampled["messages"][0]) == ["role", "content"]


@pytest.mark.parametrize("request_name", ["score", "sampled"])
def test_every_field_of_a_request_is_stored(request_name: str) -> None:
    """A field that no mapping names would be left out of keys: two different requests would share one reply."""
    request = REQUESTS[request_name]
    if isinstance(request, ScoreRequest):
        request = replace(request, answer_so_far="Well,")
    assert len(request_fields(request)) == len(fields(request))


def test_every_field_of_messages_engines_and_replies_is_stored() -> None:
    request = request_record(INFOS["vllm"], REQUESTS["score"])
    assert len(request["messages"][0]) == len(fields(Message))
    assert len(request["engine"]) == len(fields(EngineInfo))
    usage = Usage(7, 2, 1)
    for reply in (Scored((-1.0,), "logprob", 0.5, usage), Generated("Yes.", "stop", usage)):
        stored = reply_fields(reply)
        assert len(stored) == len(fields(reply))
        assert len(stored["usage"]) == len(fields(Usage))
        assert reply_from(stored) == reply


@dataclass(frozen=True)
class Extended:
    """A request with a field that came later."""

    old: int
    new: str = ""


def test_later_field_enters_only_when_not_at_its_default() -> None:
    always, later = {"old": "stored_old"}, {"new": "stored_new"}
    assert named_fields(Extended(1), always, later) == {"stored_old": 1}
    assert named_fields(Extended(1, "x"), always, later) == {"stored_old": 1, "stored_new": "x"}


def test_stored_replies_keep_their_names() -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 2, "cached_tokens": 1}
    scored = Scored((-1.0, None), "logprob", 0.5, Usage(7, 2, 1), bound=-9.0, top_token="A")
    numbers = {"scores": (-1.0, None), "kind": "logprob", "mass": 0.5, "bound": -9.0, "top_token": "A"}
    assert reply_fields(scored) == numbers | {"usage": usage}
    answer = {"text": "Yes.", "finish_reason": "stop", "usage": usage}
    assert reply_fields(Generated("Yes.", "stop", Usage(7, 2, 1))) == answer


def test_answer_so_far_enters_key_and_record_only_where_it_is_set() -> None:
    info, messages = EngineInfo("e", "1", "m"), (Message("user", "Why?"),)
    plain, continued = ScoreRequest(messages, ("A",)), ScoreRequest(messages, ("A",), answer_so_far="Well,")
    assert "answer_so_far" not in request_record(info, plain)
    assert request_record(info, continued)["answer_so_far"] == "Well,"
    assert record_key(request_record(info, continued)) == request_key(info, continued) != request_key(info, plain)
