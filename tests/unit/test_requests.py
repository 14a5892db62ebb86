"""Requests and their keys."""

from mjd.llm.base import EngineInfo, Generate, Message, Score, request_key


def test_request_keys_of_earlier_versions_stay() -> None:
    """A store that was filled before must still be hit: these hashes were computed by version 0.1.0's first commit."""
    score = "65966f911095fa5967ffdbe1b825fd3cbe6229a9e8036a8e9222c178dd227ebc"
    answer = "85915f819181e014c9c92bf3af196d5a710ffd8da008b47c04e0dc9df7045ee6"
    info = EngineInfo("transformers", "5.19.0", "m@1", (("dtype", "float32"),))
    messages = (Message("user", "Why?"),)
    assert request_key(info, Score(messages, ("A", "B"))) == score
    assert request_key(info, Generate(messages, 8, seed=1)) == answer
