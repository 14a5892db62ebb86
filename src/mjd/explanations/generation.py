"""Asking a generator for explanations: one answer for every item and label, each asked for once."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import pandas as pd

from mjd.config.explanations import Sampling
from mjd.config.prompts import ExplainPrompts
from mjd.labels import LabelSet
from mjd.llm.base import Generated, GenerateRequest
from mjd.llm.cache import CachedEngine
from mjd.logs import named
from mjd.prompts.templates import explain_prompt

log = logging.getLogger(__name__)


def explain_requests(
    items: pd.DataFrame,
    labels: LabelSet,
    text_fields: Sequence[str],
    prompts: ExplainPrompts,
    sampling: Sampling,
    seed: int,
) -> Iterator[tuple[str, str, GenerateRequest]]:
    """(uid, label key, request) for every item and label, items in order, labels in label order."""
    for item in items.to_dict("records"):
        texts = {field: str(item[field]) for field in text_fields}
        for label in labels:
            messages = explain_prompt(prompts, texts, label)
            yield str(item["uid"]), label.key, GenerateRequest(messages, **sampling.model_dump(), seed=seed)


def ask(
    cached: CachedEngine, requests: Sequence[GenerateRequest], what: str, names: Sequence[str]
) -> list[Generated | None]:
    """The answers to `requests`, in order; None for those without a usable one, where the policy is to drop them.

    All requests are checked before the first is answered.

    Args:
        what: the job's work, for messages.
        names: what each request is.

    Raises:
        ModelError: some got no usable answer, and the policy is not to drop them. All others are kept.
    """
    cached.engine.check(zip(requests, names, strict=True))
    with cached.asking(what, len(requests), "answers") as progress:
        answers: list[Generated | None] = cached.ask(requests, names, progress, lambda answer: answer)
    cached.tracker.cut_at_context_end += warn_of_cut_answers(requests, answers, names)
    return answers


def warn_of_cut_answers(
    requests: Sequence[GenerateRequest], answers: Sequence[Generated | None], names: Sequence[str]
) -> list[str]:
    """Names of the answers that ended with the model's context, before `max_new_tokens`; a warning names some."""
    cut = [
        name
        for request, answer, name in zip(requests, answers, names, strict=True)
        if answer and answer.finish_reason == "length" and 0 < answer.usage.completion_tokens < request.max_new_tokens
    ]
    if cut:
        log.warning(
            "%d answers were cut off by the end of the model's context, before max_new_tokens: %s", len(cut), named(cut)
        )
    return cut


def generate_answers(
    cached: CachedEngine,
    items: pd.DataFrame,
    labels: LabelSet,
    text_fields: Sequence[str],
    prompts: ExplainPrompts,
    sampling: Sampling,
    seed: int,
    what: str = "explaining",
) -> pd.DataFrame:
    """Raw answers (uid, label, text, finish_reason), items in order, labels in label order; each asked for once.

    An item and label without a usable answer has no row where the policy is to drop it; see `ask`.
    """
    asked = list(explain_requests(items, labels, text_fields, prompts, sampling, seed))
    names = [f"item {uid} (label {label})" for uid, label, _ in asked]
    answers = ask(cached, [request for _, _, request in asked], what, names)
    rows = [
        (uid, label, answer.text, answer.finish_reason)
        for (uid, label, _), answer in zip(asked, answers, strict=True)
        if answer is not None
    ]
    return pd.DataFrame(rows, columns=["uid", "label", "text", "finish_reason"])
