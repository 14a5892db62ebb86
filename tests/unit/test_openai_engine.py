"""The engine openai against a small local server: money, waits and replies that no real server gives on demand."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from mjd.config import Llm, Prices
from mjd.errors import BudgetError, ModelError
from mjd.llm.base import Generate, Message, Score, Unanswered, Workplace
from mjd.llm.ledger import Ledger
from mjd.llm.openai_engine import OpenAiEngine
from mjd.llm.store import Store
from tests.openai.batch_server import BatchServer

# (status, body, headers) of the n-th request, n from 0.
Answer = tuple[int, dict[str, Any], dict[str, str]]
ASKED = [Score((Message("user", f"Which one? {i}"),), ("A", "B")) for i in range(4)]
DOLLAR_A_TOKEN = Prices(input=1e6, output=1e6)


def completion(prompt_tokens: int = 50, finish_reason: str = "length", logprobs: bool = True) -> Answer:
    top = [{"token": token, "logprob": -1.0, "bytes": None} for token in "AB"]
    listed = {"content": [{"token": "A", "logprob": -1.0, "bytes": None, "top_logprobs": top}]} if logprobs else None
    message = {"role": "assistant", "content": "A"}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason, "logprobs": listed}
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": 1}
    return 200, {"model": "m", "choices": [choice], "usage": usage}, {}


class Handler(BaseHTTPRequestHandler):
    server: Site

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        status, values, headers = self.server.answer(self.server.count())
        body = json.dumps(values).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Site(ThreadingHTTPServer):
    """A server whose `answer` gives its replies; `n` counts the requests."""

    daemon_threads = True
    answer: Callable[[int], Answer] = staticmethod(lambda n: completion())

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.n, self._lock = 0, threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def count(self) -> int:
        with self._lock:
            self.n += 1
            return self.n - 1


@pytest.fixture
def site() -> Iterator[Site]:
    found = Site()
    yield found
    found.shutdown()
    found.server_close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "answers.sqlite") as found:
        yield found


def engine(site: Site, store: Store, budget: float | None = None, **settings: Any) -> OpenAiEngine:
    values = {"base_url": site.url, "api_key_env": None, "max_wait": 0.01, "concurrency": 1, **settings}
    llm = Llm(title="x", model="m", engine="openai", openai=values)
    return OpenAiEngine("", llm, "api:m", Workplace(ledger=Ledger(store, "api:m", DOLLAR_A_TOKEN, budget)))


def test_every_try_that_is_billed_keeps_to_the_budget(site: Site, store: Store) -> None:
    site.answer = lambda n: completion(logprobs=n == 0)  # from the second request on, no reply is of use
    asking = engine(site, store, budget=400)
    with pytest.raises(BudgetError, match=r"budget of 400\.00 USD could be crossed"):
        list(asking.score(ASKED))
    assert 51 < asking.ledger.spent() <= 400
    assert asking.ledger.spent() == 51 * site.n


def test_a_withheld_answer_is_reported_and_not_asked_for_again(site: Site, store: Store) -> None:
    site.answer = lambda n: completion(finish_reason="content_filter" if n == 1 else "stop")
    asked = [Generate(request.messages, 8) for request in ASKED]
    found = dict(engine(site, store).generate(asked))
    assert [i for i, one in found.items() if isinstance(one, Unanswered) and "content_filter" in one.reason] == [1]
    assert (site.n, len(found), len(store)) == (len(ASKED), len(ASKED), len(ASKED) - 1)


def count(store: Store, table: str) -> int:
    return int(store.db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def test_a_batch_that_is_taken_up_is_booked_whole_and_its_reservation_ends(
    site: Site, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the next job asks for less."""
    monkeypatch.setattr("tests.openai.batch_server.forward", lambda *_: (200, json.dumps(completion()[1]).encode()))
    server = BatchServer(site.url)
    site.url, server.holds = server.url, True
    with monkeypatch.context() as patch:
        patch.setattr(time, "sleep", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            list(engine(site, store, budget=500, batch=True).score(ASKED))
    assert (count(store, "batches"), count(store, "reserved")) == (1, 1)
    server.holds = False
    second = engine(site, store, budget=500, batch=True)
    assert len(list(second.score(ASKED[1:3]))) == 2
    assert (second.ledger.requests, len(server.batches)) == (len(ASKED) - 1, 1)
    assert (count(store, "batches"), count(store, "reserved")) == (0, 0)
    server.shutdown()
    server.server_close()


def test_a_refused_batch_is_forgotten(site: Site, store: Store) -> None:
    file = {"id": "f", "object": "file", "bytes": 1, "created_at": 1, "filename": "x", "purpose": "batch"}
    replies = [completion(), (200, file, {}), (400, {"error": {"message": "no"}}, {})]  # to the probe first
    site.answer = lambda n: replies[n]
    with pytest.raises(ModelError, match="refused a request"):
        list(engine(site, store, budget=500, batch=True).score(ASKED))
    assert (count(store, "batches"), count(store, "reserved")) == (0, 0)


def test_batches_are_cut_by_batch_size_alone(site: Site, store: Store) -> None:
    assert engine(site, store, batch=True).prompts_per_call is None
    assert engine(site, store).prompts_per_call == 2048


def test_a_retry_after_beyond_retry_seconds_is_not_waited_for(site: Site, store: Store) -> None:
    site.answer = lambda n: (429, {"error": {"message": "daily limit"}}, {"Retry-After": "30"})
    begun = time.monotonic()
    with pytest.raises(ModelError, match=r"failed for good.*daily limit"):
        list(engine(site, store, retry_seconds=1).score(ASKED[:1]))
    assert (site.n, time.monotonic() - begun < 10) == (1, True)


def test_waiting_for_the_limits_is_no_trying(site: Site, store: Store) -> None:
    """Each try waits longer than a request may be tried."""
    site.answer = lambda n: completion() if n == 2 else (500, {"error": {"message": "a hiccup"}}, {})
    asked = engine(site, store, requests_per_minute=60, retry_seconds=0.9)
    assert len(list(asked.score(ASKED[:1]))) == 1


def test_a_key_with_other_characters_is_an_error_that_does_not_show_it(
    site: Site, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MJD_TEST_KEY", "sk-secret\u201d")
    with pytest.raises(ModelError, match=r"MJD_TEST_KEY holds characters that no API key has") as error:
        list(engine(site, store, api_key_env="MJD_TEST_KEY").score(ASKED))
    assert "sk-secret" not in str(error.value)
    assert site.n == 0
