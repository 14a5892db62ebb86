"""Asking a generator for explanations: one answer for every item and label, each asked for once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from mjd.config import Prompts, Sampling
from mjd.labels import LabelSet
from mjd.llm.base import Engine, Generate, request_key
from mjd.llm.store import Store
from mjd.logs import Progress
from mjd.prompts import explain_prompt

# Answers committed to the store at a time, and lost at most when the job is killed.
ANSWERS_PER_CALL = 48


def ask(engine: Engine, requests: Sequence[Generate], store: Store, what: str) -> list[dict[str, Any]]:
    """The answers (fields of `Generated`) to `requests`, in order; equal requests are asked once.

    Answers found in `store` are not asked for again; fresh ones are stored as they come.
    """
    keys = [request_key(engine.info, request) for request in requests]
    replies = store.get(keys)
    missing = list({key: i for i, key in enumerate(keys) if key not in replies}.values())
    with Progress(what, len(requests), "answers") as progress:
        progress.cached(len(requests) - len(missing))
        for start in range(0, len(missing), ANSWERS_PER_CALL):
            part = missing[start : start + ANSWERS_PER_CALL]
            fresh = []
            for position, answer in engine.generate([requests[i] for i in part]):
                i = part[position]
                replies[keys[i]] = asdict(answer)
                fresh.append((keys[i], {"engine": asdict(engine.info), **asdict(requests[i])}, asdict(answer)))
                progress.done()
            store.put(fresh)
    return [replies[key] for key in keys]


def generate_answers(
    engine: Engine,
    items: pd.DataFrame,
    labels: LabelSet,
    text_fields: tuple[str, ...],
    prompts: Prompts,
    sampling: Sampling,
    seed: int,
    store: Store,
    what: str = "explaining",
) -> pd.DataFrame:
    """Raw answers (uid, label, text, finish_reason), items in order, labels in label order; each asked for once."""
    asked = [
        (str(item["uid"]), label.key, {field: str(item[field]) for field in text_fields}, label)
        for item in items.to_dict("records")
        for label in labels
    ]
    requests = [
        Generate(explain_prompt(prompts, texts, label), **sampling.model_dump(), seed=seed)
        for _, _, texts, label in asked
    ]
    answers = ask(engine, requests, store, what)
    rows = [
        (uid, label, answer["text"], answer["finish_reason"])
        for (uid, label, _, _), answer in zip(asked, answers, strict=True)
    ]
    return pd.DataFrame(rows, columns=["uid", "label", "text", "finish_reason"])
