"""How the published tables are read, and which of their rows and columns a configuration can be compared with.

Light on purpose: the Snakefile asks while it builds the DAG. The comparison itself is
`mjd.reproduction.published_comparison`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from mjd import registry
from mjd.config.schema import Config
from mjd.config.scoring import FirstToken, Softmax
from mjd.settings import Settings, check
from mjd.systems import PUBLISHED, System, mjd_systems
from mjd.yaml_files import read_yaml

PUBLISHED_DIR = registry.RESOURCES / "published"
OurTable = Literal["distribution_comparison", "finetuning", "ood"]

# Parts of the data that decide each of our tables.
_DECIDED_BY = {
    "distribution_comparison": ("items",),
    "finetuning": ("items", "pairs"),
    "ood": ("items", "pairs", "ood"),
}


class PublishedRow(Settings):
    """A row of the published tables: a system of ours."""

    slug: str | None = Field(None, description="Slug of a system that does not depend on LLMs.")
    scorer: str | None = Field(None, description="`published_as` of the scorer's model.")
    source: str | None = Field(None, description="Which explanations the scorer was shown.")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.slug is None) == (self.scorer is None) or (self.scorer is None) != (self.source is None):
            raise ValueError("give either slug, or scorer and source")
        return self


class PublishedColumn(Settings):
    """A column of the published tables: a metric in one of our tables."""

    table: OurTable = Field(description="Our table.")
    metric: str = Field(description="Its column.")
    encoder: str | None = Field(None, description="`published_as` of the encoder's model, for classifier tables.")
    part: str | None = Field(None, description="Split or OOD round, for classifier tables.")
    n: int = Field(ge=1, description="Items behind the published figure.")

    @model_validator(mode="after")
    def _classifier_tables_have_parts(self) -> Self:
        classified = self.table != "distribution_comparison"
        if classified != (self.encoder is not None) or classified != (self.part is not None):
            raise ValueError("encoder and part belong to the tables finetuning and ood")
        return self


class Note(Settings):
    """What is known about published cells."""

    table: str = Field(description="Published table.")
    row: str | None = Field(None, description="Row; every row when left out.")
    column: str | None = Field(None, description="Column; every column when left out.")
    note: str = Field(description="What is known.")

    def fits(self, table: str, row: str, column: str) -> bool:
        return self.table == table and self.row in (None, row) and self.column in (None, column)


class Variant(Settings):
    """The variant of each MJD that the published tables show."""

    selection: Literal["first", "longest"] = Field(description="Selection of model explanations.")
    mode: Literal["implicit", "explicit"] = Field(description="Prompt mode.")
    orders: Literal["all", "cyclic"] | int = Field(description="Explanation orders scored.")
    transform: Softmax = Field(description="The transform of its estimator, which is first_token.")


class Reading(Settings):
    """How to read the published tables."""

    data: dict[Literal["items", "pairs", "ood"], str] = Field(description="Loaders of the paper's data.")
    variant: Variant = Field(description="The variant of each MJD.")
    rows: dict[str, PublishedRow] = Field(description="Row title -> our system.")
    columns: dict[str, dict[str, PublishedColumn]] = Field(description="Table -> column -> where we have it.")
    title_columns: dict[str, str] = Field(
        {}, description="Table -> its column of row titles, where that is not system."
    )
    notes: list[Note] = Field([], description="What is known about cells.")

    def title_column(self, table: str) -> str:
        """The column of a published table that holds its row titles."""
        return self.title_columns.get(table, "system")


class Comparable(Settings):
    """What of the published tables a configuration makes: what is missing is a reason, not an entry."""

    systems: dict[str, str] = Field(description="Published row -> slug of our system.")
    encoders: dict[str, str] = Field(description="Published encoder -> its name in the configuration.")
    missing_systems: dict[str, str] = Field(description="Published row -> why it is not made.")
    missing_tables: dict[str, str] = Field(description="Our table -> why its numbers are not the paper's.")


def read_reading(directory: Path = PUBLISHED_DIR) -> Reading:
    """The reading of the published tables; raises `ConfigError`."""
    path = directory / "reading.yaml"
    return check(Reading, read_yaml(path), str(path))


def comparable(config: Config, reading: Reading) -> Comparable:
    """Which rows and encoders of the published tables `config` makes, decided by `published_as` of its models."""
    systems: dict[str, str] = {}
    missing: dict[str, str] = {}
    mjds = mjd_systems(config)
    for title, row in reading.rows.items():
        found = row.slug or _mjd_slug(config, mjds, reading.variant, row)
        if found:
            systems[title] = found
        else:
            missing[title] = _why_not_made(config, reading.variant, row)
    named = {name: _published_as(config, entry.model) for name, entry in config.encoders.items()}
    return Comparable(
        systems=systems,
        encoders={published: name for name, published in named.items() if published},
        missing_systems=missing,
        missing_tables=_other_data(config, reading),
    )


def _published_as(config: Config, model: str) -> str | None:
    return config.model_entry(model).published_as


def _mjd_slug(config: Config, mjds: Sequence[System], variant: Variant, row: PublishedRow) -> str | None:
    """The MJD of a published row; published explanations come before new ones of the same LLM."""
    found = [system for system in mjds if _is_row(config, variant, row, system)]
    published_first = sorted(found, key=lambda system: not str(system.generator).startswith(PUBLISHED))
    return published_first[0].slug if published_first else None


def _is_row(config: Config, variant: Variant, row: PublishedRow, system: System) -> bool:
    return (
        system.source == row.source
        and _published_as(config, config.llms[str(system.scorer)].model) == row.scorer
        and (system.generator is None or _writer(config, system.generator) == row.scorer)
        and system.selection in (variant.selection, "all")
        and system.mode in (variant.mode, "plain")
        and config.scoring.orders == variant.orders
        and config.scoring.estimators[str(system.estimator)] == FirstToken(transform=variant.transform)
    )


def _writer(config: Config, generator: str) -> str | None:
    """`published_as` of the LLM that wrote a generator's explanations."""
    if generator.startswith(PUBLISHED):
        return registry.published()[generator.removeprefix(PUBLISHED)].published_as
    return _published_as(config, config.llms[generator].model)


def _why_not_made(config: Config, variant: Variant, row: PublishedRow) -> str:
    scorers = {_published_as(config, config.llms[scorer].model) for scorer in config.scoring.scorers}
    if row.scorer not in scorers:
        return f"no scorer is {row.scorer}"
    how = f"{variant.selection}, {variant.mode}, orders {variant.orders}, softmax at {variant.transform.temperature:g}"
    return f"{row.scorer} is not scored with its source {row.source} as published ({how})"


def _other_data(config: Config, reading: Reading) -> dict[str, str]:
    """Our tables that rest on other data than the paper's, and on which."""
    given = {part: getattr(config.data, part) for part in reading.data}
    loaders = {part: data.loader if data else "missing" for part, data in given.items()}
    other = {part: f"data.{part} is {loaders[part]}, not {wanted}" for part, wanted in reading.data.items()}
    differing = {part for part, wanted in reading.data.items() if loaders[part] != wanted}
    if config.data.pairs and config.data.pairs.limit is not None and "pairs" not in differing:
        other["pairs"] = f"data.pairs is cut to {config.data.pairs.limit} pairs"
        differing.add("pairs")
    return {
        table: "; ".join(other[part] for part in parts if part in differing)
        for table, parts in _DECIDED_BY.items()
        if differing.intersection(parts)
    }
