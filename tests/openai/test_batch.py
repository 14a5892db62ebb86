"""The Batch API, with real replies: the same scores at half the price, and no batch sent twice."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mjd.config.llms import Llm, Prices
from mjd.errors import BudgetError, ModelError
from mjd.llm.base import Score, Scored, Unanswered, Workplace
from mjd.llm.openai.engine import OpenAiEngine
from mjd.llm.store.ledger import Ledger
from mjd.llm.store.replies import Store
from tests.openai.batch_server import BatchServer
from tests.openai.conftest import IDENTITY, EngineAt, scored
from tests.openai.servers import KEY_VARIABLE, VllmServer

BATCH = {"batch": True, "batch_poll": 0.1}
PRICES = Prices(input=2.5, output=10)
N = 6


@pytest.fixture
def batch_server(server: VllmServer) -> Iterator[BatchServer]:
    found = BatchServer(server.url)
    yield found
    found.shutdown()


@pytest.fixture
def asked(score_requests: list[Score]) -> list[Score]:
    return score_requests[:N]


@pytest.fixture(scope="session")
def straight(
    server: VllmServer, key: str, score_requests: list[Score], tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """Scores of the same requests without the Batch API."""
    llm = Llm(
        title="SmolLM2", model="served", engine="openai", openai={"base_url": server.url, "api_key_env": KEY_VARIABLE}
    )
    with Store(tmp_path_factory.mktemp("straight") / "answers.sqlite") as store:
        engine = OpenAiEngine("", llm, IDENTITY, Workplace(ledger=Ledger(store, IDENTITY, PRICES, None)))
        return scored(engine, score_requests[:N]), engine.ledger.usd


def same(found: list[Scored], wanted: list[Scored]) -> bool:
    return bool(np.allclose([one.scores for one in found], [one.scores for one in wanted], atol=1e-3))


def test_scores_are_the_same_at_half_the_price(
    batch_server: BatchServer, engine_at: EngineAt, asked: list[Score], straight: tuple[list[Scored], float]
) -> None:
    engine = engine_at(batch_server.url, PRICES, batch_size=4, **BATCH)
    found = scored(engine, asked)
    assert same(found, straight[0])
    assert len(batch_server.batches) == 2
    probe = PRICES.usd(found[0].usage.prompt_tokens, found[0].usage.completion_tokens)  # sent as an ordinary request
    assert engine.ledger.usd == pytest.approx(probe + (straight[1] - probe) / 2)


def test_a_failed_line_is_reported_and_the_others_are_kept(
    batch_server: BatchServer, engine_at: EngineAt, asked: list[Score]
) -> None:
    batch_server.fails = asked[2].messages[-1].content[-30:].splitlines()[-1]
    n_bad = sum(batch_server.fails in request.messages[-1].content for request in asked[1:])  # the first is the probe
    assert 0 < n_bad < N
    found = dict(engine_at(batch_server.url, **BATCH).score(asked))
    failed = [one for one in found.values() if isinstance(one, Unanswered)]
    assert (len(found), len(failed)) == (N, n_bad)
    assert all("no luck" in one.reason and not one.is_final for one in failed)


def test_a_batch_whose_creation_was_not_confirmed_is_found_again(
    batch_server: BatchServer, server: VllmServer, engine_at: EngineAt, asked: list[Score]
) -> None:
    batch_server.drops_next_creation = True
    before = server.answered()
    with pytest.raises(ModelError, match="refused a request"):
        scored(engine_at(batch_server.url, **BATCH), asked)
    assert len(scored(engine_at(batch_server.url, **BATCH), asked[1:])) == N - 1  # the first, the probe, is stored
    assert (len(batch_server.batches), server.answered() - before) == (1, N)


def send_and_wait(path: Path, url: str, asked: list[Score]) -> None:
    """A job that waits for its batch."""
    llm = Llm(
        title="SmolLM2", model="served", engine="openai", openai={"base_url": url, "api_key_env": KEY_VARIABLE, **BATCH}
    )
    with Store(path) as store:
        engine = OpenAiEngine("", llm, IDENTITY, Workplace(ledger=Ledger(store, IDENTITY, None, None)))
        scored(engine, asked)


def test_a_killed_jobs_batch_is_taken_up(
    batch_server: BatchServer, server: VllmServer, tmp_path: Path, key: str, engine_at: EngineAt, asked: list[Score]
) -> None:
    batch_server.holds, before = True, server.answered()
    path = tmp_path / "answers.sqlite"
    job = multiprocessing.get_context("spawn").Process(target=send_and_wait, args=(path, batch_server.url, asked))
    job.start()
    deadline = time.monotonic() + 60
    noted = "SELECT count(*) FROM batches WHERE server_id IS NOT NULL"
    while not path.exists() or not _count(path, noted):
        assert time.monotonic() < deadline, "no batch was sent"
        time.sleep(0.1)
    os.kill(job.pid or 0, signal.SIGKILL)
    job.join()
    batch_server.holds = False
    assert len(scored(engine_at(batch_server.url, **BATCH), asked[1:])) == N - 1  # the first, the probe, is stored
    assert (len(batch_server.batches), server.answered() - before) == (1, N)
    assert _count(path, "SELECT count(*) FROM batches") == 0


def _count(path: Path, query: str) -> int:
    with Store(path) as store:
        return int(store.db.execute(query).fetchone()[0])


def test_a_batch_beyond_the_budget_is_not_sent(
    batch_server: BatchServer, engine_at: EngineAt, asked: list[Score]
) -> None:
    with pytest.raises(BudgetError, match="could be crossed"):
        scored(engine_at(batch_server.url, PRICES, 1e-6, **BATCH), asked)
    assert batch_server.batches == {}
