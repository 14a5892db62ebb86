"""Asking a generator for explanations: one answer for every item and label, each asked for once."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from mjd.config.explanations import Sampling
from mjd.config.prompts import Prompts
from mjd.labels import LabelSet
from mjd.llm.base import Engine, Generate, Unanswered, reply_fields, request_key
from mjd.llm.store.replies import Store, request_record
from mjd.llm.unanswered import UnansweredPrompts
from mjd.llm.usage import Tally
from mjd.logs import Progress, named
from mjd.prompts.templates import explain_prompt

log = logging.getLogger(__name__)


def explain_requests(
    items: pd.DataFrame,
    labels: LabelSet,
    text_fields: Sequence[str],
    prompts: Prompts,
    sampling: Sampling,
    seed: int,
) -> Iterator[tuple[str, str, Generate]]:
    """(uid, label key, request) for every item and label, items in order, labels in label order."""
    for item in items.to_dict("records"):
        texts = {field: str(item[field]) for field in text_fields}
        for label in labels:
            messages = explain_prompt(prompts, texts, label)
            yield str(item["uid"]), label.key, Generate(messages, **sampling.model_dump(), seed=seed)


def ask(
    engine: Engine,
    requests: Sequence[Generate],
    store: Store,
    tally: Tally,
    what: str,
    names: Sequence[str] | None = None,
    unanswered: UnansweredPrompts | None = None,
) -> list[dict[str, Any] | None]:
    """The answers (fields of `Generated`) to `requests`, in order; equal requests are asked once.

    All requests are checked before the first is answered. Answers found in `store` are not asked for again; each fresh
    one is stored as it comes.

    Args:
        names: what each request is, for messages.
        unanswered: collects requests that got no usable answer; under its policy `drop` their answer is None.

    Raises:
        ModelError: some got none, and the policy is not to drop them. All others are stored.
    """
    unanswered = UnansweredPrompts() if unanswered is None else unanswered
    names = names or [f"request {number}" for number in range(1, len(requests) + 1)]
    engine.check(zip(requests, names, strict=True))
    keys = [request_key(engine.info, request) for request in requests]
    replies = _stored(engine, keys, store)
    missing = list({key: i for i, key in enumerate(keys) if key not in replies}.values())
    tally.cached += len(requests) - len(missing)
    per_call = engine.answers_per_call or max(len(missing), 1)
    with Progress(what, len(requests), "answers") as progress:
        progress.note = engine.note
        progress.cached(len(requests) - len(missing))
        for start in range(0, len(missing), per_call):
            part = missing[start : start + per_call]
            tally.start()
            for position, answer in engine.generate([requests[i] for i in part]):
                i = part[position]
                if isinstance(answer, Unanswered):
                    unanswered.add(names[i], answer)
                    progress.failed()
                    continue
                replies[keys[i]] = reply_fields(answer)
                store.put([(keys[i], request_record(engine.info, requests[i]), reply_fields(answer))])
                tally.add(answer.usage)
                progress.done()
    unanswered.settle(what, len(requests))
    answers = [replies.get(key) for key in keys]
    tally.cut_at_context_end += warn_of_cut_answers(requests, answers, names)
    return answers


def warn_of_cut_answers(
    requests: Sequence[Generate], answers: Sequence[Mapping[str, Any] | None], names: Sequence[str]
) -> list[str]:
    """Names of the answers that ended with the model's context, before `max_new_tokens`; a warning names some."""
    cut = [
        name
        for request, answer, name in zip(requests, answers, names, strict=True)
        if answer
        and answer["finish_reason"] == "length"
        and 0 < answer["usage"]["completion_tokens"] < request.max_new_tokens
    ]
    if cut:
        log.warning(
            "%d answers were cut off by the end of the model's context, before max_new_tokens: %s", len(cut), named(cut)
        )
    return cut


def _stored(engine: Engine, keys: Sequence[str], store: Store) -> dict[str, Any]:
    """Stored answers; empty ones, which earlier versions kept of paid engines, are removed, to be asked for again."""
    replies = store.get(keys)
    empty = [key for key, reply in replies.items() if engine.is_paid and not str(reply["text"]).strip()]
    if empty:
        log.warning("%d stored answers of an earlier version are empty: asked again", len(empty))
        store.delete(empty)
    return {key: reply for key, reply in replies.items() if key not in set(empty)}


def generate_answers(
    engine: Engine,
    items: pd.DataFrame,
    labels: LabelSet,
    text_fields: Sequence[str],
    prompts: Prompts,
    sampling: Sampling,
    seed: int,
    store: Store,
    tally: Tally,
    what: str = "explaining",
    unanswered: UnansweredPrompts | None = None,
) -> pd.DataFrame:
    """Raw answers (uid, label, text, finish_reason), items in order, labels in label order; each asked for once.

    An item and label without a usable answer has no row under the policy `drop` of `unanswered`; see `ask`.
    """
    asked = list(explain_requests(items, labels, text_fields, prompts, sampling, seed))
    names = [f"item {uid} (label {label})" for uid, label, _ in asked]
    answers = ask(engine, [request for _, _, request in asked], store, tally, what, names, unanswered)
    rows = [
        (uid, label, answer["text"], answer["finish_reason"])
        for (uid, label, _), answer in zip(asked, answers, strict=True)
        if answer is not None
    ]
    return pd.DataFrame(rows, columns=["uid", "label", "text", "finish_reason"])
