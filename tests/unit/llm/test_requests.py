"""Requests and their keys."""

import pytest

from mjd.config.llms import Llm
from mjd.llm.base import EngineInfo, Generate, Message, Score, request_key
from mjd.llm.openai.engine import engine_info


def test_request_keys_of_earlier_versions_stay() -> None:
    """A store that was filled before must still be hit: these hashes were computed by version 0.1.0's first commit."""
    score = "65966f911095fa5967ffdbe1b825fd3cbe6229a9e8036a8e9222c178dd227ebc"
    answer = "85915f819181e014c9c92bf3af196d5a710ffd8da008b47c04e0dc9df7045ee6"
    info = EngineInfo("transformers", "5.19.0", "m@1", (("dtype", "float32"),))
    messages = (Message("user", "Why?"),)
    assert request_key(info, Score(messages, ("A", "B"))) == score
    assert request_key(info, Generate(messages, 8, seed=1)) == answer


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
    assert request_key(info, Score(messages, ("A", "B"))) == score
    assert request_key(info, Generate(messages, 8, seed=1)) == answer


def test_scoring_settings_change_keys_of_scores_alone() -> None:
    plain, merged = (EngineInfo("e", "1", "m", scoring=more) for more in ((), (("letter_tokens", "all"),)))
    messages = (Message("user", "Why?"),)
    assert request_key(plain, Generate(messages, 8)) == request_key(merged, Generate(messages, 8))
    assert request_key(plain, Score(messages, ("A",))) != request_key(merged, Score(messages, ("A",)))
