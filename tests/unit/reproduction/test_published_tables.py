"""Which published rows, columns and encoders a configuration is compared with: decided by published_as, not titles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from mjd.config.files import load_config
from mjd.config.schema import Config
from mjd.errors import ConfigError
from mjd.reproduction.published_tables import Note, PublishedColumn, PublishedRow, comparable, read_reading
from mjd.settings import check

READING = read_reading()


def paper(**changes: Any) -> Config:
    """config/paper.yaml with sections laid over."""
    values = yaml.safe_load(Path("config/paper.yaml").read_text())
    for section, over in changes.items():
        values[section] = {**values[section], **over} if isinstance(values.get(section), dict) else over
    return load_config(values)


def test_paper_configuration_makes_every_row() -> None:
    made = comparable(paper(), READING)
    assert set(made.systems) == set(READING.rows)
    assert made.systems["GPT-4o MJD + VariErr LG model-ex"] == "gpt4o-varierr-lg-first-explicit-softmax"
    assert made.encoders == {"bert": "bert", "roberta": "roberta"}
    assert made.missing_systems == made.missing_tables == {}


def test_small_models_make_the_rows_without_llms_only() -> None:
    made = comparable(load_config(yaml.safe_load(Path("config/public.yaml").read_text())), READING)
    assert set(made.systems.values()) == {"zero-shot-lm", "mnli-ft-lm", "hjd", "varierr", "mnli"}
    assert made.encoders == {}
    assert made.missing_systems["Llama3 MJD"] == "no scorer is Llama3"
    assert set(made.missing_tables) == {"finetuning", "ood"}
    assert made.missing_tables["ood"] == "data.pairs is esnli, not multinli; data.ood is anli-dev, not anli-test"


def test_rows_of_entries_are_named_by_models_not_titles() -> None:
    """A small model that is called Llama3 is not the published one; the published one may be called anything."""
    small = {"title": "Llama3", "model": "smollm2-135m-instruct"}
    made = comparable(paper(llms={"llama3": small}), READING)
    assert "Llama3 MJD" not in made.systems
    large = {"title": "Our LLM", "model": "llama3-70b-instruct"}
    made = comparable(paper(llms={"big": large}, scoring={"scorer": "big"}), READING)
    assert made.systems["Llama3 MJD"] == "big-none-all-plain-softmax"


def test_model_of_the_configuration_may_be_published_too() -> None:
    models = {"copy": {"local": "/models/llama", "published_as": "Llama3"}}
    llms = {"mine": {"title": "Mine", "model": "copy"}}
    made = comparable(paper(models=models, llms=llms, scoring={"scorer": "mine"}), READING)
    assert made.systems["Llama3 MJD + human-ex"] == "mine-human-all-explicit-softmax"


def test_published_explanations_come_before_new_ones() -> None:
    made = comparable(paper(explanations={"generator": ["self", "published/llama3"]}), READING)
    slug = "llama3-lf@published-llama3-first-explicit-softmax"
    assert made.systems["Llama3 MJD + LF model-ex"] == slug
    assert made.systems["GPT-4o MJD + LF model-ex"] == "gpt4o-lf-first-explicit-softmax"


@pytest.mark.parametrize(
    "changes",
    [
        {"scoring": {"orders": 1}},
        {"scoring": {"estimators": {"softmax": {"transform": {"kind": "softmax", "temperature": 1}}}}},
        {"explanations": {"selections": ["longest"]}, "main_systems": {"selection": "longest"}},
        {"scoring": {"modes": ["implicit"]}, "main_systems": {"mode": "implicit"}},
    ],
)
def test_another_variant_is_another_system(changes: dict[str, Any]) -> None:
    made = comparable(paper(**changes), READING)
    assert "Llama3 MJD + LF model-ex" not in made.systems
    assert "is not scored with its source lf as published" in made.missing_systems["Llama3 MJD + LF model-ex"]


def test_fewer_pairs_make_another_base_classifier() -> None:
    made = comparable(paper(data={"pairs": {"loader": "multinli", "limit": 600}}), READING)
    assert made.missing_tables["finetuning"] == "data.pairs is cut to 600 pairs"
    assert set(made.missing_tables) == {"finetuning", "ood"}


@pytest.mark.parametrize(
    ("model", "values", "message"),
    [
        (PublishedRow, {}, "give either slug, or scorer and source"),
        (PublishedRow, {"slug": "hjd", "scorer": "x", "source": "lf"}, "give either slug, or scorer and source"),
        (PublishedRow, {"scorer": "x"}, "give either slug, or scorer and source"),
        (PublishedColumn, {"table": "ood", "metric": "m", "n": 3}, "encoder and part belong to"),
        (PublishedColumn, {"table": "distribution_comparison", "metric": "m", "n": 3, "part": "dev"}, "belong to"),
    ],
)
def test_invalid_reading_is_refused(model: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(model, values, "reading.yaml")


def test_note_fits_what_it_names() -> None:
    note = Note(table="ood", column="bert_r1", note="n")
    assert note.fits("ood", "any row", "bert_r1")
    assert not note.fits("ood", "any row", "bert_r2")
    assert not note.fits("preference", "any row", "bert_r1")
