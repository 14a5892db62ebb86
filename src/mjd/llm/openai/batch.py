"""The Batch API: requests as files, replies within a day, at a lower price.

A batch is paid for once it runs, so it is noted in the store before it is created, and a later job takes up whatever an
earlier one left: it finds the batch by the note's id in the batch's metadata. When it has ended, all of its replies are
booked and stored, and the note removed, in one transaction.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import openai
from mjd.config.llms import OpenAi
from mjd.llm.base import Generated, Scored, Unanswered, Usage, reply_fields
from mjd.llm.openai.errors import ReplyError, is_passing, one_line
from mjd.llm.openai.replies import ENDPOINT, most_usage
from mjd.llm.openai.requests import Asked, Response, Unclear
from mjd.llm.store.ledger import Batch, Booking, Ledger

if TYPE_CHECKING:
    from mjd.llm.openai.engine import OpenAiEngine

log = logging.getLogger(__name__)

_METADATA = "mjd_batch"
_ENDED = ("completed", "failed", "expired", "cancelled")
# A reservation of a batch lapses after the API's window of a day.
_WINDOW_SECONDS = 26 * 3600.0
# Names of the parameters of requests, as errors name them.
_PARAMETERS: dict[str, Any] = dict.fromkeys(("messages", "logprobs", "top_logprobs", "temperature", "max_tokens"))


class LineError(Exception):
    """A line of a batch's results that refuses its request as an HTTP status would; has that as `status_code`."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(f"Error code: {status} - {body}")
        self.status_code = status


class _Line(NamedTuple):
    """What a line of a batch's results comes to: its key, the response, and the booking of a reply that is paid for.

    `end` is the error that ends the job: the line shows that no other request would fare better.
    """

    key: str
    found: Response | Unclear
    booking: Booking | None = None
    end: Exception | None = None


def holds_open_batch(ledger: Ledger, endpoint: str, keys: Sequence[str]) -> bool:
    """True when a batch under way holds one of these requests."""
    wanted = set(keys)
    return any(wanted.intersection(batch.keys) for batch in ledger.open_batches(endpoint))


def run_batches(
    client: openai.OpenAI, engine: OpenAiEngine, asked: Sequence[Asked]
) -> Iterator[tuple[str, Response | Unclear]]:
    """(key, response) for every request, batch by batch as they end.

    Raises:
        BudgetError: a batch could cross the budget; batches under way are waited for first.
        ModelError: the replies show that the endpoint refuses all requests, or cannot score.
        openai.OpenAIError: the endpoint refuses.
    """
    settings, ledger = engine.settings, engine.ledger
    wanted = {one.key: one for one in asked}
    waiting = dict(wanted)
    under_way: dict[str, Batch] = {}
    for batch in _left_behind(client, ledger, settings.base_url, waiting):
        under_way[batch.id] = batch
        for key in batch.keys:
            waiting.pop(key, None)
    stop: Exception | None = None
    try:
        for part in _parts(list(waiting.values()), settings.batch_size):
            sent = _submit(client, part, settings, ledger)
            under_way[sent.id] = sent
    except Exception as error:  # wait for what is under way: it is paid for
        stop = error
    while under_way:
        for batch in list(under_way.values()):
            state = client.batches.retrieve(str(batch.server_id))
            if state.status in _ENDED:
                lines = _settle(client, state, batch, wanted, engine)
                del under_way[batch.id]
                stop = stop or next((line.end for line in lines if line.end), None)
                yield from ((line.key, line.found) for line in lines if line.key in wanted and not line.end)
        if under_way:
            log.info("waiting for %d batch(es)", len(under_way))
            time.sleep(settings.batch_poll)
    if stop:
        raise stop


def _left_behind(client: openai.OpenAI, ledger: Ledger, endpoint: str, wanted: Mapping[str, Any]) -> Iterator[Batch]:
    """Batches of a job that was stopped, as far as they hold a wanted request."""
    for batch in ledger.open_batches(endpoint):
        if not any(key in wanted for key in batch.keys):
            continue
        if batch.server_id is None:
            created = [found for found in client.batches.list() if (found.metadata or {}).get(_METADATA) == batch.id]
            if not created:
                ledger.close_batch(batch)
                continue
            batch = ledger.batch_created(batch, created[0].id)
        log.info("taking up batch %s of %d requests, sent by an earlier job", batch.server_id, len(batch.keys))
        yield batch


def _parts(asked: Sequence[Asked], size: int) -> Iterator[Sequence[Asked]]:
    for start in range(0, len(asked), size):
        yield asked[start : start + size]


def _submit(client: openai.OpenAI, asked: Sequence[Asked], settings: OpenAi, ledger: Ledger) -> Batch:
    """Create a batch, within the budget."""
    most = [most_usage(one.body, settings) for one in asked]
    whole = Usage(sum(usage.prompt_tokens for usage in most), sum(usage.completion_tokens for usage in most))
    lines = [json.dumps({"custom_id": one.key, "method": "POST", "url": ENDPOINT, "body": one.body}) for one in asked]
    requests = {one.key: one.record for one in asked}
    batch = ledger.intend_batch(settings.base_url, list(requests), whole, _WINDOW_SECONDS, requests)
    try:
        file = client.files.create(file=("mjd.jsonl", "\n".join(lines).encode()), purpose="batch")
        created = client.with_options(max_retries=0).batches.create(
            input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h", metadata={_METADATA: batch.id}
        )
    except openai.APIStatusError as error:
        if error.status_code < 500:  # refused; after any other error it may run all the same
            ledger.close_batch(batch)
        raise
    log.info("batch %s: %d requests", created.id, len(asked))
    return ledger.batch_created(batch, created.id)


def _settle(
    client: openai.OpenAI, state: Any, batch: Batch, wanted: Mapping[str, Asked], engine: OpenAiEngine
) -> list[_Line]:
    """What a batch that ended comes to: all of its replies booked, all usable ones stored, the batch closed.

    Replies to requests of other jobs are stored too: those find them.
    """
    records = {**batch.requests, **{key: one.record for key, one in wanted.items()}}
    keys, lines = set(batch.keys), dict[str, dict[str, Any]]()
    for line in _lines(client, state):
        name = line.get("custom_id")
        if isinstance(name, str) and name in keys:
            lines.setdefault(name, line)
    found = {key: _read(line, records.get(key), engine) for key, line in lines.items()}
    # That the model lists no letter may be said of the first line, and disproved by a later one.
    found |= {key: _read(lines[key], records.get(key), engine) for key, line in found.items() if line.end}
    stored = [
        (key, records[key], reply_fields(line.found))
        for key, line in found.items()
        if isinstance(line.found, Generated | Scored)
    ]
    engine.ledger.close_batch(batch, [line.booking for line in found.values() if line.booking], stored)
    said = f"batch {state.id} ended as {state.status} without a reply"
    if errors := getattr(getattr(state, "errors", None), "data", None):
        said += f" ({one_line('; '.join(str(error.message) for error in errors), '')})"
    missing = [key for key in batch.keys if key not in found]
    return [*found.values(), *(_Line(key, Unanswered(said, is_final=False)) for key in missing)]


def _lines(client: openai.OpenAI, state: Any) -> Iterator[dict[str, Any]]:
    """The lines of a batch's results; one that is no JSON object is left out."""
    for file_id in (state.output_file_id, state.error_file_id):
        # Lines end with line feeds alone: answers may hold other line breaks, such as U+2028, as they are.
        for text in client.files.content(file_id).content.split(b"\n") if file_id else []:
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                line = None
            if isinstance(line, dict):
                yield line
            elif text.strip():
                log.warning("batch %s: a line of its results is no JSON: %.100s", state.id, text)


def _read(line: Mapping[str, Any], record: dict[str, Any] | None, engine: OpenAiEngine) -> _Line:
    """What one line comes to. Without its request (a batch of an earlier version) a reply is booked alone."""
    key, response = str(line["custom_id"]), line.get("response")
    response = response if isinstance(response, Mapping) else {}
    status, reply = response.get("status_code"), response.get("body")
    if isinstance(status, str) and status.isdecimal():
        status = int(status)
    if status is None and isinstance(reply, Mapping) and "choices" in reply:
        status = 200
    if status != 200:
        said = line.get("error") or reply
        return _unanswered(key, status, said, reply, Asked(key, record or {}, _PARAMETERS), engine)
    usage, estimated = engine.usage(reply, {"messages": (record or {}).get("messages", [])})
    booking = Booking(usage, estimated)
    if record is None:
        return _Line(key, Unanswered("its request is not known", is_final=False), booking)
    try:
        return _Line(key, engine.read(record, reply, usage), booking)
    except ReplyError as error:
        return _Line(key, Unanswered(one_line(error, "")), booking, engine.ending(error, record))


def _unanswered(key: str, status: Any, said: Any, reply: Any, asked: Asked, engine: OpenAiEngine) -> _Line:
    """A request that a batch did not answer: refused as alone it would be, or not looked at."""
    reason = one_line(said, "")
    if not isinstance(status, int) or is_passing(status):
        return _Line(key, Unanswered(reason, is_final=False))
    error = LineError(status, reply)
    whom = engine.refusal_concerns(status, reply, asked)
    if whom == "job":
        return _Line(key, Unanswered(reason), end=engine.refused(error, ""))
    if whom == "either":
        return _Line(key, Unclear(reason, error))
    return _Line(key, Unanswered(f"the endpoint refuses this prompt: {reason}"))
