"""What every engine speaks: frozen requests in, responses out."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from mjd.llm.specs import ScoreKind

if TYPE_CHECKING:
    from mjd.config.llms import Llm
    from mjd.llm.store.ledger import Ledger


@dataclass(frozen=True)
class Message:
    """One chat message; `role` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True)
class GenerateRequest:
    """Write an answer of at most `max_new_tokens` tokens; temperature 0 is greedy.

    `seed` and `sample_index` make a sampled answer reproducible and distinguish several answers to one prompt.
    """

    messages: tuple[Message, ...]
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    sample_index: int = 0

    def random_seed(self, bits: int = 31) -> int:
        """A seed of this answer alone, whatever else is asked for with it."""
        text = repr((self.seed, self.sample_index, self.messages))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> (64 - bits)


@dataclass(frozen=True)
class ScoreRequest:
    """Score each of `letters` as the first token of the answer, or of what follows `answer_so_far`.

    `answer_so_far` is the beginning of an answer that the model wrote (`Generated.text`), such as its reasoning; only
    engines with `continues_answers` read it.
    """

    messages: tuple[Message, ...]
    letters: tuple[str, ...]
    answer_so_far: str = ""


Request = GenerateRequest | ScoreRequest


@dataclass(frozen=True)
class Usage:
    """Tokens of one request; `cached_tokens` of the prompt were read from a provider's cache."""

    prompt_tokens: int
    completion_tokens: int = 0
    cached_tokens: int = 0


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
    `mass` is the total probability of the letters over the whole vocabulary, None where the engine does not give it.
    A score is None where an API left its letter out of the most likely tokens: it is at most `bound` then.
    `top_token` is the text of the most probable first token, None where the engine does not give it.
    """

    scores: tuple[float | None, ...]
    kind: ScoreKind
    mass: float | None
    usage: Usage
    bound: float | None = None
    top_token: str | None = None


@dataclass(frozen=True)
class Unanswered:
    """What an engine yields in place of a response to a request that got no usable reply, and the reason.

    `is_final` is False where no reply came at all (an outage, an expired batch): the prompt itself is not at fault, and
    `unanswered: drop` does not drop it.
    """

    reason: str
    is_final: bool = True


@dataclass(frozen=True)
class EngineInfo:
    """What ran: part of every request key and of provenance.

    `settings` holds what changes the numbers (dtype, chat template); speed settings stay out. `scoring` holds what
    changes scores alone: it is no part of the keys of generated answers.
    """

    engine: str
    engine_version: str
    model: str
    settings: tuple[tuple[str, str], ...] = ()
    scoring: tuple[tuple[str, str], ...] = ()

    def record(self, request: Request) -> dict[str, Any]:
        """The plain values that the key of `request` covers; `scoring` only where it holds something."""
        values = named_fields(self, _ENGINE_NAMES)
        if self.scoring and isinstance(request, ScoreRequest):
            values["scoring"] = self.scoring
        return values

    def provenance(self) -> dict[str, str]:
        """The same for the metadata of artifacts."""
        named = {"engine": self.engine, "engine_version": self.engine_version, "model": self.model}
        return named | dict(self.settings) | dict(self.scoring)


@dataclass(frozen=True)
class EngineResources:
    """What a job gives its engine: CPU threads (None leaves them alone) and, for paid engines, the ledger.

    `count_tokens` counts the tokens of a text where a paid reply does not say how many it took.
    """

    threads: int | None = None
    ledger: Ledger | None = None
    count_tokens: Callable[[str], int] | None = None


class Engine(ABC):
    """An LLM engine. Responses come as (index into `requests`, response), in any order, as they finish.

    Engines are built as `EngineClass(directory, settings, identity, resources)`, see `mjd.llm.engines.build_engine`.
    """

    info: EngineInfo
    score_kind: ScoreKind
    # As in `mjd.llm.specs`. Replies that cost money are kept in the response store, others in files of their job.
    is_paid = False
    # Whether it reads `ScoreRequest.answer_so_far`; requests with one are refused before they reach other engines.
    continues_answers = False
    # Requests that `generate` is given at a time; None is all of them.
    answers_per_call: int | None = None
    # Requests that `score` is given at a time: enough to sort and pack well, few enough to hold in memory.
    prompts_per_call: int | None = 2048

    @classmethod
    def info_of(cls, settings: Llm, identity: str) -> EngineInfo | None:
        """Its `info` without a key, a connection or weights, for plans; None where only a built engine has it."""
        return None

    @abstractmethod
    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[tuple[int, Generated | Unanswered]]: ...

    @abstractmethod
    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[tuple[int, Scored | Unanswered]]: ...

    def check(self, requests: Iterable[tuple[Request, str]]) -> None:  # noqa: B027 -- most engines have nothing to check
        """Check all requests of a job, each with a name for messages, before the first of them is answered.

        Raises:
            MjdError: one of them cannot be answered as asked.
        """

    def report(self) -> dict[str, Any]:
        """What this run adds to provenance beside `info`."""
        return {}

    def note(self) -> str:
        """A remark for progress lines, such as the money spent so far."""
        return ""

    def close(self) -> None:  # noqa: B027 -- most engines have nothing to end
        """End what the engine started."""


# Under these names the store keeps requests and replies, and keys are hashes over them. They are literals so that a
# class or an attribute may be renamed: never change one, or every reply that was paid for is asked again.
KIND_SCORE = "Score"
KIND_GENERATE = "Generate"
_ENGINE_NAMES = {"engine": "engine", "engine_version": "engine_version", "model": "model", "settings": "settings"}
_MESSAGE_NAMES = {"role": "role", "content": "content"}
_SCORE_NAMES = {"letters": "letters"}
_GENERATE_NAMES = {
    "max_new_tokens": "max_new_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
    "sample_index": "sample_index",
}
_USAGE_NAMES = {
    "prompt_tokens": "prompt_tokens",
    "completion_tokens": "completion_tokens",
    "cached_tokens": "cached_tokens",
}
_SCORED_NAMES = {
    "scores": "scores",
    "kind": "kind",
    "mass": "mass",
    "bound": "bound",
    "top_token": "top_token",
}
_GENERATED_NAMES = {"text": "text", "finish_reason": "finish_reason"}
# Fields that came after the first release belong here, not above: they enter only when they are not at their default,
# so that keys of earlier requests stay.
_LATER_SCORE_NAMES: dict[str, str] = {"answer_so_far": "answer_so_far"}
_LATER_GENERATE_NAMES: dict[str, str] = {}


def request_key(info: EngineInfo, request: Request) -> str:
    """SHA-256 (hex) of the whole request: model, revision, engine and its version, messages, sampling."""
    return stored_key(info.record(request), request_kind(request), request_fields(request))


def request_kind(request: Request) -> str:
    """`KIND_SCORE` or `KIND_GENERATE`."""
    return KIND_SCORE if isinstance(request, ScoreRequest) else KIND_GENERATE


def request_fields(request: Request) -> dict[str, Any]:
    """The plain values of a request under the names that the store keeps."""
    messages = {"messages": [named_fields(message, _MESSAGE_NAMES) for message in request.messages]}
    if isinstance(request, ScoreRequest):
        return messages | named_fields(request, _SCORE_NAMES, _LATER_SCORE_NAMES)
    return messages | named_fields(request, _GENERATE_NAMES, _LATER_GENERATE_NAMES)


def reply_fields(reply: Generated | Scored) -> dict[str, Any]:
    """The plain values of a reply under the names that the store keeps."""
    names = _SCORED_NAMES if isinstance(reply, Scored) else _GENERATED_NAMES
    return named_fields(reply, names) | {"usage": named_fields(reply.usage, _USAGE_NAMES)}


def reply_from(fields: Mapping[str, Any]) -> Generated | Scored:
    """The reply that `reply_fields` wrote, in this version or an earlier one, which lacked some names."""
    usage = Usage(**{attribute: fields.get("usage", {}).get(name, 0) for attribute, name in _USAGE_NAMES.items()})
    if "scores" not in fields:
        return Generated(fields["text"], fields["finish_reason"], usage)
    given: dict[str, Any] = {attribute: fields.get(name) for attribute, name in _SCORED_NAMES.items()}
    return Scored(**given | {"scores": tuple(fields["scores"]), "usage": usage})


def named_fields(value: Any, always: Mapping[str, str], later: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Attributes of a dataclass under stored names (both mappings: attribute to name).

    Those of `later` are left out where they have the default of their field.
    """
    found = {name: getattr(value, attribute) for attribute, name in always.items()}
    if later:
        defaults = {field.name: field.default for field in fields(value)}
        changed = {attribute: getattr(value, attribute) for attribute in later}
        found |= {later[attribute]: one for attribute, one in changed.items() if one != defaults[attribute]}
    return found


def stored_key(info: dict[str, Any], kind: str, request: dict[str, Any]) -> str:
    """The same from the plain values that the store keeps."""
    whole = {"engine": info, "kind": kind, "request": request}
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
