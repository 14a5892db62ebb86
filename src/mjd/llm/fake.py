"""A fake engine for unit tests: answers and scores are hashes of the request."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from mjd.llm.base import Engine, EngineInfo, Generated, GenerateRequest, Scored, ScoreRequest, Usage, request_key
from mjd.llm.specs import ScoreKind


class FakeEngine(Engine):
    """Deterministic, instant, meaningless. `asked` counts the requests it was given."""

    score_kind: ScoreKind = "logit"

    def __init__(self, answer: str = "- First reason {hash}.\n- Second, longer reason {hash}.") -> None:
        self.info = EngineInfo("fake", "1", "fake-model")
        self.answer = answer
        self.asked = 0

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[tuple[int, Generated]]:
        for i, request in enumerate(requests):
            self.asked += 1
            text = self.answer.format(hash=request_key(self.info, request)[:6])
            yield i, Generated(text, "stop", Usage(10, 10))

    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[tuple[int, Scored]]:
        for i, request in enumerate(requests):
            self.asked += 1
            key = request_key(self.info, request)
            values = [
                int(hashlib.sha256(f"{key}{letter}".encode()).hexdigest()[:4], 16) / 4096 for letter in request.letters
            ]
            top = max(zip(values, request.letters, strict=True))[1]
            yield i, Scored(tuple(values), "logit", 0.5, Usage(10), top_token=top)
