"""The Batch API: requests as files, replies within a day, at a lower price.

A batch is paid for once it runs, so it is noted in the store before it is created, and a later job takes up whatever an
earlier one left: it finds the batch by the note's id in the batch's metadata.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import openai
from mjd.config import OpenAi
from mjd.llm.base import Usage
from mjd.llm.ledger import Batch, Ledger
from mjd.llm.openai_replies import ENDPOINT, UnreadableReplyError, most_usage, read_usage

log = logging.getLogger(__name__)

_METADATA = "mjd_batch"
_ENDED = ("completed", "failed", "expired", "cancelled")
# A reservation of a batch lapses after the API's window of a day.
_WINDOW_SECONDS = 26 * 3600.0


class BatchError(Exception):
    """One request of a batch that was not answered."""


def run_batches(
    client: openai.OpenAI, bodies: Mapping[str, dict[str, Any]], settings: OpenAi, ledger: Ledger
) -> Iterator[tuple[str, Mapping[str, Any] | BatchError]]:
    """(key, reply or error) for every request, batch by batch as they end.

    Args:
        bodies: request bodies by request key.

    Raises:
        BudgetError: a batch could cross the budget; batches under way are waited for first.
        openai.OpenAIError: the endpoint refuses.
    """
    waiting = dict(bodies)
    under_way: dict[str, Batch] = {}
    for batch in _left_behind(client, ledger, settings.base_url, waiting):
        under_way[batch.id] = batch
        for key in batch.keys:
            waiting.pop(key, None)
    stop: Exception | None = None
    try:
        for part in _parts(list(waiting), settings.batch_size):
            sent = _submit(client, {key: waiting[key] for key in part}, settings, ledger)
            under_way[sent.id] = sent
    except Exception as error:  # wait for what is under way: it is paid for
        stop = error
    while under_way:
        for batch in list(under_way.values()):
            state = client.batches.retrieve(str(batch.server_id))
            if state.status in _ENDED:
                yield from _replies(client, state, batch, bodies, ledger)
                del under_way[batch.id]
                ledger.close_batch(batch)
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


def _parts(keys: Sequence[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(keys), size):
        yield list(keys[start : start + size])


def _submit(client: openai.OpenAI, bodies: Mapping[str, dict[str, Any]], settings: OpenAi, ledger: Ledger) -> Batch:
    """Create a batch, within the budget."""
    most = [most_usage(body, settings) for body in bodies.values()]
    whole = Usage(sum(usage.prompt_tokens for usage in most), sum(usage.completion_tokens for usage in most))
    lines = [
        json.dumps({"custom_id": key, "method": "POST", "url": ENDPOINT, "body": body}) for key, body in bodies.items()
    ]
    batch = ledger.intend_batch(settings.base_url, list(bodies), whole, _WINDOW_SECONDS)
    try:
        file = client.files.create(file=("mjd.jsonl", "\n".join(lines).encode()), purpose="batch")
        created = client.with_options(max_retries=0).batches.create(
            input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h", metadata={_METADATA: batch.id}
        )
    except openai.APIStatusError as error:
        if error.status_code < 500:  # refused; after any other error it may run all the same
            ledger.close_batch(batch)
        raise
    log.info("batch %s: %d requests", created.id, len(bodies))
    return ledger.batch_created(batch, created.id)


def _replies(
    client: openai.OpenAI, state: Any, batch: Batch, wanted: Mapping[str, Any], ledger: Ledger
) -> Iterator[tuple[str, Mapping[str, Any] | BatchError]]:
    """Replies of a batch that ended to the wanted requests, and errors of those that it did not answer.

    All of its replies are booked.
    """
    lines: list[dict[str, Any]] = []
    for file_id in (state.output_file_id, state.error_file_id):
        if file_id:
            lines += [json.loads(line) for line in client.files.content(file_id).text.splitlines() if line.strip()]
    unanswered = set(batch.keys)
    for line in lines:
        key = line["custom_id"]
        if key not in unanswered:
            continue
        unanswered.discard(key)
        found = _booked(line, str(state.status), ledger)
        if key in wanted:
            yield key, found
    for key in unanswered.intersection(wanted):
        yield key, BatchError(f"batch {state.id} ended as {state.status} without a reply")


def _booked(line: Mapping[str, Any], status: str, ledger: Ledger) -> Mapping[str, Any] | BatchError:
    """The reply on a line of a batch's results, booked; else its error."""
    response = line.get("response") or {}
    reply = response.get("body")
    if response.get("status_code") != 200 or not isinstance(reply, dict):
        return BatchError(str(line.get("error") or reply or status))
    try:
        ledger.book(read_usage(reply), batch=True)
    except UnreadableReplyError as error:
        return BatchError(str(error))
    return reply
