"""The engine openai against a real vLLM server, straight and through a proxy that makes faults."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
import pytest

from mjd.config.llms import Prices
from mjd.config.schema import Config
from mjd.data.items import train_items
from mjd.data.loaders import load_items
from mjd.errors import BudgetError, ModelError
from mjd.estimators.first_token import score_items
from mjd.estimators.item_prompts import PromptSettings
from mjd.llm.base import GenerateRequest, Scored, ScoreRequest
from mjd.llm.store.paid import PaidReplies
from mjd.llm.store.replies import Store
from mjd.llm.usage import UsageTracker
from tests.conftest import N_ITEMS
from tests.openai.conftest import EngineAt, scored
from tests.openai.servers import FaultProxy, VllmServer

FAULTS = ("rate_limit", "server_error", "time_out", "cut_off", "no_logprobs")
# One dollar a token: prices that make the sums readable.
DOLLAR_A_TOKEN = Prices(input=1e6, output=1e6)


def score_sample(engine: Any, store: Store, sample: Config) -> tuple[Any, UsageTracker]:
    """Score every option order of the first items with their human explanations, through the store."""
    items, explanations = load_items(sample.data.items, sample.task, {}, limit=N_ITEMS)
    settings = PromptSettings(sample.prompts, sample.labels, tuple(sample.task.text_fields), "explicit", 1, 1)
    tracker = UsageTracker()
    return score_items(engine, train_items(items), explanations, settings, PaidReplies(store), tracker), tracker


def test_scores_equal_the_transformers_engines(
    server: VllmServer, engine_at: EngineAt, score_requests: list[ScoreRequest], expected: list[Scored]
) -> None:
    found = scored(engine_at(server.url, merge_variants=False), score_requests)
    logprobs, logits = np.array([one.scores for one in found]), np.array([one.scores for one in expected])
    shift = np.log(np.exp(logits).sum(axis=1)) - np.log([one.mass for one in expected])
    np.testing.assert_allclose(logprobs, logits - shift[:, None], atol=1e-3)
    assert [one.usage.prompt_tokens for one in found] == [one.usage.prompt_tokens for one in expected]


def test_a_letter_beyond_the_most_likely_tokens_has_a_bound_that_holds(
    server: VllmServer, engine_at: EngineAt, score_requests: list[ScoreRequest]
) -> None:
    exact = scored(engine_at(server.url, merge_variants=False), score_requests)
    few = scored(engine_at(server.url, merge_variants=False, top_logprobs=2), score_requests)
    pairs = [
        (one.bound, cut, full)
        for one, whole in zip(few, exact, strict=True)
        for cut, full in zip(one.scores, whole.scores, strict=True)
    ]
    assert any(cut is None for _, cut, _ in pairs)
    assert all(full <= bound if cut is None else abs(full - cut) < 1e-3 for bound, cut, full in pairs)


def test_answers_come_with_their_usage(
    server: VllmServer, engine_at: EngineAt, generate_requests: list[GenerateRequest]
) -> None:
    found = dict(engine_at(server.url).generate(generate_requests))
    assert all(answer.text and 0 < answer.usage.completion_tokens <= 12 for answer in found.values())


def test_every_fault_is_survived_and_nothing_is_paid_twice(
    server: VllmServer, engine_at: EngineAt, store: Store, sample: Config, caplog: pytest.LogCaptureFixture
) -> None:
    proxy, before = FaultProxy(server.url, FAULTS), server.answered()
    with caplog.at_level(logging.INFO):
        scores, tracker = score_sample(engine_at(proxy.url, timeout=8), store, sample)
    assert set(proxy.made) == set(FAULTS)
    assert len(scores) == len(store) == tracker.asked == N_ITEMS * 6
    assert server.answered() - before == N_ITEMS * 6
    assert scores[sample.labels.columns("score")].notna().all(axis=None)
    for reason in ("429", "500", "timed out", "no JSON", "no top_logprobs"):
        assert reason in caplog.text
    again, tracker = score_sample(engine_at(proxy.url), store, sample)
    assert (tracker.asked, tracker.cached, server.answered() - before) == (0, N_ITEMS * 6, N_ITEMS * 6)
    assert again.equals(scores)


def test_retry_after_is_honoured(server: VllmServer, engine_at: EngineAt, score_requests: list[ScoreRequest]) -> None:
    proxy = FaultProxy(server.url, ("rate_limit",))
    pauses: list[float] = []
    engine = engine_at(proxy.url, max_wait=0.01, concurrency=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logging.getLogger("mjd.llm.openai.requests"), "info", lambda text, *a: pauses.append(a[0]))
        scored(engine, score_requests[:4])
    assert len(pauses) == 3
    assert all(1 <= pause <= 1.01 for pause in pauses)


def test_a_request_that_always_fails_is_reported_and_asked_again_alone(
    server: VllmServer, engine_at: EngineAt, store: Store, sample: Config
) -> None:
    items, _ = load_items(sample.data.items, sample.task, {}, limit=N_ITEMS)
    bad = str(train_items(items)[sample.task.text_fields[1]].iloc[1])
    proxy = FaultProxy(server.url, always=bad)
    with pytest.raises(ModelError, match=r"6 of 24 prompts .*failed for good.*hiccup.*run again"):
        score_sample(engine_at(proxy.url, retry_seconds=1), store, sample)
    assert len(store) == (N_ITEMS - 1) * 6
    proxy.always = None
    _, tracker = score_sample(engine_at(proxy.url), store, sample)
    assert (tracker.asked, tracker.cached) == (6, (N_ITEMS - 1) * 6)


def test_an_endpoint_without_logprobs_costs_one_request(
    server: VllmServer, engine_at: EngineAt, store: Store, score_requests: list[ScoreRequest]
) -> None:
    proxy, before = FaultProxy(server.url, strips_logprobs=True), server.answered()
    with pytest.raises(ModelError, match="without top_logprobs, though they were asked for"):
        scored(engine_at(proxy.url), score_requests)
    assert (server.answered() - before, len(store)) == (1, 0)


def test_a_wrong_key_is_an_error_that_does_not_show_it(
    server: VllmServer, engine_at: EngineAt, score_requests: list[ScoreRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MJD_OTHER_KEY", "sk-wrong-and-secret")
    with pytest.raises(ModelError, match=r"refused a request.*401") as error:
        scored(engine_at(server.url, api_key_env="MJD_OTHER_KEY"), score_requests)
    assert "sk-wrong" not in str(error.value)


def test_the_budget_stops_before_it_is_crossed_and_keeps_what_was_paid(
    server: VllmServer, engine_at: EngineAt, store: Store, sample: Config
) -> None:
    budget = 4_000.0
    with pytest.raises(BudgetError, match=r"budget of 4000\.00 USD could be crossed.*kept"):
        score_sample(engine_at(server.url, DOLLAR_A_TOKEN, budget, concurrency=2), store, sample)
    paid = len(store)
    spent = store.db.execute("SELECT usd, requests FROM spending").fetchone()
    assert 0 < paid < N_ITEMS * 6
    assert 0.4 * budget < spent[0] <= budget
    assert spent[1] == paid
    _, tracker = score_sample(engine_at(server.url, DOLLAR_A_TOKEN), store, sample)
    assert (tracker.asked, tracker.cached) == (N_ITEMS * 6 - paid, paid)


def test_limits_per_minute_slow_requests_down(
    server: VllmServer, engine_at: EngineAt, score_requests: list[ScoreRequest]
) -> None:
    tracker = UsageTracker()
    tracker.start()
    for _, one in engine_at(server.url, requests_per_minute=120).score(score_requests[:6]):
        tracker.add(one.usage)
    assert math.isclose(tracker.provenance()["seconds"], 2.5, abs_tol=1.0)
