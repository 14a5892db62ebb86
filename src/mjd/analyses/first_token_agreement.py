"""How far first-token scores can be trusted: the letters' probability mass, and the letter the model really answers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy.stats import binomtest

from mjd.analyses.base import Analysis, AnalysisJob
from mjd.config.analyses import Analyses
from mjd.estimators.aggregation import fill_bounds
from mjd.estimators.item_prompts import PromptSettings, item_prompts
from mjd.estimators.label_mass import top_tokens, warn_of_low_mass
from mjd.explanations.generation import ask
from mjd.labels import LabelSet
from mjd.llm.base import GenerateRequest, Message
from mjd.llm.cache import CachedEngine
from mjd.llm.reasoning import after_reasoning
from mjd.systems import VARIANT_FIELDS, System

# What follows an "A" that is an article: a word, other than those that follow an option's letter.
_ARTICLE = re.compile(r"\s+(?!(?:is|or|and|as|because|since)\b)[a-z]")


def answers_schema() -> pa.Schema:
    """Columns of analyses/first_token/{llm}.parquet: one row a sampled prompt.

    `first_token_letter` is the letter of the highest first-token score, `letter` the first letter that stands alone in
    the greedily generated `text`, null where there is none.
    """
    names = ("system", "uid", "explanation_order", "option_order", "text", "first_token_letter")
    return pa.schema(
        [pa.field(name, pa.string(), nullable=False) for name in names] + [pa.field("letter", pa.string())]
    )


def schema() -> pa.Schema:
    """Columns of first_token.parquet: per scored variant the label mass, and how often the answer's letter differs.

    `label_mass_*` are the mean and the 5 % quantile over all `n_prompts` of the probability of all label letters at
    the first position. `share_no_letter` of the `n_generated` sampled prompts got an answer without a letter; among
    the others, `share_different` have another letter than the first-token argmax, with a Clopper-Pearson interval.
    `share_first_option` of all prompts have the highest score at the option shown first: near 1 the scorer answers
    with the first letter whatever it reads, and agreement between answer and argmax says little. `share_low_mass` of
    all prompts have a label mass below `low_mass` (`analyses.label_mass_warning`); `top_tokens` are the most frequent
    ones among the prompts' most probable first tokens, with their shares.
    """
    texts = [pa.field(name, pa.string()) for name in ("system", *VARIANT_FIELDS)]
    mass = ("label_mass_mean", "label_mass_p05", "low_mass", "share_low_mass")
    numbers = (*mass, "share_first_option", "share_no_letter")
    ends = ("share_different", "share_different_low", "share_different_high")
    counts = [pa.field(name, pa.int64()) for name in ("n_prompts", "n_generated")]
    floats = [pa.field(name, pa.float64()) for name in (*numbers, *ends)]
    return pa.schema([*texts, *floats, *counts, pa.field("top_tokens", pa.string()), pa.field("data_set", pa.string())])


@dataclass(frozen=True)
class Variant:
    """A scored variant: its prompts' settings, the explanations shown (None for none) and its scores."""

    slug: str
    settings: PromptSettings
    explanations: pd.DataFrame | None
    scores: pd.DataFrame


def answer_letter(text: str, letters: Sequence[str]) -> str | None:
    """The first option letter that stands alone in an answer (`B`, `(B)`, `B. neutral`); None if there is none.

    Letters within reasoning (`mjd.llm.reasoning`) are no answer. An article ("A neutral answer") is no letter; "A is
    right" and "A or B" start with one.
    """
    text = after_reasoning(text) or ""
    for match in re.finditer(rf"(?<![A-Za-z'])([{''.join(letters)}])(?![A-Za-z'])", text):
        if not (match[1] == "A" and _ARTICLE.match(text, match.end())):
            return match[1]
    return None


def sample_answers(
    cached: CachedEngine,
    items: pd.DataFrame,
    variants: Sequence[Variant],
    settings: Analyses,
    seed: int,
) -> pd.DataFrame:
    """Greedy answers (schema `answers_schema`) to `settings.generated_prompts` random prompts of each variant.

    Prompts without a usable answer have no row where the policy is to drop them (`generation.ask`).
    """
    drops = cached.unanswered.drops
    rows: list[dict[str, str]] = []
    requests: list[GenerateRequest] = []
    for variant in variants:
        labels = variant.settings.labels
        scores, _ = fill_bounds(variant.scores, labels)
        drawn = scores.sample(min(settings.generated_prompts, len(variant.scores)), random_state=seed)
        asked = items[items["uid"].astype(str).isin(set(drawn["uid"].astype(str)))]
        # Other prompts than those drawn are made in passing only: all of them may not fit into memory.
        wanted = set(zip(drawn["uid"].astype(str), drawn["explanation_order"], drawn["option_order"], strict=True))
        prompts: dict[tuple[str, str, str], tuple[Message, ...]] = {
            key: p.messages
            for uid, of_item in item_prompts(asked, variant.explanations, variant.settings, drops=drops)
            for p in of_item
            if (key := (uid, ",".join(map(str, p.explanation_order)), ",".join(p.option_order))) in wanted
        }
        for score in drawn.to_dict("records"):
            key = (str(score["uid"]), str(score["explanation_order"]), str(score["option_order"]))
            shown = key[2].split(",")
            # Of equal scores that of the option shown first: the label order has no say.
            best = max(shown, key=lambda label: score[f"score_{label}"])
            letter = labels.letters[shown.index(best)]
            names = ("uid", "explanation_order", "option_order")
            rows.append({"system": variant.slug} | dict(zip(names, key, strict=True)) | {"first_token_letter": letter})
            requests.append(GenerateRequest(prompts[key], settings.generated_tokens))
    asked_for = [f"item {row['uid']} (a sampled prompt of {row['system']})" for row in rows]
    answers = ask(cached, requests, "answers to sampled prompts", asked_for)
    letters = variants[0].settings.labels.letters if variants else ()
    found = [
        {**row, "text": answer.text, "letter": answer_letter(answer.text, letters)}
        for row, answer in zip(rows, answers, strict=True)
        if answer is not None
    ]
    return pd.DataFrame(found, columns=answers_schema().names)


def first_token_table(
    systems: Sequence[System],
    scores: Sequence[pd.DataFrame],
    answers: pd.DataFrame,
    labels: LabelSet,
    confidence: float,
    data_set: str,
    low_mass: float = 0.5,
) -> pd.DataFrame:
    """The table of `schema`, one row a system; `answers` (schema `answers_schema`) of all of them.

    Systems whose letters hold less probability than `low_mass` on average are logged as warnings.
    """
    rows = []
    for system, table in zip(systems, scores, strict=True):
        asked = answers[answers["system"] == system.slug]
        told = asked.dropna(subset=["letter"])
        row = {"system": system.title} | {name: getattr(system, name) for name in VARIANT_FIELDS}
        row |= {"label_mass_mean": table["label_mass"].mean(), "label_mass_p05": table["label_mass"].quantile(0.05)}
        row |= {"low_mass": low_mass, "share_low_mass": _share_below(table["label_mass"], low_mass)}
        row |= {"top_tokens": top_tokens(table) or None, "share_first_option": _share_first_option(table, labels)}
        warn_of_low_mass(table, low_mass, system.title)
        row |= {"share_no_letter": 1 - len(told) / len(asked) if len(asked) else np.nan}
        row |= {"n_prompts": len(table), "n_generated": len(asked), "data_set": data_set}
        if len(told):
            different = int((told["letter"] != told["first_token_letter"]).sum())
            ends = binomtest(different, len(told)).proportion_ci(confidence)
            row |= {"share_different": different / len(told)}
            row |= {"share_different_low": ends.low, "share_different_high": ends.high}
        rows.append(row)
    return pd.DataFrame(rows, columns=schema().names)


def _share_below(mass: pd.Series, threshold: float) -> float:
    """Share of the prompts whose label mass is below `threshold`; NaN where the engine gives none."""
    known = mass.dropna()
    return float((known < threshold).mean()) if len(known) else np.nan


def _share_first_option(scores: pd.DataFrame, labels: LabelSet) -> float:
    """Share of prompts whose highest known score is that of the option shown first; equal scores count in parts.

    NaN where every prompt was dropped.
    """
    if scores.empty:
        return np.nan
    values = scores[labels.columns("score")].to_numpy(np.float64)
    best = np.where(np.isnan(values), -np.inf, values)
    best = best == best.max(axis=1, keepdims=True)
    shown_first = scores["option_order"].str.split(",").str[0].to_numpy(str)
    first = shown_first[:, None] == np.array(labels.keys)
    return float(np.mean((best & first).sum(axis=1) / best.sum(axis=1)))


class FirstTokenAgreement(Analysis):
    """Trust in first tokens: inputs `scores`, one table a system, and the sampled `answers` of each scorer."""

    def schema(self, labels: LabelSet) -> pa.Schema:
        return schema()

    def run(self, job: AnalysisJob) -> pd.DataFrame:
        answers = job.frames("answers")
        return first_token_table(
            job.systems(),
            job.frames("scores"),
            pd.concat(answers) if answers else pd.DataFrame(columns=answers_schema().names),
            job.labels,
            job.params["confidence"],
            job.data_set,
            job.params["low_mass"],
        )
