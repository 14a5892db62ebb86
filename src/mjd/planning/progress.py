"""What a plan finds on disk: tokenizers, answers and scores that exist already. Nothing is downloaded or asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mjd.config.schema import Config
from mjd.io import read_parquet
from mjd.llm.base import Message, Request, request_key
from mjd.llm.chat.tokens import ChatTokenizer
from mjd.llm.engines import engine_class
from mjd.llm.store.files import n_replies
from mjd.llm.store.replies import Store, record_kind
from mjd.paths import Paths
from mjd.planning.estimate import ALL_ORDERS_RULE, SAMPLE_RULE, SCORE_RULE, Answers, PlannedJob, TokenCounter, stand_in
from mjd.systems import PUBLISHED

log = logging.getLogger("mjd")

# What a chat template adds to a message, where the template itself is not known.
_TOKENS_A_MESSAGE = 8
_KEYS_AT_A_TIME = 10_000
_SCORING = (SCORE_RULE, ALL_ORDERS_RULE)


def own_counter(
    directory: Path, chat_template: str, model: str, variables: Mapping[str, Any] | None = None
) -> TokenCounter:
    """Counts with an LLM's own tokenizer and chat template, with `variables` of the template."""
    tokens = ChatTokenizer(directory, chat_template, model, variables=variables)
    return TokenCounter(
        lambda prompts: _lengths(tokens, [tokens.render(messages) for messages in prompts]),
        lambda texts: [n + 1 for n in _lengths(tokens, texts)],  # and the token that ends an answer
        model,
        True,
    )


def approximate_counter(directory: Path, model: str) -> TokenCounter:
    """Counts with another model's tokenizer: its own words for the text, a few tokens for the template."""
    tokens = ChatTokenizer(directory, "none", model)

    def prompt(prompts: Sequence[Sequence[Message]]) -> list[int]:
        texts = ["\n\n".join(message.content for message in messages) for messages in prompts]
        lengths = _lengths(tokens, texts)
        return [n + _TOKENS_A_MESSAGE * len(messages) for n, messages in zip(lengths, prompts, strict=True)]

    return TokenCounter(prompt, lambda texts: [n + 1 for n in _lengths(tokens, texts)], model, False)


def _lengths(tokens: ChatTokenizer, texts: Sequence[str]) -> list[int]:
    return [len(ids) for ids in tokens.encode(texts)] if texts else []


def counters(config: Config, fallback: Mapping[str, Path]) -> dict[str, TokenCounter]:
    """A counter for every LLM: its own tokenizer where the model is on disk, else the fallback its model names.

    Args:
        fallback: model directories that may be used for approximations, by model id; the first is the default.
    """
    found = {}
    for name, llm in config.llms.items():
        directory = Path(Paths.of(config).model(llm.model))
        if (directory / "config.json").is_file():
            variables = config.llm_settings(name).chat_template_kwargs
            found[name] = own_counter(directory, llm.chat_template, llm.model, variables)
            continue
        named = config.model_entry(llm.model).tokenizer
        model = named if named and named in fallback else next(iter(fallback))
        found[name] = approximate_counter(fallback[model], model)
        log.warning("%s: tokens are approximate, counted with the tokenizer of %s", name, model)
    return found


def known_answers(
    config: Config, items: pd.DataFrame, human: pd.DataFrame, published: Mapping[str, pd.DataFrame]
) -> dict[str, Answers]:
    """Answers of every generator: its own where they exist, published or human explanations in their place else.

    Args:
        published: published sets by name; one that bears an LLM's name stands in for it, else the first does.
    """
    found = {}
    for generator in config.generators:
        name = generator.removeprefix(PUBLISHED)
        path = Path(Paths.of(config).answers(generator))
        if generator != name:
            found[generator] = Answers(published[name], "known")
        elif path.is_file():
            found[generator] = Answers(read_parquet(path), "known")
        elif published:
            found[generator] = Answers(published.get(name, next(iter(published.values()))), "estimated")
        else:
            found[generator] = stand_in(items, human, config.labels)
    return found


class Finished:
    """Counts finished prompts of planned jobs.

    Replies of local LLMs are counted in the files of their job; those of API LLMs are looked up by key, since money
    depends on them.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.store = Path(Paths.of(config).store)

    def __call__(self, job: PlannedJob, requests: Callable[[], Iterator[Request]]) -> int:
        if Path(job.output).is_file():
            return job.prompts
        if job.rule == SAMPLE_RULE:  # which prompts are drawn is known once the scores are
            return 0
        if self.config.llms[job.llm].spec.is_paid:
            return self._by_key(job, requests())
        found = n_replies(job.local)
        if not found and job.rule not in _SCORING:
            found = self._answers_of_earlier_version(job.llm)
        return min(job.prompts, found)

    def _identity(self, model: str) -> str:
        return self.config.model_entry(model).identity(Paths.of(self.config).model_hashes)

    def _answers_of_earlier_version(self, llm: str) -> int:
        """Answers of a local LLM in the store."""
        if not self.store.is_file():
            return 0
        identity = self._identity(self.config.llms[llm].model)
        with Store(self.store, create=False) as store:
            records = (record for _, record, _, _ in store.rows())
            return sum(1 for r in records if r["engine"]["model"] == identity and record_kind(r) == "Generate")

    def _by_key(self, job: PlannedJob, requests: Iterator[Request]) -> int:
        llm = self.config.llm_settings(job.llm)
        info = engine_class(llm.engine).info_of(llm, self._identity(llm.model))
        if info is None or (job.explanations == "estimated" and job.rule in _SCORING) or not self.store.is_file():
            return 0
        n = 0
        with Store(self.store, create=False) as store:
            if not store.db.execute("SELECT 1 FROM spending WHERE model = ?", (info.model,)).fetchone():
                return 0
            part: list[str] = []
            for request in requests:
                part.append(request_key(info, request))
                if len(part) == _KEYS_AT_A_TIME:
                    n, part = n + len(store.get(part)), []
            return min(job.prompts, n + len(store.get(part)))
