"""Numbers of orders: computed as the lists would count them, and refused where they never end."""

from __future__ import annotations

import itertools
import math
import re
import tracemalloc
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mjd.config.files import load_config
from mjd.config.schema import Config
from mjd.errors import DataError
from mjd.estimators import item_prompts as prompting
from mjd.estimators.first_token import ScoreChunks, score_items
from mjd.estimators.item_prompts import PromptSettings, item_prompts, n_prompts
from mjd.llm.fake import FakeEngine
from mjd.llm.usage import Tally
from mjd.orders import Orders, cure, n_distinct_orders, n_distinct_rotations, n_explanation_orders, too_many
from mjd.planning import estimate as planning
from mjd.planning.estimate import Answers, TokenCounter
from mjd.planning.prompt_counts import check_prompts_per_item
from mjd.prompts.templates import explanation_orders, score_prompts
from tests.unit.config.test_schema import values

NO_ANALYSES = {"convergence_items": 0, "generated_prompts": 0}


def config(orders: Orders, most: int = 20_000, **more: Any) -> Config:
    own = values() | {"results_dir": "results/not-there", "analyses": NO_ANALYSES} | more
    explanations = own["explanations"] | {"sources": ["none", "human"]} | more.get("explanations", {})
    scoring = own["scoring"] | {"orders": orders, "most_prompts_per_item": most}
    return load_config(own | {"explanations": explanations, "scoring": scoring})


def items(n: int = 2) -> pd.DataFrame:
    rows = [
        {"uid": f"i{k}", "premise": f"It rains {k}.", "hypothesis": "It is wet.", "split": "train"} for k in range(n)
    ]
    return pd.DataFrame(rows)


def human(n_explanations: int, n_items: int = 2) -> pd.DataFrame:
    rows = [(f"i{k}", j, "enc"[j % 3], f"Reason {j}.") for k in range(n_items) for j in range(n_explanations)]
    return pd.DataFrame(rows, columns=["uid", "position", "label", "text"])


@pytest.mark.parametrize("n", range(6))
@pytest.mark.parametrize("orders", ["all", "cyclic", 1, 5, 1000])
def test_number_of_orders_is_that_of_their_list(n: int, orders: Orders) -> None:
    assert n_explanation_orders(n, orders) == len(explanation_orders(n, orders, 1))


@pytest.mark.parametrize("shown", ["", "a", "aa", "ab", "aab", "abab", "aabb", "abcab", "aaaa"])
def test_numbers_of_distinct_orders_are_those_of_their_sets(shown: str) -> None:
    assert n_distinct_orders(shown) == len(set(itertools.permutations(shown)))
    rotations = explanation_orders(len(shown), "cyclic", 1)
    assert n_distinct_rotations(shown) == len({tuple(shown[i] for i in order) for order in rotations})


@pytest.mark.parametrize("n", [0, 1, 3, 5])
@pytest.mark.parametrize("orders", ["all", "cyclic", 2])
def test_number_of_prompts_is_that_of_their_list(n: int, orders: Orders) -> None:
    mode = "explicit" if n else "plain"
    settings = PromptSettings(config(orders).prompts, config(orders).labels, ("premise",), mode, orders, 1)
    settings = PromptSettings(settings.prompts, settings.labels, ("premise", "hypothesis"), mode, orders, 1)
    shown = human(n) if n else None
    assert n_prompts(items(), shown, settings) == sum(len(p) for _, p in item_prompts(items(), shown, settings))


@pytest.mark.parametrize(
    ("n", "n_labels", "orders"), [(0, 6, "all"), (5, 3, "all"), (6, 3, "all"), (5, 5, "all"), (12, 6, "cyclic")]
)
def test_default_limit_admits_usual_designs(n: int, n_labels: int, orders: Orders) -> None:
    assert too_many(n, n_labels, orders, 20_000) is None


@pytest.mark.parametrize(
    ("n", "orders", "written", "advice"),
    [
        (12, "all", "479,001,600 orders.* 2,874,009,600 prompts", "cyclic (72 prompts an item)"),
        (100, "all", r"about 10\^158 orders", "cyclic (600 prompts an item)"),
        (10**6, "all", r"about 10\^5565709 orders", "at most 3333"),
        (12, 10**6, "1,000,000 orders", "cyclic (72 prompts an item)"),
        (5000, "cyclic", "5,000 orders", "at most 3333"),
    ],
)
def test_too_many_prompts_are_counted_without_being_listed(n: int, orders: Orders, written: str, advice: str) -> None:
    problem = too_many(n, 3, orders, 20_000)
    assert problem
    assert re.search(written, problem)
    assert advice in cure(n, 3, orders, 20_000)


def test_twelve_human_explanations_in_all_orders_are_refused_with_item_number_and_cure() -> None:
    with pytest.raises(DataError, match=r"item i0, source human: 12 explanations .* 2 of 2 items have too many") as e:
        check_prompts_per_item(config("all"), items(), human(12))
    assert e.value.cure.startswith("Set scoring.orders: cyclic (72 prompts an item)")
    check_prompts_per_item(config("cyclic"), items(), human(12))
    check_prompts_per_item(config(100), items(), human(12))


def test_label_counts_of_many_votes_in_all_orders_are_refused() -> None:
    chosen = config("all", explanations={"sources": ["none", "mnli-lg"]})
    voted = items().assign(mnli_e=5, mnli_n=60, mnli_c=35)
    with pytest.raises(DataError, match=r"item i0, source mnli-lg: 100 explanations in about 10\^158 orders"):
        check_prompts_per_item(chosen, voted, human(0))
    check_prompts_per_item(chosen, items().assign(mnli_e=0, mnli_n=0, mnli_c=5), human(0))


def test_convergence_of_too_many_orders_is_refused_with_its_own_cure() -> None:
    chosen = config("cyclic", analyses=NO_ANALYSES | {"convergence_items": 1})
    with pytest.raises(DataError, match=r"analyses\.convergence_items scores all orders: item i0") as error:
        check_prompts_per_item(chosen, items(), human(12))
    assert error.value.cure.startswith("Set analyses.convergence_items: 0")
    # Only the items that it scores count.
    rest = pd.concat([human(2, 1), human(12).query("uid == 'i1'")])
    check_prompts_per_item(chosen, items(), rest)


def counter(prompts: Any) -> list[int]:
    return [1] * len(prompts)


def plan(chosen: Config, n_explanations: int, n_items: int) -> pd.DataFrame:
    counters = dict.fromkeys(chosen.llms, TokenCounter(counter, counter, "fake", True))
    answers = {"smollm2": Answers(pd.DataFrame(columns=["uid", "label", "text"]), "known")}
    shown = human(n_explanations, n_items)
    return planning.plan(chosen, items(n_items), shown, answers, counters, lambda job, requests: 0)


def test_plan_of_twelve_explanations_in_all_orders_is_refused() -> None:
    with pytest.raises(DataError, match="2,874,009,600 prompts an item"):
        plan(config("all"), 12, 2)


def test_plan_counts_orders_in_little_memory() -> None:
    tracemalloc.start()
    jobs = plan(config("all", most=10**7), 9, 40).set_index("variant")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert jobs.loc["human-all-explicit", "prompts"] == 40 * math.factorial(9) * 6
    assert peak < 30e6


def test_plan_makes_one_prompt_an_item_and_not_all_orders_of_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 6 labels there are 720, for each of which a thousand items waited minutes."""
    monkeypatch.setattr(prompting, "score_prompts", lambda *arguments: pytest.fail("all prompts of an item were made"))
    jobs = plan(config("cyclic"), 4, 3).set_index("variant")
    assert jobs.loc["human-all-explicit", ["prompts", "prompt_tokens"]].tolist() == [3 * 4 * 6, 3 * 4 * 6]


def test_score_items_makes_prompts_as_they_are_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, asked_before = FakeEngine(), []
    monkeypatch.setattr(engine, "prompts_per_call", 200)
    made = score_prompts

    def watched(*arguments: Any) -> Any:
        asked_before.append(engine.asked)
        return made(*arguments)

    monkeypatch.setattr(prompting, "score_prompts", watched)
    settings = PromptSettings(
        config("all").prompts, config("all").labels, ("premise", "hypothesis"), "explicit", "all", 1
    )
    score_items(engine, items(20), human(4, 20), settings, ScoreChunks(tmp_path), Tally())
    assert asked_before[0] == 0
    assert asked_before[-1] >= 18 * 144
