"""The engine openai against a small local server: money, waits and replies that no real server gives on demand."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from mjd.config.llms import Llm, Prices
from mjd.errors import BudgetError, ModelError
from mjd.llm.base import Generate, Message, Score, Unanswered, Workplace, request_key
from mjd.llm.openai.engine import OpenAiEngine
from mjd.llm.store.ledger import Ledger
from mjd.llm.store.replies import Store
from tests.openai.batch_server import BatchServer

# (status, body, headers) of the n-th request, n from 0.
Answer = tuple[int, Any, dict[str, str]]
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
        asked = self.rfile.read(int(self.headers["Content-Length"]))
        status, values, headers = self.server.reply_to(asked)
        body = (values if isinstance(values, str) else json.dumps(values)).encode()
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
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def reply_to(self, body: bytes) -> Answer:
        return self.answer(self.count())

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


@pytest.mark.slow
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


# -- which refusal, which reply, ends what -----------------------------------------------------------------------------

MANY = [Score((Message("user", f"Which one? {i}"),), ("A", "B")) for i in range(30)]
WHY = [Generate(request.messages, 8) for request in MANY]
FILTERED = {"error": {"message": "filtered", "code": "content_filter", "param": "prompt"}}
UNKNOWN = {"error": {"message": "no"}}


class Reading(Site):
    """A site whose answer depends on what is asked: `refuses` maps a text to a reply; bodies are kept."""

    def __init__(self, refuses: dict[str, Answer]) -> None:
        super().__init__()
        self.refuses = refuses
        self.bodies: list[dict[str, Any]] = []

    def reply_to(self, body: bytes) -> Answer:
        self.bodies.append(json.loads(body))
        text = self.bodies[-1]["messages"][-1]["content"]
        return next((reply for part, reply in self.refuses.items() if part in text), self.answer(self.count()))


@pytest.fixture
def reading() -> Iterator[Reading]:
    found = Reading({})
    yield found
    found.shutdown()
    found.server_close()


def unanswered(found: dict[int, Any]) -> list[int]:
    return sorted(i for i, one in found.items() if isinstance(one, Unanswered))


@pytest.mark.parametrize("body", [FILTERED, UNKNOWN])
@pytest.mark.parametrize("asked", [MANY, WHY])
def test_refused_prompts_do_not_end_the_job(
    reading: Reading, store: Store, body: dict[str, Any], asked: list[Any]
) -> None:
    """A known code, or none: others are answered."""
    reading.refuses = {"? 1": (400, body, {})}
    engine_ = engine(reading, store)
    found = dict(engine_.score(asked) if asked is MANY else engine_.generate(asked))
    assert unanswered(found) == [1, *range(10, 20)]
    assert (len(found), len(store), len(reading.bodies)) == (30, 19, 30)
    assert engine_.ledger.requests == 19


def test_a_parameter_that_is_refused_for_one_prompt_is_the_prompts(reading: Reading, store: Store) -> None:
    """All requests have the same parameters, and the others are answered."""
    reading.refuses = {"? 1": (400, {"error": {"message": "bad", "code": "invalid_value", "param": "max_tokens"}}, {})}
    assert unanswered(dict(engine(reading, store).score(MANY))) == [1, *range(10, 20)]


def test_a_first_prompt_that_is_refused_does_not_end_the_job(reading: Reading, store: Store) -> None:
    reading.refuses = {"? 0": (400, UNKNOWN, {})}
    assert unanswered(dict(engine(reading, store).score(MANY))) == [0]


def test_only_refused_prompts_on_a_rerun_are_still_the_prompts(reading: Reading, store: Store) -> None:
    """The endpoint has answered before: the message must not blame base_url."""
    list(engine(reading, store).score(MANY[:2]))
    reading.refuses = {"": (400, UNKNOWN, {})}
    assert unanswered(dict(engine(reading, store).score(MANY[2:9]))) == list(range(7))


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "bad key"),
        (403, "no"),
        (404, "no such model"),
        (400, "Unrecognized request argument supplied: top_logprobs"),
    ],
)
def test_a_refusal_of_all_ends_the_job_with_the_first(
    reading: Reading, store: Store, status: int, message: str
) -> None:
    reading.refuses = {"": (status, {"error": {"message": message}}, {})}
    with pytest.raises(ModelError, match=rf"refused a request for m .*{message}"):
        list(engine(reading, store, concurrency=8).score(MANY))
    assert len(reading.bodies) == 1


def test_refusals_without_a_reason_of_all_first_prompts_end_the_job(reading: Reading, store: Store) -> None:
    reading.refuses = {"": (400, UNKNOWN, {})}
    with pytest.raises(ModelError, match=r"refused a request .*chat_template_kwargs, which every request holds"):
        list(engine(reading, store, concurrency=8).score(MANY))
    assert len(reading.bodies) == 5


def test_a_prompt_is_given_up_after_the_paid_tries(reading: Reading, store: Store) -> None:
    reading.refuses = {"? 2": completion(logprobs=False)}
    found = dict(engine(reading, store, paid_tries=4).score(ASKED))
    assert unanswered(found) == [2]
    assert (len(reading.bodies), store.db.execute("SELECT requests FROM spending").fetchone()) == (7, (7,))
    again = dict(engine(reading, store, paid_tries=2).score(ASKED[2:3]))  # asks again, and blames the prompt alone
    assert (unanswered(again), len(reading.bodies)) == ([0], 9)


def test_paid_tries_do_not_count_what_costs_nothing(site: Site, store: Store) -> None:
    site.answer = lambda n: completion() if n == 8 else (503, {"error": {"message": "busy"}}, {})
    assert len(list(engine(site, store, paid_tries=1).score(ASKED[:1]))) == 1
    assert store.db.execute("SELECT requests FROM spending").fetchone() == (1,)


def test_an_endpoint_whose_first_replies_are_all_unusable_is_not_paid_for_the_rest(
    reading: Reading, store: Store
) -> None:
    reading.refuses = {"": completion(finish_reason="content_filter")}
    with pytest.raises(ModelError, match=r"None of the first 10 prompts got a usable reply .*content_filter"):
        list(engine(reading, store).generate(WHY))
    assert len(reading.bodies) == 10


def test_only_unusable_prompts_on_a_rerun_are_still_the_prompts(reading: Reading, store: Store) -> None:
    """A content filter that withholds all orders of one item: `unanswered: drop` must get past it."""
    list(engine(reading, store).generate(WHY[:2]))
    reading.refuses = {"": completion(finish_reason="content_filter")}
    assert unanswered(dict(engine(reading, store).generate(WHY[2:]))) == list(range(28))


def test_a_reply_without_usage_is_booked_as_an_estimate(reading: Reading, store: Store) -> None:
    status, whole, headers = completion()
    reading.refuses = {"": (status, {name: whole[name] for name in ("model", "choices")}, headers)}
    asking = engine(reading, store)
    asking.count_tokens = len
    list(asking.score(ASKED))
    tokens = len(ASKED) * (len("Which one? 0") + 8 + 1)
    assert store.db.execute("SELECT usd, estimated FROM spending").fetchone() == (tokens, len(ASKED))
    assert (asking.report()["estimated_requests"], "4 replies estimated" in asking.note()) == (4, True)


def test_an_estimate_without_a_tokenizer_is_at_the_rate_of_the_replies_that_have_usage(
    reading: Reading, store: Store
) -> None:
    """The first prompt is answered with usage: 28 tokens for 12 bytes and 8 of the template."""
    _, whole, _ = completion()
    reading.answer = lambda n: completion(prompt_tokens=28)  # type: ignore[method-assign]
    reading.refuses = {"? 2": (200, {name: whole[name] for name in ("model", "choices")}, {})}
    asking = engine(reading, store)
    list(asking.score(ASKED))
    assert (asking.ledger.estimated, asking.ledger.spent()) == (1, 3 * 29 + 28 + 2)  # "A" is 20 / 12 tokens: 2


def test_the_budget_holds_where_no_reply_has_usage(reading: Reading, store: Store) -> None:
    status, whole, headers = completion()
    reading.refuses = {"": (status, {name: whole[name] for name in ("model", "choices")}, headers)}
    with pytest.raises(BudgetError, match=r"budget of 300\.00 USD could be crossed"):
        list(engine(reading, store, budget=300).score(MANY))
    assert 0 < len(store) < len(MANY)


def test_a_reply_that_is_no_json_is_booked(reading: Reading, store: Store) -> None:
    """Whoever sent it computed it."""
    reading.refuses = {"": (200, '{"choices": [', {})}
    found = dict(engine(reading, store).score(ASKED[:1]))
    assert unanswered(found) == [0]
    assert store.db.execute("SELECT requests, estimated FROM spending").fetchone() == (3, 3)


def break_off(exchange: Handler, answer: Answer, seconds: float = 0.0) -> None:
    """Send half of an answer; after some seconds the connection ends."""
    body = json.dumps(answer[1]).encode()
    exchange.send_response(200)
    exchange.send_header("Content-Length", str(len(body)))
    exchange.end_headers()
    exchange.wfile.write(body[: len(body) // 2])
    exchange.wfile.flush()
    time.sleep(seconds)
    exchange.close_connection = True


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0, 1.5])
def test_a_reply_that_breaks_off_is_paid_for_and_tried_as_often_as_paid_tries(
    site: Site, store: Store, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """It was computed; the time limit is one for the whole of it."""

    def cut_off(exchange: Handler) -> None:
        site.count()
        break_off(exchange, completion(), seconds)

    monkeypatch.setattr(Handler, "do_POST", cut_off)
    asking = engine(site, store, paid_tries=2, timeout=1, retry_seconds=30)
    found = dict(asking.score(ASKED[:1]))
    assert "broken off" in found[0].reason  # type: ignore[union-attr]
    assert (site.n, asking.ledger.requests, asking.ledger.estimated) == (2, 2, 2)


def trickle(exchange: Handler) -> None:
    """A reply a byte at a time: no pause is as long as the time limit."""
    body = json.dumps(completion()[1]).encode()
    exchange.send_response(200)
    exchange.send_header("Content-Length", str(len(body)))
    exchange.end_headers()
    with contextlib.suppress(OSError):
        for byte in body:
            exchange.wfile.write(bytes([byte]))
            exchange.wfile.flush()
            time.sleep(0.05)
    exchange.close_connection = True


@pytest.mark.slow
def test_a_reply_that_trickles_in_is_given_up_at_the_time_limit(
    site: Site, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Handler, "do_POST", trickle)
    begun = time.monotonic()
    found = dict(engine(site, store, paid_tries=1, timeout=1).score(ASKED[:1]))
    assert time.monotonic() - begun < 8
    assert isinstance(found[0], Unanswered)


@pytest.mark.parametrize(
    "usage", [{"prompt_tokens": 10**400}, {"prompt_tokens": 1e30}, {"prompt_tokens": 50, "total_tokens": 1e25}]
)
def test_a_number_of_tokens_that_is_none_costs_no_reply(reading: Reading, store: Store, usage: dict[str, Any]) -> None:
    status, whole, headers = completion()
    reading.refuses = {"? 1": (status, {**whole, "usage": usage}, headers)}
    asking = engine(reading, store, concurrency=4)
    found = dict(asking.score(ASKED))
    assert (unanswered(found), len(store), asking.ledger.requests) == ([], 4, 4)


@pytest.mark.parametrize("body", [{"error": "too long"}, {"detail": [{"msg": "too long"}]}, "too long"])
def test_a_refusal_is_shown_with_the_words_of_its_body(reading: Reading, store: Store, body: Any) -> None:
    """In whatever dialect."""
    reading.refuses = {"? 1": (422, body, {})}
    assert "too long" in dict(engine(reading, store).score(ASKED))[1].reason  # type: ignore[union-attr]


def test_a_refusal_names_no_key_variable_that_is_not_set(reading: Reading, store: Store) -> None:
    reading.refuses = {"": (402, {"error": {"message": "pay"}}, {})}
    with pytest.raises(ModelError, match=r"Check base_url, the model's name and the account"):
        list(engine(reading, store).score(ASKED))


@pytest.mark.parametrize("name", ["code", "type"])
def test_a_used_up_account_is_not_tried_again(reading: Reading, store: Store, name: str) -> None:
    reading.refuses = {"": (429, {"error": {"message": "no", name: "insufficient_quota"}}, {})}
    with pytest.raises(ModelError, match="refused a request"):
        list(engine(reading, store).score(ASKED))
    assert len(reading.bodies) == 1


# -- models that think first -------------------------------------------------------------------------------------------


def thinking() -> Answer:
    status, reply, headers = completion()
    first = reply["choices"][0]["logprobs"]["content"][0]
    first |= {"token": "<think>", "logprob": -0.02}
    first["top_logprobs"] = [{"token": "<think>", "logprob": -0.02}, {"token": "Okay", "logprob": -4.0}]
    return status, reply, headers


def test_a_model_that_thinks_first_costs_one_request(reading: Reading, store: Store) -> None:
    reading.refuses = {"": thinking()}
    with pytest.raises(ModelError, match=r"no option letter .*'<think>' 98\.0%.*enable_thinking: false") as error:
        list(engine(reading, store, concurrency=8).score(MANY))
    assert "uniform" in str(error.value)
    assert (len(reading.bodies), len(store)) == (1, 0)
    assert store.db.execute("SELECT requests FROM spending").fetchone() == (1,)


def test_a_model_that_thinks_first_costs_one_request_in_batch_mode(reading: Reading, store: Store) -> None:
    reading.refuses = {"": thinking()}
    with pytest.raises(ModelError, match="no option letter"):
        list(engine(reading, store, batch=True).score(MANY))
    assert (len(reading.bodies), count(store, "batches")) == (1, 0)


def test_a_model_that_thinks_first_though_letters_are_listed_costs_one_request(reading: Reading, store: Store) -> None:
    """Long lists hold the letters too, with next to no probability."""
    status, whole, headers = thinking()
    listed = whole["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    listed += [{"token": token, "logprob": -12.0} for token in "AB"]
    reading.refuses = {"": (status, whole, headers)}
    with pytest.raises(ModelError, match=r"reasons before it answers: its first token is '<think>'"):
        list(engine(reading, store, concurrency=8).score(MANY))
    assert (len(reading.bodies), len(store)) == (1, 0)


def test_a_later_prompt_without_letters_is_a_bounded_score(reading: Reading, store: Store) -> None:
    reading.refuses = {"? 2": thinking()}
    found = dict(engine(reading, store).score(ASKED))
    assert found[2].scores == (None, None)  # type: ignore[union-attr]


def test_a_prompt_without_letters_on_a_rerun_is_a_bounded_score(reading: Reading, store: Store) -> None:
    """The model is known to list them: the first request sent is not the first of the data set."""
    list(engine(reading, store).score(ASKED[:2]))
    reading.refuses = {"": thinking()}
    found = dict(engine(reading, store).score(ASKED[2:]))
    assert [one.scores for one in found.values()] == [(None, None)] * 2  # type: ignore[union-attr]


def test_template_variables_reach_the_endpoint(reading: Reading, store: Store) -> None:
    llm = Llm(
        title="x", model="m", engine="openai", openai={"base_url": reading.url, "api_key_env": None},
        chat_template_kwargs={"enable_thinking": False},
    )  # fmt: skip
    asking = OpenAiEngine("", llm, "api:m", Workplace(ledger=Ledger(store, "api:m", None, None)))
    list(asking.score(ASKED[:1]))
    list(asking.generate(WHY[:1]))
    assert [body["chat_template_kwargs"] for body in reading.bodies] == [{"enable_thinking": False}] * 2


def test_markers_are_neutralised_counted_and_keep_the_keys(
    reading: Reading, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    bad = Score((Message("user", "Say <|im_end|> now"),), ("A", "B"))
    asking = engine(reading, store)
    list(asking.score([ASKED[0], bad]))
    assert [body["messages"][0]["content"] for body in reading.bodies][1] == "Say < |im_end|> now"
    assert asking.report()["neutralised_prompts"] == 1
    assert "1 prompts hold chat-template markers, such as '<|im_end|>'" in caplog.text
    assert request_key(asking.info, bad) in {key for key, *_ in store.rows()}


# -- nothing paid is lost ----------------------------------------------------------------------------------------------


def test_equal_requests_are_paid_for_once(reading: Reading, store: Store) -> None:
    found = dict(engine(reading, store).score([ASKED[0], ASKED[1], ASKED[0]]))
    assert (sorted(found), len(reading.bodies)) == ([0, 1, 2], 2)


def slow_then_interrupt(url: str, path: str) -> None:
    """A job that is interrupted while its replies are under way."""
    with Store(path) as store:
        llm = Llm(
            title="x", model="m", engine="openai", openai={"base_url": url, "api_key_env": None, "concurrency": 4}
        )
        asking = OpenAiEngine("", llm, "api:m", Workplace(ledger=Ledger(store, "api:m", DOLLAR_A_TOKEN, 1e6)))
        list(asking.score(MANY))


@pytest.mark.slow
@pytest.mark.parametrize("numbers", [[signal.SIGINT], [signal.SIGTERM], [signal.SIGINT, signal.SIGINT, signal.SIGTERM]])
def test_an_interrupt_stores_the_replies_under_way(site: Site, tmp_path: Path, numbers: list[int]) -> None:
    """A terminal's Ctrl-C reaches the job together with a signal of Snakemake: that is one interrupt."""

    def answer(n: int) -> Answer:
        if n:
            time.sleep(1.5)
        return completion()

    site.answer = answer  # type: ignore[method-assign]
    path = tmp_path / "answers.sqlite"
    job = multiprocessing.get_context("spawn").Process(target=slow_then_interrupt, args=(site.url, str(path)))
    job.start()
    deadline = time.monotonic() + 60
    while site.n < 3:
        assert time.monotonic() < deadline, "nothing was asked"
        time.sleep(0.02)
    for number in numbers:
        os.kill(job.pid or 0, number)
        time.sleep(0.2)
    job.join(30)
    assert job.exitcode not in (0, None)
    with Store(path) as store:
        assert len(store) == site.n < len(MANY)
        assert store.db.execute("SELECT requests FROM spending").fetchone() == (site.n,)
        assert count(store, "reserved") == 0


@pytest.fixture
def batch_server(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[BatchServer]:
    monkeypatch.setattr("tests.openai.batch_server.forward", lambda *_: (200, json.dumps(completion()[1]).encode()))
    found = BatchServer(site.url)
    site.url = found.url
    yield found
    found.shutdown()
    found.server_close()


def test_a_batch_with_unusable_lines_is_booked_whole_kept_and_closed(
    site: Site, store: Store, batch_server: BatchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: Iterator[Any] = iter(
        [
            completion()[:2],  # the probe
            completion(finish_reason="eos")[:2],
            completion(finish_reason="content_filter")[:2],
            (400, FILTERED),
            (500, {"error": {"message": "a hiccup"}}),
            (200, {name: completion()[1][name] for name in ("model", "choices")}),
        ]
    )

    def forward(*_: Any) -> tuple[int, bytes]:
        status, reply = next(lines)
        return status, json.dumps(reply).encode()

    monkeypatch.setattr("tests.openai.batch_server.forward", forward)
    found = dict(engine(site, store, budget=10_000, batch=True, batch_poll=0.05).score(MANY[:6]))
    assert unanswered(found) == [2, 3, 4]
    assert [found[i].is_final for i in (2, 3, 4)] == [True, True, False]
    assert len(store) == 3
    assert store.db.execute("SELECT requests, estimated FROM spending").fetchone() == (4, 1)
    assert (count(store, "batches"), count(store, "reserved")) == (0, 0)


def test_a_batch_with_lines_of_any_form_keeps_every_reply(
    site: Site, store: Store, batch_server: BatchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers with U+2028, which ends lines elsewhere, foreign and repeated lines, statuses that are texts."""
    good = completion()[1]
    good["choices"][0]["message"]["content"] = "A\u2028B\x85"

    def results(server: BatchServer, batch: dict[str, Any]) -> None:
        keys = [json.loads(line)["custom_id"] for line in server.files[batch["input_file_id"]].splitlines()]
        lines: list[Any] = [{"custom_id": key, "response": {"status_code": 200, "body": good}} for key in keys]
        lines[1]["response"]["status_code"] = "200"
        del lines[2]["response"]["status_code"]
        lines[3]["response"] = "expired"
        lines += [
            lines[0],
            {"custom_id": ["x"]},
            {"custom_id": "foreign", "response": {"status_code": 200, "body": {}}},
            5,
        ]
        text = "\r\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
        batch |= {"output_file_id": server.add_file(text.encode())["id"], "status": "completed"}

    monkeypatch.setattr(BatchServer, "_work_off", results)
    found = dict(engine(site, store, batch=True, batch_poll=0.05).generate(WHY[:4]))
    assert unanswered(found) == [3]
    assert found[3].is_final is False
    assert (len(store), count(store, "batches")) == (3, 0)
    assert store.db.execute("SELECT requests FROM spending").fetchone() == (3,)


def test_replies_of_a_batch_that_another_job_asked_for_are_stored(
    site: Site, store: Store, batch_server: BatchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_server.holds = True
    with monkeypatch.context() as patch:
        patch.setattr(time, "sleep", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            list(engine(site, store, batch=True).score(ASKED))
    batch_server.holds = False
    list(engine(site, store, batch=True).score(ASKED[1:2]))
    assert len(store) == len(ASKED)


def test_a_job_that_dies_while_it_reads_a_batch_books_it_once(
    site: Site, store: Store, batch_server: BatchServer
) -> None:
    replies = engine(site, store, batch=True, batch_poll=0.05).score(ASKED)
    next(replies), next(replies)
    replies.close()  # type: ignore[attr-defined]
    assert (len(store), count(store, "batches")) == (len(ASKED), 0)
    assert store.db.execute("SELECT requests FROM spending").fetchone() == (len(ASKED),)
