"""Systems of a configuration: rows in table order, names of sources, their form in rule params."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mjd.config.files import load_config, read_config
from mjd.systems import (
    Replacement,
    System,
    classifier_systems,
    compared_systems,
    decode,
    distribution_systems,
    encode,
    longest_counts_line_breaks,
    main_mjd_systems,
    mjd_systems,
    scored_variants,
    source_slug,
    split_source,
    trained_systems,
)


def values(name: str = "config.yaml") -> dict:
    with open(f"config/{name}", encoding="utf-8") as handle:
        return yaml.safe_load(handle)


def test_null_removes_what_the_extended_file_has() -> None:
    task = {"label_counts": {"varierr": None, "mnli": None}}
    shown = {"sources": ["none", "human", "lf"]}
    config = load_config({**values(), "task": task, "explanations": values()["explanations"] | shown})
    assert config.task.label_counts == {}
    assert [system.slug for system in distribution_systems(config)] == ["hjd"]


def test_without_hjds_of_training_items_no_classifier_learns_from_them() -> None:
    config = load_config({**values(), "task": {"train_hjd": "some"}})
    assert [system.slug for system in trained_systems(config)][:2] == ["varierr", "mnli"]
    assert "hjd" not in [system.slug for system in classifier_systems(config)]
    assert "hjd" in [system.slug for system in compared_systems(config)]


def test_classifier_rows_follow_the_poster() -> None:
    titles = [system.title for system in classifier_systems(read_config("config/config.yaml"))]
    assert titles == [
        "Zero-shot-LM",
        "MNLI-FT-LM",
        "ChaosNLI HJD",
        "VariErr dist",
        "MNLI dist",
        "SmolLM2 MJD",
        "SmolLM2 MJD + human-ex",
        "SmolLM2 MJD + LF model-ex",
        "SmolLM2 MJD + VariErr LG model-ex",
        "SmolLM2 MJD + MNLI LG model-ex",
    ]


def test_swapping_the_scorer_is_one_line() -> None:
    config = values("public.yaml")
    config["scoring"]["scorer"] = "qwen"
    systems = main_mjd_systems(load_config(config))
    assert {system.scorer for system in systems} == {"qwen"}
    assert systems[2].generator == "qwen"


def test_norm_is_absent_where_scores_are_log_probabilities() -> None:
    config = read_config("config/paper.yaml")
    norm = {system.scorer for system in mjd_systems(config) if system.estimator == "norm"}
    assert norm == {"llama3"}
    fitted = {system.scorer for system in mjd_systems(config) if system.estimator == "softmax-cv"}
    assert fitted == {"llama3", "gpt4o"}
    assert {system.scorer for system in mjd_systems(config)} == {"llama3", "gpt4o"}


def test_systems_encoded_and_decoded_are_equal() -> None:
    systems = compared_systems(read_config("config/public.yaml"))
    assert decode(encode(systems)) == systems


def test_encoded_systems_hold_the_slug_and_the_named_fields_alone() -> None:
    assert encode([System("a", "A", scorer="m", mode="plain")], "title", "mode") == [
        {"slug": "a", "title": "A", "mode": "plain"}
    ]


def test_scored_variants_name_each_scores_table_once() -> None:
    config = read_config("config/public.yaml")
    variants = [(system.scorer, system.variant) for system in scored_variants(config)]
    assert len(variants) == len(set(variants))
    assert set(variants) == {(system.scorer, system.variant) for system in mjd_systems(config)}


@pytest.mark.parametrize(
    ("source", "generator", "slug"),
    [
        ("none", None, "none"),
        ("human", None, "human"),
        ("lf", "smollm2", "lf"),
        ("mnli-lg", "published/gpt4o", "mnli-lg@published-gpt4o"),
        ("lf", "qwen-2.5", "lf@qwen-2.5"),
    ],
)
def test_source_of_another_generator_names_it(source: str, generator: str | None, slug: str) -> None:
    assert source_slug(source, generator, "smollm2") == slug
    assert split_source(slug) == (source, slug.partition("@")[2] or None)


NAMES = st.from_regex(r"[a-z0-9][a-z0-9_.]*(-[a-z0-9_.]+)*", fullmatch=True)


@given(NAMES, st.integers(0, 99), st.integers(0, 2**31))
def test_replacement_parses_what_its_slug_says(generator: str, n: int, seed: int) -> None:
    one = Replacement(generator, n, seed)
    assert Replacement.parse(one.slug) == one


@pytest.mark.parametrize("source", ["none", "human", "lf", "varierr-lg", "human-k2-s1", "human-noise-k02-s1"])
def test_other_sources_are_no_replacements(source: str) -> None:
    assert Replacement.parse(source) is None


@pytest.mark.parametrize("name", ["published/gpt4o", "published-gpt4o"])
def test_longest_counts_line_breaks_where_the_published_set_says_so(name: str) -> None:
    assert longest_counts_line_breaks(name)


@pytest.mark.parametrize("name", ["published/llama3", "gpt4o", "smollm2"])
def test_longest_counts_no_line_breaks_elsewhere(name: str) -> None:
    assert not longest_counts_line_breaks(name)
