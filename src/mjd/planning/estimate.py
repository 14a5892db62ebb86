"""What a configuration will ask of its LLMs: prompts, tokens, money and hours, before anything is spent."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd
import pyarrow as pa

from mjd.config.llms import Llm
from mjd.config.prompts import Prompts
from mjd.config.schema import Config
from mjd.data.items import train_items
from mjd.errors import ConfigError
from mjd.estimators.item_prompts import PromptSettings, explanations_by_item, first_prompts, item_prompts
from mjd.explanations.generation import explain_requests
from mjd.explanations.selection import candidates, select, wanted_labels
from mjd.labels import LabelSet
from mjd.llm.base import GenerateRequest, Message, Request, ScoreRequest
from mjd.llm.unanswered import UnansweredPrompts
from mjd.orders import n_distinct_orders, n_distinct_rotations
from mjd.paths import Paths
from mjd.planning.prompt_counts import check_prompts_per_item
from mjd.prompts.templates import explanation_orders
from mjd.systems import System, all_orders_systems, first_token_systems, longest_counts_line_breaks, scored_variants

# What stands in for an explanation where a data set holds none at all.
_FILLER = "- " + "word " * 20

_PROMPTS_AT_A_TIME = 2048
_MONEY_AND_TIME = ("usd", "usd_left", "hours", "hours_left", "gpu_hours")

Basis = Literal["known", "estimated", "none"]


@dataclass(frozen=True)
class TokenCounter:
    """Counts the tokens of prompts; `tokenizer` names the model whose tokenizer it is, `is_own` says if the LLM's."""

    prompt: Callable[[Sequence[Sequence[Message]]], list[int]]
    text: Callable[[Sequence[str]], list[int]]
    tokenizer: str
    is_own: bool


@dataclass(frozen=True)
class Answers:
    """A generator's answers (uid, label, text): its own, or others that stand in until it has written them."""

    table: pd.DataFrame
    basis: Basis
    # Where nothing was ever generated, answers are as long as the sampling allows.
    length_known: bool = True


@dataclass(frozen=True)
class PlannedJob:
    """One LLM job: tokens in and out, prompts found finished, and what its numbers rest on.

    Attributes:
        output: the artifact that it makes.
        local: directory where a local engine keeps its replies until then.
    """

    llm: str
    rule: str
    variant: str
    prompts: int
    prompt_tokens: int
    output_tokens: int
    explanations: Basis
    output: str
    local: str
    cached: int = 0


# Rules that ask an LLM, beside generate_explanations.
SCORE_RULE, ALL_ORDERS_RULE, SAMPLE_RULE = "score", "score_all_orders", "sample_answers"

# Finished prompts of a job; `requests` gives every request, for engines whose store is asked by key.
CountCached = Callable[[PlannedJob, Callable[[], Iterator[Request]]], int]


def plan(
    config: Config,
    items: pd.DataFrame,
    human: pd.DataFrame,
    answers: Mapping[str, Answers],
    counters: Mapping[str, TokenCounter],
    count_cached: CountCached,
) -> pd.DataFrame:
    """One row for every LLM job of the configuration, in schema `schema()`.

    Args:
        items: all items; human: their human explanations.
        answers: by generator as the configuration names it.
        counters: by LLM.
        count_cached: finished prompts of a job.

    Raises:
        DataError: an item has more prompts than `scoring.most_prompts_per_item`.
    """
    train = train_items(items)
    check_prompts_per_item(config, train, human)
    jobs = [*_generating(config, train, answers, counters, count_cached)]
    selected: dict[tuple[str, str, str], pd.DataFrame] = {}
    scoring = [
        _scoring(config, system, train, human, answers, counters, count_cached, selected)
        for system in scored_variants(config)
    ]
    some, every_order = train.head(config.analyses.convergence_items), _with_all_orders(config)
    all_orders = [
        _scoring(every_order, system, some, human, answers, counters, count_cached, {}, all_orders=True)
        for system in all_orders_systems(config)
    ]
    jobs += [*scoring, *all_orders, *_sampling(config, scoring, count_cached)]
    rows = [_row(job, config.llms[job.llm], counters[job.llm]) for job in jobs]
    return pd.DataFrame(rows, columns=schema().names).astype(dict.fromkeys(_MONEY_AND_TIME, float))


def schema() -> pa.Schema:
    """Plan: one row a job.

    `cached_share` of the prompts is finished already; `usd_left` and `hours_left` are for the others. USD are null
    without prices, hours and GPU hours (hours times GPUs) without measured rates. `tokens` says whether `tokenizer` is
    the LLM's own or an approximation, `explanations` whether the prompts' explanations (or a generator's answers) exist
    already, are estimated from others, or are none.
    """
    text = {"llm", "rule", "variant", "tokenizer", "tokens", "explanations"}
    names = ["llm", "rule", "variant", "prompts", "prompt_tokens", "output_tokens", "cached_share", "usd", "usd_left"]
    names += ["hours", "hours_left", "gpu_hours", "tokenizer", "tokens", "explanations"]
    kinds = {"prompts": pa.int64(), "prompt_tokens": pa.int64(), "output_tokens": pa.int64()}
    return pa.schema([(name, pa.string() if name in text else kinds.get(name, pa.float64())) for name in names])


def summary(jobs: pd.DataFrame) -> pd.DataFrame:
    """The plan by LLM and rule, with a total of the sums."""
    counts = ["prompts", "prompt_tokens", "output_tokens", "usd", "usd_left", "hours", "hours_left", "gpu_hours"]
    weighted = jobs.assign(cached=jobs["cached_share"] * jobs["prompts"])
    groups = weighted.groupby(["llm", "rule"], sort=False)
    table = groups[counts].sum(min_count=1)
    table.insert(3, "cached_share", groups["cached"].sum() / table["prompts"])
    worst = {"explanations": ["estimated", "known", "none"], "tokens": ["approximate", "own"]}
    table["tokenizer"] = groups["tokenizer"].first()
    for column, ranks in worst.items():
        table[column] = [min(found, key=ranks.index) for _, found in groups[column]]
    table = table.reset_index()
    total = {name: table[name].sum(min_count=1) for name in counts}
    total["cached_share"] = weighted["cached"].sum() / max(int(total["prompts"]), 1)
    return pd.concat([table, pd.DataFrame([{"llm": "total", **total}])], ignore_index=True)


# -- jobs ----------------------------------------------------------------------------------------------------------


def _generating(
    config: Config,
    train: pd.DataFrame,
    answers: Mapping[str, Answers],
    counters: Mapping[str, TokenCounter],
    count_cached: CountCached,
) -> Iterator[PlannedJob]:
    """Jobs of rule generate_explanations."""
    sampling = config.explanations.sampling
    for llm in config.generators if config.model_sources else []:
        if llm not in config.llms:
            continue

        def requests() -> Iterator[GenerateRequest]:
            fields = config.task.text_fields
            asked = explain_requests(train, config.labels, fields, _templates(config), sampling, config.seed)
            return (request for _, _, request in asked)

        tokens = _lengths(counters[llm], (request.messages for request in requests()))
        written, counter = answers[llm], counters[llm]
        lengths = counter.text(written.table["text"].tolist()) if written.length_known else [sampling.max_new_tokens]
        mean = sum(min(n, sampling.max_new_tokens) for n in lengths) / max(len(lengths), 1)
        job = PlannedJob(
            llm,
            "generate_explanations",
            "",
            len(tokens),
            sum(tokens),
            round(mean * len(tokens)),
            written.basis,
            Paths.of(config).answers(llm),
            Paths.of(config).local_answers(llm),
        )
        yield replace(job, cached=count_cached(job, requests))


def _lengths(counter: TokenCounter, prompts: Iterator[Sequence[Message]]) -> list[int]:
    """Tokens of each prompt; few prompts at a time are in memory."""
    found: list[int] = []
    while part := list(itertools.islice(prompts, _PROMPTS_AT_A_TIME)):
        found += counter.prompt(part)
    return found


def _templates(config: Config) -> Prompts:
    """The prompt templates; raises `ConfigError` where the configuration only names where they come from."""
    if isinstance(config.prompts, str):
        problem = f"prompts: {config.prompts} names templates that are read from public files."
        raise ConfigError(problem, "Make the plan with `snakemake plan`, which reads them.")
    return config.prompts


def _scoring(
    config: Config,
    system: System,
    train: pd.DataFrame,
    human: pd.DataFrame,
    answers: Mapping[str, Answers],
    counters: Mapping[str, TokenCounter],
    count_cached: CountCached,
    selected: dict[tuple[str, str, str], pd.DataFrame],
    all_orders: bool = False,
) -> PlannedJob:
    """One job of rule score, or of score_all_orders.

    Tokens are counted in one prompt an item: its other prompts hold the same lines in another order.
    """
    scorer = str(system.scorer)
    shown, basis = _shown(config, system, train, human, answers, selected)
    fields = tuple(config.task.text_fields)
    mode = system.mode or "plain"
    one = PromptSettings(_templates(config), config.labels, fields, mode, 1, config.seed)
    if config.unanswered == "drop" and shown is not None:
        train = train[train["uid"].isin(shown["uid"])]
    firsts = (prompt.messages for prompt in first_prompts(train, shown, one))
    orders, n_options = config.scoring.orders, math.factorial(len(config.labels))
    numbers = [n * n_options for n in _distinct_orders(config, train, shown, mode)]
    tokens = _lengths(counters[scorer], firsts)

    def requests() -> Iterator[ScoreRequest]:
        every = replace(one, orders=orders)
        return (
            ScoreRequest(prompt.messages, config.labels.letters)
            for _, prompts in item_prompts(train, shown, every)
            for prompt in prompts
        )

    paths = Paths.of(config)
    job = PlannedJob(
        scorer,
        ALL_ORDERS_RULE if all_orders else SCORE_RULE,
        system.variant,
        sum(numbers),
        sum(n * length for n, length in zip(numbers, tokens, strict=True)),
        sum(numbers),  # one token each
        basis,
        paths.all_orders_of(system) if all_orders else paths.scores_of(system),
        (paths.local_all_orders if all_orders else paths.local_scores)(scorer, system.variant),
    )
    return replace(job, cached=count_cached(job, requests))


def _with_all_orders(config: Config) -> Config:
    return config.model_copy(update={"scoring": config.scoring.model_copy(update={"orders": "all"})})


def _sampling(config: Config, scoring: Sequence[PlannedJob], count_cached: CountCached) -> Iterator[PlannedJob]:
    """Jobs of rule sample_answers: some prompts of each main variant, as long as they are on average."""
    of_scores = {(job.llm, job.variant): job for job in scoring}
    for llm, systems in first_token_systems(config).items():
        asked = [of_scores[llm, system.variant] for system in systems]
        numbers = [min(config.analyses.generated_prompts, job.prompts) for job in asked]
        tokens = sum(n * job.prompt_tokens // max(job.prompts, 1) for n, job in zip(numbers, asked, strict=True))
        basis: Basis = "estimated" if "estimated" in {job.explanations for job in asked} else "known"
        output = sum(numbers) * config.analyses.generated_tokens
        paths = Paths.of(config)
        kept = (paths.sampled_answers(llm), paths.local_sampled_answers(llm))
        job = PlannedJob(llm, SAMPLE_RULE, "", sum(numbers), tokens, output, basis, *kept)
        yield replace(job, cached=count_cached(job, lambda: iter(())))


def _distinct_orders(config: Config, train: pd.DataFrame, shown: pd.DataFrame | None, mode: str) -> list[int]:
    """For each item, orders of its explanations that differ in what the prompt shows: equal ones are asked for once."""
    by_item = explanations_by_item(shown)
    numbers = []
    for uid in train["uid"]:
        texts = [(one.text, one.label if mode == "explicit" else "") for one in by_item.get(str(uid), [])]
        orders = config.scoring.orders
        if orders == "cyclic":
            numbers.append(n_distinct_rotations(texts))
        elif orders == "all" or orders >= math.factorial(len(texts)):
            numbers.append(n_distinct_orders(texts))
        else:
            drawn = explanation_orders(len(texts), orders, config.seed)
            numbers.append(len({tuple(texts[i] for i in order) for order in drawn}))
    return numbers


def _shown(
    config: Config,
    system: System,
    train: pd.DataFrame,
    human: pd.DataFrame,
    answers: Mapping[str, Answers],
    selected: dict[tuple[str, str, str], pd.DataFrame],
) -> tuple[pd.DataFrame | None, Basis]:
    """Explanations that a scoring job shows, and whether they are the real ones."""
    source, generator, selection = str(system.source), system.generator, system.selection
    if source == "none":
        return None, "none"
    if generator is None:
        return human, "known"
    key = (generator, source, str(selection))
    if key not in selected:
        wanted = wanted_labels(source, config.task.guided_by.get(source), train, human, config.labels)
        found = candidates(answers[generator].table)
        where, dropped = f"candidates of {generator}", UnansweredPrompts(config.unanswered)
        breaks = longest_counts_line_breaks(generator)
        selected[key] = select(found, wanted, selection, where, breaks, dropped)  # type: ignore[arg-type]
    return selected[key], answers[generator].basis


def _row(job: PlannedJob, llm: Llm, counter: TokenCounter) -> dict[str, object]:
    share = job.cached / job.prompts if job.prompts else 0.0
    usd = hours = None
    if llm.prices:
        usd = llm.prices.usd(job.prompt_tokens, job.output_tokens, batch=llm.uses_batches)
    if llm.rates:
        scored = job.rule in (SCORE_RULE, ALL_ORDERS_RULE)
        hours = llm.rates.hours(job.prompt_tokens, 0 if scored else job.output_tokens)
    return {
        "llm": job.llm,
        "rule": job.rule,
        "variant": job.variant,
        "prompts": job.prompts,
        "prompt_tokens": job.prompt_tokens,
        "output_tokens": job.output_tokens,
        "cached_share": share,
        "usd": usd,
        "usd_left": None if usd is None else usd * (1 - share),
        "hours": hours,
        "hours_left": None if hours is None else hours * (1 - share),
        "gpu_hours": None if hours is None else hours * llm.resources.gpu,
        "tokenizer": counter.tokenizer,
        "tokens": "own" if counter.is_own else "approximate",
        "explanations": job.explanations,
    }


# -- answers not written yet ---------------------------------------------------------------------------------------


def stand_in(items: pd.DataFrame, human: pd.DataFrame, labels: LabelSet) -> Answers:
    """Answers to plan with where no model has written any: human explanations, three for each item and label."""
    texts = human["text"].astype(str).tolist() or [_FILLER.removeprefix("- ")] * 3
    rows = []
    for i, uid in enumerate(train_items(items)["uid"]):
        for j, label in enumerate(labels.keys):
            start = 3 * (i * len(labels) + j)
            listed = [texts[(start + k) % len(texts)] for k in range(3)]
            rows.append((uid, label, "\n".join(f"- {text}" for text in listed)))
    return Answers(pd.DataFrame(rows, columns=["uid", "label", "text"]), "estimated", length_known=False)


# -- for people ----------------------------------------------------------------------------------------------------


def report(summary: pd.DataFrame, budget: float | None) -> list[str]:
    """The summary as lines of text, and what to know when reading it."""
    columns = [
        "llm",
        "rule",
        "prompts",
        "prompt_tokens",
        "output_tokens",
        "cached_share",
        "usd",
        "usd_left",
        "gpu_hours",
    ]
    shown = summary[[*columns, "tokens", "explanations"]]
    formats = dict.fromkeys(("prompts", "prompt_tokens", "output_tokens"), "{:,.0f}".format)
    formats |= {"cached_share": "{:.1%}".format} | dict.fromkeys(("usd", "usd_left", "gpu_hours"), "{:,.2f}".format)
    lines = shown.to_string(index=False, formatters=formats, na_rep="-").splitlines()
    left = float(summary["usd_left"].iloc[-1]) if summary["usd_left"].notna().any() else 0.0
    if budget is not None and left > budget:
        lines.append(f"The budget of {budget:.2f} USD does not cover the {left:.2f} USD left: jobs will stop at it.")
    lines.append("- : no prices (llms.<name>.prices) or no measured rates (llms.<name>.rates) are configured.")
    return lines
