"""What every engine speaks: frozen requests in, responses out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, Protocol

ScoreKind = Literal["logit", "logprob"]


@dataclass(frozen=True)
class Message:
    """One chat message; `role` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True)
class Generate:
    """Write an answer of at most `max_new_tokens` tokens; temperature 0 is greedy.

    `seed` and `sample_index` make a sampled answer reproducible and distinguish several answers to one prompt.
    """

    messages: tuple[Message, ...]
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    sample_index: int = 0


@dataclass(frozen=True)
class Score:
    """Score each of `letters` as the first token of the answer."""

    messages: tuple[Message, ...]
    letters: tuple[str, ...]


@dataclass(frozen=True)
class Usage:
    """Tokens of one request."""

    prompt_tokens: int
    completion_tokens: int = 0


@dataclass(frozen=True)
class Generated:
    """An answer; `finish_reason` is `stop` (the model ended it) or `length`."""

    text: str
    finish_reason: Literal["stop", "length"]
    usage: Usage


@dataclass(frozen=True)
class Scored:
    """Scores of a request's letters, in its order.

    `kind` is `logit` (unnormalised) or `logprob` (natural log of the probability over the whole vocabulary);
    `mass` is the total probability of the letters over the whole vocabulary.
    """

    scores: tuple[float, ...]
    kind: ScoreKind
    mass: float
    usage: Usage


@dataclass(frozen=True)
class EngineInfo:
    """What ran: part of every request key and of provenance.

    `settings` holds what changes the numbers (dtype, chat template); speed settings stay out.
    """

    engine: str
    engine_version: str
    model: str
    settings: tuple[tuple[str, str], ...] = ()

    def provenance(self) -> dict[str, str]:
        """The same for the metadata of artifacts."""
        named = {"engine": self.engine, "engine_version": self.engine_version, "model": self.model}
        return named | dict(self.settings)


class Engine(Protocol):
    """An LLM engine. Responses come as (index into `requests`, response), in any order, as they finish."""

    info: EngineInfo
    score_kind: ScoreKind

    def generate(self, requests: Sequence[Generate]) -> Iterator[tuple[int, Generated]]: ...

    def score(self, requests: Sequence[Score]) -> Iterator[tuple[int, Scored]]: ...


def request_key(info: EngineInfo, request: Generate | Score) -> str:
    """SHA-256 (hex) of the whole request: model, revision, engine and its version, messages, sampling."""
    whole = {"engine": asdict(info), "kind": type(request).__name__, "request": asdict(request)}
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
