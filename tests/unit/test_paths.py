"""Paths of artifacts: the contract of docs/artifacts.md."""

import re
from pathlib import Path

import pytest

from mjd.analyses.specs import ANALYSES
from mjd.config.files import load_config, read_config
from mjd.paths import VARIANT, Paths
from mjd.systems import Replacement, System, compared_systems, main_mjd_systems, mjd_systems

PATHS = Paths("r", "d")


def test_mjd_paths_name_scorer_source_selection_mode_and_estimator() -> None:
    config = read_config("config/public.yaml")
    paths = {s.title: (s.generator, Paths.of(config).distribution_of(s)) for s in main_mjd_systems(config)}
    root = "results/public/mjd/smollm2"
    assert paths["SmolLM2 MJD"] == (None, f"{root}/none-all-plain-softmax-t1.parquet")
    assert paths["SmolLM2 MJD + LF model-ex"] == ("smollm2", f"{root}/lf-first-explicit-softmax-t1.parquet")
    assert paths["SmolLM2 MJD + MNLI LG GPT-4o-ex"] == (
        "published/gpt4o",
        f"{root}/mnli-lg@published-gpt4o-first-explicit-softmax-t1.parquet",
    )


def test_results_dir_with_a_slash_at_the_end_gives_the_same_paths() -> None:
    given = {"extends": "config/config.yaml", "results_dir": "results/mine/", "downloads_dir": "downloads/"}
    config = load_config(given)
    assert Paths.of(config) == Paths("results/mine", "downloads")
    assert Paths.of(config).distribution_of(mjd_systems(config)[0]).startswith("results/mine/mjd/")


def test_distributions_of_systems_are_distinct_files() -> None:
    config = read_config("config/public.yaml")
    paths = [Paths.of(config).distribution_of(system) for system in compared_systems(config)]
    assert len(paths) == len(set(paths))
    assert "results/public/distributions/uniform.parquet" in paths


def test_rule_pattern_filled_in_is_the_path_of_a_system() -> None:
    system = System("s", scorer="llm", generator="published/gpt4o", source="lf", selection="first", mode="explicit")
    wildcards = {"llm": "llm", "source": "lf@published-gpt4o", "selection": "first", "mode": "explicit"}
    assert PATHS.scores("{llm}", VARIANT).format(**wildcards) == PATHS.scores_of(system)
    assert PATHS.all_orders("{llm}", VARIANT).format(**wildcards) == PATHS.all_orders_of(system)


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("none", None),
        ("human", "r/data/human_explanations.parquet"),
        ("lf", "r/explanations/published-gpt4o/selected/lf-first.parquet"),
        ("human-noise-k2-s1", "r/explanations/replaced/human-noise-k2-s1.parquet"),
    ],
)
def test_shown_explanations_of_each_source(source: str, path: str | None) -> None:
    assert PATHS.shown(source, "published/gpt4o", "first") == path


def test_system_that_reads_a_replaced_set_has_paths_like_any_other() -> None:
    system = System("s", scorer="llm", source="human-noise-k2-s1", selection="all", mode="explicit", estimator="t1")
    assert PATHS.scores_of(system) == "r/scores/llm/human-noise-k2-s1-all-explicit.parquet"
    assert PATHS.distribution_of(system) == "r/mjd/llm/human-noise-k2-s1-all-explicit-t1.parquet"
    assert PATHS.shown_by(system) == "r/explanations/replaced/human-noise-k2-s1.parquet"


def test_answers_of_an_estimator_have_the_name_of_its_mjds() -> None:
    answers, mjds = (path("llm", VARIANT, "said") for path in (PATHS.estimator_answers, PATHS.mjd))
    assert answers == mjds.replace("r/mjd/", "r/answers/")


def test_lock_lies_in_the_store_under_the_name_of_the_artifact() -> None:
    assert str(PATHS.lock("r/scores/llm/none-all-plain.parquet")) == "r/store/locks/scores/llm/none-all-plain.lock"


# Every path as docs/artifacts.md spells it. Others are these, found by a system or a source.
DOCUMENTED = {
    "source": [PATHS.source("{source}")],
    "model": [PATHS.model("{model}")],
    "blobs": [PATHS.blobs],
    "model_hashes": [PATHS.model_hashes],
    "data": [PATHS.data(name) for name in ("items", "human_explanations", "pairs", "ood")],
    "prompts": [PATHS.prompts("mjd-estimator")],
    "distribution": [PATHS.distribution("{name}")],
    "answers": [PATHS.answers("{llm}")],
    "candidates": [PATHS.candidates("{llm}")],
    "selected": [PATHS.selected("{llm}", "{source}", "{selection}")],
    "replaced": [PATHS.replaced(Replacement("llm", 2, 1)).replace("human-llm-k2-s1", "{source}")],
    "scores": [PATHS.scores("{llm}", VARIANT)],
    "all_orders": [PATHS.all_orders("{llm}", VARIANT)],
    "estimator_answers": [PATHS.estimator_answers("{llm}", VARIANT, "{estimator}")],
    "mjd": [PATHS.mjd("{llm}", VARIANT, "{estimator}")],
    "sampled_answers": [PATHS.sampled_answers("{llm}")],
    "checkpoint": [PATHS.checkpoint("{encoder}", "{system}", "{n}")],
    "training_history": [PATHS.training_history("{encoder}")],
    "predictions": [PATHS.predictions("{encoder}")],
    "table": [PATHS.table(spec.table).removesuffix(".parquet") for spec in ANALYSES],
    "figure": [PATHS.figure("*", "{svg,png}")],
    "store": [PATHS.store],
    "local_answers": [PATHS.local_answers("{llm}")],
    "local_sampled_answers": [PATHS.local_sampled_answers("{llm}")],
    "local_scores": [PATHS.local_scores("{llm}", VARIANT)],
    "local_all_orders": [PATHS.local_all_orders("{llm}", VARIANT)],
    "finished_runs": [PATHS.finished_runs("{encoder}")],
    "lock": [str(PATHS.lock("r/x.parquet").parent)],
    "resolved_config": [PATHS.resolved_config],
    "config_of_runs": [PATHS.config_of_runs("{config_hash}")],
    "log": [str(Path(PATHS.log("rule")).parent)],
    "benchmark": [str(Path(PATHS.benchmark("rule")).parent)],
}
FOUND_BY = {"shown", "shown_by", "scores_of", "all_orders_of", "distribution_of"}


def test_docs_of_artifacts_name_every_path() -> None:
    public = {name for name in vars(Paths) if not name.startswith("_")} - {"of"}
    assert set(DOCUMENTED) == public - FOUND_BY
    text = Path("docs/artifacts.md").read_text(encoding="utf-8")
    text = re.sub(r"`tables/{(.+?)}`", lambda found: "".join(f"`tables/{one}`" for one in found[1].split(",")), text)
    missing = [
        path
        for paths in DOCUMENTED.values()
        for path in paths
        if not re.search(f"`{re.escape(path.partition('/')[2])}/?`", text)
    ]
    assert not missing
