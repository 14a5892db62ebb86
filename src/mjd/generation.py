"""Asking a generator for explanations: one answer for every item and label, each asked for once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

import pandas as pd

from mjd.config import Prompts, Sampling
from mjd.labels import LabelSet
from mjd.llm.base import Engine, Generate, request_key
from mjd.llm.store import Store, request_record
from mjd.llm.tally import Tally
from mjd.logs import Progress
from mjd.prompts import explain_prompt


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
) -> pd.DataFrame:
    """Raw answers (uid, label, text, finish_reason), items in order, labels in label order.

    Answers found in `store` are not asked for again; each fresh one is stored as it comes.
    """
    asked = list(explain_requests(items, labels, text_fields, prompts, sampling, seed))
    requests = [request for _, _, request in asked]
    keys = [request_key(engine.info, request) for request in requests]
    replies = store.get(keys)
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
                replies[keys[i]] = asdict(answer)
                store.put([(keys[i], request_record(engine.info, requests[i]), asdict(answer))])
                tally.add(answer.usage)
                progress.done()
    rows = [
        (uid, label, replies[key]["text"], replies[key]["finish_reason"])
        for (uid, label, _), key in zip(asked, keys, strict=True)
    ]
    return pd.DataFrame(rows, columns=["uid", "label", "text", "finish_reason"])
