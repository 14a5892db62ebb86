"""Plans: every prompt counted, tokens as the engine would count them, prices by the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mjd.config.files import load_config
from mjd.config.schema import Config
from mjd.data.items import train_items
from mjd.data.loaders import load_items
from mjd.estimators.item_prompts import PromptSettings, item_prompts
from mjd.llm.base import Request, ScoreRequest, Usage, request_key
from mjd.llm.openai.engine import engine_info
from mjd.llm.store.ledger import Ledger
from mjd.llm.store.replies import Store, request_record
from mjd.planning import estimate as planning
from mjd.planning.estimate import PlannedJob
from mjd.planning.progress import Finished, approximate_counter, known_answers, own_counter
from tests.unit.config.test_schema import values
from tests.unit.llm.tiny_llms import save_tiny_llm

API = {
    "engine": "openai",
    "model": "served",
    "prices": {"input": 2, "output": 10},
    "openai": {"base_url": "http://127.0.0.1:9/v1"},
}


def config(**more: Any) -> Config:
    """The sample with two items a split and all orders, no analyses, and no results yet."""
    off = {"convergence_items": 0, "generated_prompts": 0}
    own = values() | {"limit": 2, "results_dir": "results/not-there", "analyses": off} | more
    return load_config(own | {"scoring": own["scoring"] | {"orders": "all"}})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llm(tmp_path_factory.mktemp("tiny"))


def planned(chosen: Config, tiny: Path, cached: planning.CountCached | None = None) -> pd.DataFrame:
    items, human = load_items(chosen.data.items, chosen.task, {}, chosen.limit)
    answers = known_answers(chosen, items, human, {})
    counters = dict.fromkeys(chosen.llms, own_counter(tiny, "auto", "tiny"))
    return planning.plan(chosen, items, human, answers, counters, cached or (lambda job, requests: 0))


def test_one_row_for_every_job_with_its_prompts(tiny: Path) -> None:
    jobs = planned(config(), tiny).set_index(["rule", "variant"])["prompts"]
    assert jobs["generate_explanations", ""] == 2 * 3
    assert jobs["score", "none-all-plain"] == 2 * 6
    assert jobs["score", "human-all-explicit"] == 2 * 6 * 24
    assert jobs["score", "lf-first-explicit"] == 2 * 6 * 6
    assert len(jobs) == 6


def test_equal_prompts_are_counted_once(tiny: Path) -> None:
    """Candidates that are shown twice make fewer prompts than orders."""
    distinct: dict[str, int] = {}

    def count(job: PlannedJob, requests: Callable[[], Iterator[Request]]) -> int:
        distinct[job.variant] = len(set(requests()))
        return 0

    jobs = planned(config(), tiny, count).set_index("variant")["prompts"]
    assert jobs.to_dict() == distinct
    assert jobs["mnli-lg-first-explicit"] < 2 * 6 * 120


def test_analyses_are_planned_too(tiny: Path) -> None:
    analyses = {"convergence_items": 1, "generated_prompts": 6, "generated_tokens": 16}
    jobs = planned(config(analyses=analyses), tiny).set_index(["rule", "variant"])
    assert jobs.loc[("score_all_orders", "human-all-explicit"), "prompts"] == 6 * 24
    sampled = jobs.loc[("sample_answers", "")]
    assert (sampled["prompts"], sampled["output_tokens"]) == (5 * 6, 5 * 6 * 16)
    scores = jobs.loc["score"]
    assert sampled["prompt_tokens"] == sum(6 * scores["prompt_tokens"] // scores["prompts"])


def test_tokens_are_those_of_every_single_prompt(tiny: Path) -> None:
    chosen = config()
    items, human = load_items(chosen.data.items, chosen.task, {}, chosen.limit)
    settings = PromptSettings(chosen.prompts, chosen.labels, tuple(chosen.task.text_fields), "explicit", "all", 1)
    every = [p.messages for _, prompts in item_prompts(train_items(items), human, settings) for p in prompts]
    expected = sum(own_counter(tiny, "auto", "tiny").prompt(every))
    jobs = planned(chosen, tiny).set_index("variant")
    assert jobs.loc["human-all-explicit", "prompt_tokens"] == expected
    assert jobs.loc["human-all-explicit", "output_tokens"] == len(every)


def test_prices_and_rates_come_from_the_configuration(tiny: Path) -> None:
    llm = {"prices": {"input": 2, "output": 10}, "resources": {"gpu": 4}}
    llm["rates"] = {"prompt_tokens_per_second": 100, "output_tokens_per_second": 10}
    jobs = planned(config(llms={"smollm2": values()["llms"]["smollm2"] | llm}), tiny, lambda job, _: job.prompts // 4)
    job = jobs.set_index("variant").loc["none-all-plain"]
    assert job["usd"] == pytest.approx(job["prompt_tokens"] * 2e-6 + 12 * 10e-6)
    assert job["usd_left"] == pytest.approx(0.75 * job["usd"])
    assert job["gpu_hours"] == pytest.approx(4 * job["prompt_tokens"] / 100 / 3600)
    generating = jobs.iloc[0]
    assert generating["hours"] == pytest.approx(generating["output_tokens"] / 10 / 3600)


def test_answers_that_do_not_exist_are_marked_and_as_long_as_allowed(tiny: Path) -> None:
    jobs = planned(config(), tiny).set_index("variant")
    assert jobs["explanations"].to_dict() == {
        "": "estimated",
        "none-all-plain": "none",
        "human-all-explicit": "known",
        "lf-first-explicit": "estimated",
        "varierr-lg-first-explicit": "estimated",
        "mnli-lg-first-explicit": "estimated",
    }
    assert jobs.loc["", "output_tokens"] == 6 * config().explanations.sampling.max_new_tokens


def test_the_summary_adds_up(tiny: Path) -> None:
    jobs = planned(config(), tiny, lambda job, _: job.prompts if job.rule == "score" else 0)
    table = planning.summary(jobs).set_index(["llm", "rule"])
    assert table.loc[("smollm2", "score"), "prompts"].item() == jobs["prompts"][1:].sum()
    assert table.loc[("smollm2", "score"), "cached_share"].item() == 1
    assert table["prompts"].iloc[-1] == jobs["prompts"].sum()
    assert table["cached_share"].iloc[-1] == pytest.approx(jobs["prompts"][1:].sum() / jobs["prompts"].sum())
    assert any("cover" in line for line in planning.report(table.reset_index().assign(usd_left=9.0), budget=1.0))


def test_an_approximation_leaves_the_chat_template_out(tiny: Path) -> None:
    request = ScoreRequest(messages=(), letters=("A",))
    assert approximate_counter(tiny, "tiny").prompt([request.messages]) == [0]
    assert not approximate_counter(tiny, "tiny").is_own


def test_paid_prompts_are_found_in_the_store_by_key(tiny: Path, tmp_path: Path) -> None:
    models = {"served": {"api": "m"}}
    llms = {"smollm2": values()["llms"]["smollm2"] | API}
    chosen = config(results_dir=str(tmp_path), llms=llms, models=models)
    info = engine_info(chosen.llms["smollm2"], "api:m")
    with Store(tmp_path / "store" / "answers.sqlite") as store:

        def keep_seven(job: PlannedJob, requests: Callable[[], Iterator[Request]]) -> int:
            if job.variant == "none-all-plain":
                for request in list(requests())[:7]:
                    store.put([(request_key(info, request), request_record(info, request), {})])
                Ledger(store, "api:m", None, None).book(Usage(1))
            return 0

        planned(chosen, tiny, keep_seven)
    jobs = planned(chosen, tiny, Finished(chosen)).set_index("variant")
    assert jobs.loc["none-all-plain", "cached_share"] == pytest.approx(7 / 12)
    assert jobs.loc["human-all-explicit", "cached_share"] == 0


@pytest.mark.parametrize(
    ("generator", "shown"), [("gpt4o", "a reason of some length"), ("llama3", "another reason of length")]
)
def test_longest_explanations_of_a_published_set_are_those_that_select_chooses(
    tiny: Path, generator: str, shown: str
) -> None:
    own = values()
    explanations = {"generator": f"published/{generator}", "sources": ["lf"], "selections": ["longest"]}
    data = {**own["data"], "items": {"loader": "mjd-estimator"}}
    main = own["main_systems"] | {"selection": "longest"}
    chosen = config(explanations=explanations, data=data, main_systems=main)
    items, human = load_items(config().data.items, chosen.task, {}, chosen.limit)
    text = "- a reason of some length\n- another reason of length"
    rows = [(uid, label, text) for uid in train_items(items)["uid"] for label in chosen.labels.keys]
    answers = known_answers(chosen, items, human, {generator: pd.DataFrame(rows, columns=["uid", "label", "text"])})
    prompts: list[str] = []

    def collect(job: PlannedJob, requests: Callable[[], Iterator[Request]]) -> int:
        prompts.extend(request.messages[-1].content for request in requests())
        return 0

    planning.plan(chosen, items, human, answers, {"smollm2": own_counter(tiny, "auto", "tiny")}, collect)
    assert prompts
    assert all(shown in prompt for prompt in prompts)
