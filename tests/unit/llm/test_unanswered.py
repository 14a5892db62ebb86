"""Prompts without a usable reply: the run goes on, nothing is paid twice, and tables without them say so."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mjd.analyses import bias, convergence
from mjd.classifiers.runs import FineTuningRun
from mjd.config.analyses import Statistics
from mjd.config.explanations import Sampling
from mjd.config.files import load_config, read_config
from mjd.config.llms import Llm, Prices
from mjd.config.scoring import Softmax
from mjd.errors import DataError, ModelError
from mjd.estimators.aggregation import model_judgments
from mjd.estimators.first_token import score_items
from mjd.estimators.item_prompts import PromptSettings
from mjd.evaluation.comparison import compare
from mjd.explanations.generation import generate_answers
from mjd.explanations.selection import candidates, select
from mjd.io import write_parquet
from mjd.job import token_counter
from mjd.llm.base import EngineResources, GenerateRequest, Message, Request, ScoreRequest, Unanswered
from mjd.llm.cache import CachedEngine
from mjd.llm.fake import FakeEngine
from mjd.llm.openai.engine import OpenAiEngine
from mjd.llm.store.files import LocalScores
from mjd.llm.store.ledger import Ledger
from mjd.llm.store.paid import PaidReplies
from mjd.llm.store.replies import Store
from mjd.llm.unanswered import UnansweredPrompts
from mjd.llm.usage import UsageTracker
from mjd.systems import System
from tests.openai.injecting_proxy import InjectingProxy
from tests.unit.llm.openai.test_engine import Site, completion
from tests.unit.llm.tiny_llms import save_tiny_llm

CONFIG = read_config("config/config.yaml")
LABELS = CONFIG.labels
ITEMS = pd.DataFrame({"uid": ["i1", "i2", "i3"], "premise": ["P1.", "P2.", "P3."], "hypothesis": ["H1.", "H2.", "H3."]})
SHOWN = pd.DataFrame({"uid": ["i1", "i1", "i2"], "position": [0, 1, 0], "label": list("enc"), "text": list("xyz")})
PRICES = Prices(input=2.5, output=10)


def local(directory: Path) -> LocalScores:
    return LocalScores(directory, "logit")


def settings(mode: str = "plain") -> PromptSettings:
    return PromptSettings(CONFIG.prompts, LABELS, ("premise", "hypothesis"), mode, "all", 1)  # type: ignore[arg-type]


class Refusing(FakeEngine):
    """Gives no usable reply to prompts that contain one of `refused`."""

    def __init__(self, *refused: str, per_call: int = 2048, is_final: bool = True) -> None:
        super().__init__()
        self.refused, self.prompts_per_call, self.is_final = refused, per_call, is_final

    def _refuses(self, request: Request) -> bool:
        text = "\n".join(message.content for message in request.messages)
        return any(part in text for part in self.refused)

    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[tuple[int, Any]]:
        for i, scored in super().score(requests):
            yield i, Unanswered("refused", self.is_final) if self._refuses(requests[i]) else scored

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[tuple[int, Any]]:
        for i, answer in super().generate(requests):
            yield i, Unanswered("refused", self.is_final) if self._refuses(requests[i]) else answer


def scores(engine: FakeEngine, path: Path, policy: str = "stop", items: pd.DataFrame = ITEMS) -> pd.DataFrame:
    found = UnansweredPrompts(policy)  # type: ignore[arg-type]
    return score_items(engine, items, None, settings(), local(path), UsageTracker(), unanswered=found)


# -- scoring -----------------------------------------------------------------------------------------------------------


def test_unanswered_prompts_of_the_first_group_do_not_stop_the_others(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"6 of 18 prompts got no usable reply: item i1 \(options .*\): refused"
    ) as error:
        scores(Refusing("P1.", per_call=6), tmp_path)
    assert "run again to ask for these alone" in str(error.value)
    again = FakeEngine()
    assert len(scores(again, tmp_path)) == 18
    assert again.asked == 6


def test_drop_leaves_the_prompts_out_and_counts_them(tmp_path: Path) -> None:
    class EveryThird(FakeEngine):
        def score(self, requests: Sequence[ScoreRequest]) -> Iterator[tuple[int, Any]]:
            for i, scored in super().score(requests):
                yield i, scored if i % 3 else Unanswered("refused")

    found = UnansweredPrompts("drop")
    table = score_items(EveryThird(), ITEMS, None, settings(), local(tmp_path), UsageTracker(), "s", found)
    assert (len(table), found.provenance()) == (12, {"unanswered_prompts": 6})
    mjd = model_judgments(table, Softmax(temperature=1), LABELS)
    assert mjd["n_prompts"].tolist() == [4, 4, 4]


def test_an_item_without_any_answered_prompt_has_no_mjd(tmp_path: Path) -> None:
    found = UnansweredPrompts("drop")
    table = score_items(Refusing("P2."), ITEMS, None, settings(), local(tmp_path), UsageTracker(), "s", found)
    assert model_judgments(table, Softmax(), LABELS)["uid"].tolist() == ["i1", "i3"]
    assert found.provenance() == {"unanswered_prompts": 6, "items_without_scores": 1}


def test_drop_with_nothing_answered_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="18 of 18 prompts"):
        scores(Refusing("P"), tmp_path, "drop")


def test_an_outage_is_never_dropped(tmp_path: Path) -> None:
    """What the endpoint never looked at may well be answered."""
    with pytest.raises(ModelError, match="6 of them failed for good"):
        scores(Refusing("P1.", is_final=False), tmp_path, "drop")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers_are_unanswered_in_any_engine(tmp_path: Path, value: float) -> None:
    class Overflowing(FakeEngine):
        def score(self, requests: Sequence[ScoreRequest]) -> Iterator[tuple[int, Any]]:
            for i, scored in super().score(requests):
                yield i, scored if i else replace(scored, scores=(value, 1.0, 2.0))

    with pytest.raises(ModelError, match=r"1 of 18 prompts got no usable reply: item i1 .* no finite numbers"):
        scores(Overflowing(), tmp_path)
    again = FakeEngine()
    assert len(scores(again, tmp_path)) == 18
    assert again.asked == 1


# -- explanations ------------------------------------------------------------------------------------------------------


def answers(engine: FakeEngine, path: Path, found: UnansweredPrompts) -> pd.DataFrame:
    with Store(path) as store:
        cached = CachedEngine(engine, PaidReplies(store), UsageTracker(), found)
        return generate_answers(
            cached,
            ITEMS,
            LABELS,
            ("premise", "hypothesis"),
            CONFIG.prompts,
            Sampling(),
            1,
            "e",
        )


def test_an_unanswered_label_ends_the_job_with_its_item(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"3 of 9 prompts got no usable reply: item i2 \(label e\): refused"):
        answers(Refusing("P2."), tmp_path / "s.sqlite", UnansweredPrompts())
    again = FakeEngine()
    assert len(answers(again, tmp_path / "s.sqlite", UnansweredPrompts())) == 9
    assert again.asked == 3


def test_drop_selects_the_explanations_there_are(tmp_path: Path) -> None:
    found = UnansweredPrompts("drop")
    raw = answers(Refusing("P2."), tmp_path / "s.sqlite", found)
    raw = raw[~((raw["uid"] == "i1") & (raw["label"] == "n"))]
    chosen = select(candidates(raw), {uid: list("enc") for uid in ITEMS["uid"]}, "first", unanswered=found)
    assert chosen.groupby("uid")["label"].agg("".join).to_dict() == {"i1": "ec", "i3": "enc"}
    assert chosen[chosen["uid"] == "i1"]["position"].tolist() == [0, 1]
    assert found.provenance() == {
        "unanswered_prompts": 3, "missing_explanations": 4, "items_without_explanations": 1,
    }  # fmt: skip


def test_stop_refuses_a_missing_explanation() -> None:
    one = pd.DataFrame({"uid": ["i1"], "label": ["e"], "rank": [0], "text": ["x"]})
    with pytest.raises(DataError, match="no explanation for label 'n'"):
        select(one, {"i1": ["e", "n"]}, "first", unanswered=UnansweredPrompts())


def test_drop_without_any_explanation_is_an_error_that_does_not_advise_drop() -> None:
    none = pd.DataFrame(columns=["uid", "label", "rank", "text", "is_refusal"])
    with pytest.raises(DataError, match="no explanation") as error:
        select(none, {"i1": ["e"]}, "first", unanswered=UnansweredPrompts("drop"))
    assert "unanswered: drop" not in str(error.value)


def test_drop_scores_the_items_that_have_explanations(tmp_path: Path) -> None:
    found = UnansweredPrompts("drop")
    how = settings("explicit")
    table = score_items(FakeEngine(), ITEMS, SHOWN, how, local(tmp_path), UsageTracker(), "s", found)
    assert set(table["uid"]) == {"i1", "i2"}
    assert found.provenance() == {"items_without_explanations": 1}


# -- tables ------------------------------------------------------------------------------------------------------------


def toy(uids: Sequence[str], seed: int) -> pd.DataFrame:
    p = np.random.default_rng(seed).dirichlet(np.ones(3), len(uids))
    return pd.DataFrame(p, columns=LABELS.columns("p")).assign(uid=list(uids))


def compared(drops: bool) -> pd.DataFrame:
    uids = [f"i{i}" for i in range(12)]
    items = toy(uids, 0).rename(columns=dict(zip(LABELS.columns("p"), LABELS.columns("hjd"), strict=True)))
    systems = [System("u", "U", "distribution"), System("a", "A", "mjd"), System("b", "B", "mjd")]
    tables = {"u": toy(uids, 1), "a": toy(uids, 2), "b": toy(uids, 3)[2:]}
    return compare(items, systems, tables, LABELS, Statistics(resamples=100), 1, "toy", drops=drops)


def test_systems_are_compared_on_the_items_that_all_have(caplog: pytest.LogCaptureFixture) -> None:
    found = compared(drops=True)
    assert set(found["n"]) == {10}
    assert "2 of 12 items have no MJD in some system" in caplog.text
    assert "b lacks 2" in caplog.text
    assert "i0, i1" in caplog.text


def test_a_missing_item_without_drop_is_still_an_error() -> None:
    with pytest.raises(DataError, match=r"item i0 has no distribution.*unanswered: drop"):
        compared(drops=False)


def test_a_human_distribution_that_lacks_an_item_is_still_an_error() -> None:
    uids = pd.Series(["a", "b"])
    run = FineTuningRun("varierr", toy(["a"], 1), 1, "x")
    with pytest.raises(DataError, match="item b has no distribution"):
        run.targets(uids, LABELS)
    with pytest.raises(DataError, match="no distribution of a train item"):
        FineTuningRun("m", toy(["c"], 1), 1, "x", may_lack_items=True).targets(uids, LABELS)


def test_a_run_trains_on_the_items_that_have_an_mjd() -> None:
    targets, has = FineTuningRun("m", toy(["b", "c"], 1), 1, "x", may_lack_items=True).targets(
        pd.Series(["a", "b", "c"]), LABELS
    )
    assert has.tolist() == [1, 2]
    assert np.isnan(targets).any(axis=1).tolist() == [True, False, False]


@pytest.fixture
def gapped(tmp_path: Path) -> pd.DataFrame:
    """Scores with every explanation order, one prompt of i1 missing."""
    shown = pd.DataFrame(
        [(uid, i, label, f"{uid}{i}") for uid in ITEMS["uid"] for i, label in enumerate("en")],
        columns=["uid", "position", "label", "text"],
    )
    whole = score_items(FakeEngine(), ITEMS, shown, settings("explicit"), local(tmp_path), UsageTracker())
    return whole.drop(index=4).reset_index(drop=True)


def test_bias_leaves_items_with_dropped_prompts_out(gapped: pd.DataFrame) -> None:
    args = ([System("a", "A", "mjd")], [gapped], LABELS, Statistics(resamples=100), 1, "toy")
    with pytest.raises(DataError, match="not fully crossed"):
        bias.bias_table(*args)
    assert bias.bias_table(*args, drops=True)["n"].tolist() == [2]


def test_convergence_leaves_items_with_dropped_prompts_out(gapped: pd.DataFrame) -> None:
    """Gaps in two items may leave a shape that fits: scores of one item would be read as another's."""
    items = ITEMS.assign(**dict.fromkeys(LABELS.columns("hjd"), 1 / 3))
    found = convergence.arrange(gapped, items, LABELS, 1.0)
    assert found.p.shape == (2, 2, 6, 3)


def test_convergence_leaves_items_with_dropped_explanation_orders_out(gapped: pd.DataFrame) -> None:
    """Items that lack one order each, not the same, have equally many: the place of one order would be another's."""
    lacks = {"i1": "1,0", "i2": "0,1", "i3": "1,0"}
    items = ITEMS.assign(**dict.fromkeys(LABELS.columns("hjd"), 1 / 3))
    one = gapped[gapped["uid"].map(lacks) != gapped["explanation_order"]].reset_index(drop=True)
    systems, how = [System("a", "A", "mjd", scorer="m")], Statistics(resamples=100)
    assert convergence.convergence_table(systems, [one], items, LABELS, 1.0, how, 1, "toy").empty


def test_tables_without_a_complete_item_are_empty(gapped: pd.DataFrame, tmp_path: Path) -> None:
    """A content filter that hits a prompt of each item must not keep the other tables from being made."""
    none = gapped.groupby("uid").head(5)
    systems, how = [System("a", "A", "mjd", scorer="m")], Statistics(resamples=100)
    items = ITEMS.assign(**dict.fromkeys(LABELS.columns("hjd"), 1 / 3))
    assert bias.bias_table(systems, [none], LABELS, how, 1, "toy", drops=True).empty
    table = convergence.convergence_table(systems, [none], items, LABELS, 1.0, how, 1, "toy")
    assert table.empty
    convergence.plot_convergence(table, {}, [tmp_path / "empty.svg"])
    write_parquet(table, tmp_path / "empty.parquet", convergence.schema())


# -- a real endpoint's replies, injected -------------------------------------------------------------------------------

PLAN = ("eos", None, "infinite", "nan", "empty", "refusal", "no_usage", None, "content_filter")


def reply_of(n: int) -> tuple[int, dict[str, Any], dict[str, str]]:
    return completion(prompt_tokens=50, finish_reason="stop")


@pytest.fixture
def proxy() -> Iterator[InjectingProxy]:
    upstream = Site()
    upstream.answer = reply_of  # type: ignore[method-assign]
    found = InjectingProxy(upstream.url, PLAN)
    yield found
    for server in (found, upstream):
        server.shutdown()
        server.server_close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "answers.sqlite") as found:
        yield found


def openai_engine(proxy: InjectingProxy, store: Store, **more: Any) -> OpenAiEngine:
    values = {"base_url": proxy.url, "api_key_env": None, "max_wait": 0.01, "concurrency": 4, **more}
    llm = Llm(title="x", model="m", engine="openai", openai=values)
    return OpenAiEngine("", llm, "api:m", EngineResources(ledger=Ledger(store, "api:m", PRICES, 1.0), count_tokens=len))


def spending(store: Store) -> tuple[float, int, int]:
    found: tuple[float, int, int] = store.db.execute("SELECT usd, requests, estimated FROM spending").fetchone()
    return found


def test_injected_replies_keep_every_good_one_and_pay_none_twice(
    proxy: InjectingProxy, store: Store, tmp_path: Path
) -> None:
    asked = [GenerateRequest((Message("user", f"Why? {i}"),), 8) for i in range(40)]
    found = dict(openai_engine(proxy, store).generate(asked))
    bad = {i for i, one in found.items() if isinstance(one, Unanswered)}
    assert (len(found), len(bad), len(store)) == (40, proxy.unusable(), 40 - proxy.unusable())
    assert all(found[i].is_final for i in bad)  # type: ignore[union-attr]
    assert all(found[i].finish_reason == "stop" for i in set(found) - bad)  # type: ignore[union-attr]
    assert max(proxy.tries.values()) == 3

    usd, requests, estimated = spending(store)
    assert (requests, estimated) == (len(proxy.owed) + len(proxy.untold), len(proxy.untold))
    estimate = (
        sum((len(f"Why? {i}") + 8) * 2.5 + len("A") * 10 for i in range(40) if _meets(proxy, i, "no_usage")) / 1e6
    )
    assert usd == pytest.approx(sum(n * 2.5 + m * 10 for n, m in proxy.owed) / 1e6 + estimate, abs=1e-12)
    assert store.db.execute("SELECT count(*) FROM reserved").fetchone() == (0,)

    proxy.healed, before = True, proxy.tries.copy()
    again = openai_engine(proxy, store)
    missing = [asked[i] for i in sorted(bad)]
    assert len(dict(again.generate(missing))) == len(bad)
    assert set((proxy.tries - before).values()) == {1}
    assert (len(store), again.ledger.requests) == (40, len(bad))


def _meets(proxy: InjectingProxy, i: int, fault: str) -> bool:
    return any(
        met == fault and json.loads(b)["messages"][0]["content"] == f"Why? {i}" for b, met in proxy.faults.items()
    )


def test_injected_scores_end_the_job_with_the_list_and_the_rerun_asks_for_these(
    proxy: InjectingProxy, store: Store
) -> None:
    def run() -> pd.DataFrame:
        engine = openai_engine(proxy, store)
        engine.prompts_per_call = 6
        return score_items(engine, ITEMS, None, settings(), PaidReplies(store), UsageTracker())

    with pytest.raises(ModelError, match=r"of 18 prompts got no usable reply: item i\d .*: ") as error:
        run()
    assert f"{proxy.unusable()} of 18" in str(error.value)
    assert "content management policy" in str(error.value)
    assert len(store) == 18 - proxy.unusable()
    proxy.healed, before = True, proxy.tries.copy()
    assert len(run()) == 18
    assert set((proxy.tries - before).values()) == {1}
    assert len(proxy.tries - before) == proxy.unusable()


def test_stored_scores_that_no_model_means_are_asked_for_again(proxy: InjectingProxy, store: Store) -> None:
    """Earlier versions kept them as final."""
    proxy.healed = True
    first = score_items(openai_engine(proxy, store), ITEMS, None, settings(), PaidReplies(store), UsageTracker())
    keys = [key for key, *_ in store.rows()][:3]
    for key, value in zip(keys, ("-Infinity", "-9999.0", "NaN"), strict=True):
        broken = f'{{"scores": [{value}, -1.0, -2.0], "kind": "logprob", "mass": 0.5, "bound": null}}'
        store.db.execute("UPDATE replies SET reply = ? WHERE key = ?", (broken, key))
    engine = openai_engine(proxy, store)
    again = score_items(engine, ITEMS, None, settings(), PaidReplies(store), UsageTracker())
    assert engine.ledger.requests == 3
    pd.testing.assert_frame_equal(again, first)


def test_a_reply_is_stored_though_the_job_dies_before_it_reads_it(proxy: InjectingProxy, store: Store) -> None:
    """Booked and stored in one transaction: a crash between them would pay twice."""
    proxy.healed = True
    asked = [ScoreRequest((Message("user", f"Which? {i}"),), ("A", "B")) for i in range(12)]
    replies = openai_engine(proxy, store).score(asked)
    next(replies)
    replies.close()  # type: ignore[attr-defined]
    _, requests, _ = spending(store)
    assert requests == len(store) == sum(proxy.tries.values())


# -- estimates ---------------------------------------------------------------------------------------------------------


def test_estimates_are_counted_by_the_tokenizer_that_the_model_names(tmp_path: Path) -> None:
    save_tiny_llm(tmp_path / "models" / "smollm2-135m-instruct")  # a tokenizer of bytes
    served = {"served": {"api": "m", "tokenizer": "smollm2-135m-instruct"}}
    config = load_config({"extends": "config/config.yaml", "downloads_dir": str(tmp_path), "models": served})
    count = token_counter(config, "served")
    assert count is not None
    assert count("Which one?") == 10
    assert token_counter(config.model_copy(update={"downloads_dir": str(tmp_path / "none")}), "served") is None


def test_a_tokenizer_that_does_not_load_loses_no_reply(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is looked at when a reply without usage has come: that is paid for."""
    directory = tmp_path / "models" / "smollm2-135m-instruct"
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    served = {"served": {"api": "m", "tokenizer": "smollm2-135m-instruct"}}
    config = load_config({"extends": "config/config.yaml", "downloads_dir": str(tmp_path), "models": served})
    count = token_counter(config, "served")
    assert count is not None
    assert [count("Which one?"), count("Which one?")] == [5, 5]
    assert caplog.text.count("estimated by their bytes") == 1
