"""The loop round every engine: what is known is not asked again, what cannot be asked is refused first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from mjd.errors import ModelError
from mjd.llm.base import Generated, GenerateRequest, Message, ScoreRequest, Unanswered, Usage
from mjd.llm.cache import CachedEngine
from mjd.llm.fake import FakeEngine
from mjd.llm.store.files import LocalAnswers, LocalScores
from mjd.llm.unanswered import UnansweredPrompts
from mjd.llm.usage import UsageTracker
from mjd.logs import Progress


def question(text: str) -> GenerateRequest:
    return GenerateRequest((Message("user", text),), 8)


def answers(engine: FakeEngine, directory: Path, *texts: str) -> list[str | None]:
    cached = CachedEngine(engine, LocalAnswers(directory), UsageTracker(), UnansweredPrompts("drop"))
    with cached.asking("answering", len(texts), "answers") as progress:
        found: list[Generated | None] = cached.ask(
            [question(text) for text in texts], texts, progress, lambda answer: answer
        )
    return [answer.text if answer else None for answer in found]


def test_equal_requests_are_asked_once_and_answered_each(tmp_path: Path) -> None:
    engine = FakeEngine()
    found = answers(engine, tmp_path, "a", "b", "a")
    assert engine.asked == 2
    assert found[0] == found[2] != found[1]


def test_known_answers_are_not_asked_again(tmp_path: Path) -> None:
    first = answers(FakeEngine(), tmp_path, "a", "b")
    engine = FakeEngine()
    assert answers(engine, tmp_path, "b", "a") == first[::-1]
    assert engine.asked == 0


def test_engine_that_takes_few_requests_at_a_time_gets_no_more(tmp_path: Path) -> None:
    class Small(FakeEngine):
        answers_per_call = 2

        def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[tuple[int, Generated]]:
            assert len(requests) <= 2
            return super().generate(requests)

    assert answers(Small(), tmp_path, *"abcde") == answers(FakeEngine(), tmp_path / "other", *"abcde")


def test_answers_before_a_crash_are_kept(tmp_path: Path) -> None:
    class Crashing(FakeEngine):
        def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[tuple[int, Generated]]:
            yield next(super().generate(requests))
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        answers(Crashing(), tmp_path, "a", "b")
    engine = FakeEngine()
    answers(engine, tmp_path, "a", "b")
    assert engine.asked == 1


def test_request_without_an_answer_is_named_and_others_are_kept(tmp_path: Path) -> None:
    class Refusing(FakeEngine):
        def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[tuple[int, Generated | Unanswered]]:  # type: ignore[override]
            for i, request in enumerate(requests):
                refuses = request.messages[0].content == "b"
                yield i, Unanswered("refused") if refuses else Generated("yes", "stop", Usage(1, 1))

    assert answers(Refusing(), tmp_path, "a", "b", "b") == ["yes", None, None]
    engine = FakeEngine()
    answers(engine, tmp_path, "a", "b")
    assert engine.asked == 1


def test_engine_that_does_not_continue_answers_is_refused_before_it_is_asked(tmp_path: Path) -> None:
    engine = FakeEngine()
    cached = CachedEngine(engine, LocalScores(tmp_path, "logit"), UsageTracker(), UnansweredPrompts())
    progress = Progress("scoring", 1)
    request = ScoreRequest((Message("user", "?"),), ("A", "B"), answer_so_far="Well, ")
    with pytest.raises(ModelError, match=r"item i1: engine fake cannot score what follows the beginning of an answer"):
        cached.ask([request], ["item i1"], progress, lambda scored: scored)
    assert engine.asked == 0
