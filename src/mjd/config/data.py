"""Sections of the configuration that say what the data are: labels, text fields, items, pairs and OOD rounds."""

from __future__ import annotations

import math
import re
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from mjd.config.prompts import EXPLAIN_FIELDS, SCORE_FIELDS
from mjd.labels import LabelSet, check_labels, dash_note, label_set
from mjd.settings import Settings, check_distinct, check_fits_paths

# Columns of items, pairs and OOD rounds beside text fields.
OWN_COLUMNS = frozenset({"uid", "round", "label", "split", "n_votes"})

# Splits that predictions hold beside rounds, and what tables count beside them (`n_seeds`).
OWN_ROUNDS = frozenset({"dev", "test", "seeds"})

# Distributions beside those of label counts.
OWN_DISTRIBUTIONS = frozenset({"hjd", "uniform"})


# All orders of options are scored: 720 for 6 labels.
MOST_LABELS = 6


# Label keys: column suffixes, and joined by commas in `option_order`.
LABEL_KEY = r"^-?[A-Za-z0-9][A-Za-z0-9_-]*$"


def _identifier(name: str) -> str:
    """A name like `name` that a template field can have."""
    found = re.sub(r"\W+", "_", name).strip("_")
    return found if found.isidentifier() else f"text_{found}".rstrip("_")


class LabelEntry(Settings):
    """One label."""

    key: str = Field(
        pattern=LABEL_KEY,
        description="Short key: column suffix and value in files. Letters, digits, `-` and `_`; numbers in quotes: "
        '`"-3"`. No key may be the name of another label.',
    )
    name: str = Field(
        description="Name shown to people, LLMs and in checkpoints' id2label. Files may hold it instead of the key, in "
        "any case."
    )
    meaning: str = Field("", description="What the label says about the text, for prompts ({label_meaning}).")

    @field_validator("key", mode="before")
    @classmethod
    def _fits_columns(cls, key: Any) -> Any:
        if isinstance(key, str) and not re.fullmatch(LABEL_KEY, key):
            raise ValueError(
                f"label key {key!r} must be ASCII letters, digits, - and _, it becomes a column name{dash_note(key)}: "
                "choose a shorter key, and give the label's words as its name"
            )
        return key


class LabelCounts(Settings):
    """A set of label counts that items carry, and how label-guided selection follows it."""

    title: str = Field(description="Row title of its distribution in tables.")
    guided_by: Literal["explanations", "counts"] = Field(
        description="Label-guided selection walks the item's human explanations, or repeats each label by its count."
    )


def label_counts_of(source: str) -> str:
    """The name of the label counts that a label-guided source follows."""
    return source.removesuffix("-lg")


class Task(Settings):
    """The labels and text fields; NLI is one instance."""

    labels: list[LabelEntry] = Field(
        min_length=2,
        json_schema_extra={"maxItems": MOST_LABELS},
        description="2 to 6 labels, in label order; all K! orders of K options are scored.",
    )
    text_fields: list[str] = Field(
        min_length=1,
        max_length=2,
        description="Text columns of an item: letters, digits and underscores, no digit first (prompts have {field}).",
    )
    hjd_title: str = Field("HJD", description="Row title of the human judgment distribution.")
    train_hjd: Literal["all", "some", "none"] = Field(
        "all",
        description="Training items with an HJD. some: systems are compared on those, none is fine-tuned on HJDs. "
        "none: `all` leaves out the tables distribution_comparison and finding too.",
    )
    label_counts: dict[str, LabelCounts] = Field(
        {}, description="Label counts of training items, by column prefix; an entry of null removes an inherited one."
    )

    @field_validator("labels")
    @classmethod
    def _few(cls, labels: list[LabelEntry]) -> list[LabelEntry]:
        if len(labels) > MOST_LABELS:
            orders = math.factorial(len(labels))
            raise ValueError(
                f"{len(labels)} labels are too many: every item is scored with all {orders:,} orders of its options. "
                f"Give at most {MOST_LABELS} ({math.factorial(MOST_LABELS)} orders)"
            )
        return labels

    @field_validator("labels")
    @classmethod
    def _distinct(cls, labels: list[LabelEntry]) -> list[LabelEntry]:
        check_labels(label_set(label.model_dump() for label in labels))
        return labels

    @field_validator("text_fields")
    @classmethod
    def _distinct_fields(cls, fields: list[str]) -> list[str]:
        check_distinct(fields)
        for field in fields:
            if not field.isidentifier():  # {Input.text}, {a[b]}, {a:b} and {a!b} mean something else in templates
                raise ValueError(
                    f"names {field!r}, which cannot stand in a prompt template: rename the column to letters, digits "
                    f"and underscores, no digit first (for instance {_identifier(field)!r})"
                )
        return fields

    @field_validator("label_counts")
    @classmethod
    def _names_fit_paths(cls, counts: dict[str, LabelCounts]) -> dict[str, LabelCounts]:
        check_fits_paths(counts)
        if taken := sorted(OWN_DISTRIBUTIONS & counts.keys()):
            raise ValueError(f"name {taken[0]!r} is taken by a distribution that is always there: choose another")
        return counts

    @model_validator(mode="after")
    def _columns_differ(self) -> Self:
        check_labels(self.label_set, list(self.label_counts))
        for name in self.label_counts:
            if taken := [column for column in self.label_set.columns(name) if column.casefold() in OWN_COLUMNS]:
                raise ValueError(f"label_counts {name!r} has the column {taken[0]!r}, which mjd uses itself: rename it")
        return self

    @model_validator(mode="after")
    def _fields_are_free(self) -> Self:
        """Text fields are columns beside others, and fields of templates beside others."""
        labels = self.label_set
        taken = OWN_COLUMNS | EXPLAIN_FIELDS | SCORE_FIELDS | {f"option_{letter}" for letter in labels.letters}
        taken |= {column for name in ("hjd", *self.label_counts) for column in labels.columns(name)}
        for field in self.text_fields:
            if field in taken:
                raise ValueError(f"text_fields names {field!r}, which mjd uses itself: give the column another name")
        return self

    @property
    def label_set(self) -> LabelSet:
        return label_set(label.model_dump() for label in self.labels)

    @property
    def guided_by(self) -> dict[str, Literal["explanations", "counts"]]:
        """What guides each label-guided source, by source: `<name>-lg` for each of the label counts."""
        return {f"{name}-lg": entry.guided_by for name, entry in self.label_counts.items()}

    def items_settings(self) -> dict[str, Any]:
        """What decides items, for rule params: a change here loads them again, one of titles and meanings does not."""
        kept = self.model_dump(exclude={"hjd_title": True, "labels": {"__all__": {"meaning"}}})
        for name, entry in kept["label_counts"].items():
            entry["title"] = name
        return kept

    def pairs_settings(self) -> dict[str, Any]:
        """The same for pairs and OOD rounds, which have a label and no label counts."""
        kept = self.items_settings()
        return {key: kept[key] for key in ("labels", "text_fields")}


class ItemsData(Settings):
    """Items and their human explanations."""

    loader: Literal["tables", "mjd-estimator"] = Field(
        description="tables: your own files; mjd-estimator: the paper's 341 items with ChaosNLI dev and test."
    )
    items: str | None = Field(
        None,
        description="tables: CSV or Parquet file with a row per item: uid, the text fields, split and, where known, "
        "hjd_* (shares), n_votes (how many labels they come from) and label counts.",
    )
    human_explanations: str | None = Field(None, description="tables: CSV or Parquet file of human explanations.")


class PairsData(Settings):
    """Labelled pairs for the base classifier."""

    loader: Literal["tables", "esnli", "multinli"] = Field(description="tables: your own file; else a public corpus.")
    path: str | None = Field(None, description="tables: CSV or Parquet file with uid, the text fields and label.")
    limit: int | None = Field(None, ge=1, description="Use the first N pairs only; the top-level limit does not.")


class OodData(Settings):
    """Out-of-distribution test rounds."""

    loader: Literal["tables", "anli-dev", "anli-test"] = Field(description="tables: your own file; else ANLI.")
    path: str | None = Field(None, description="tables: CSV or Parquet with uid, round, the text fields and label.")
    rounds: list[str] = Field(["R1", "R2", "R3"], min_length=1, description="Rounds, in table order.")

    @field_validator("rounds")
    @classmethod
    def _distinct(cls, rounds: list[str]) -> list[str]:
        """Rounds become columns of tables, in lower case; dev and test stand beside them in predictions."""
        check_distinct(rounds)
        seen: dict[str, str] = {}
        for name in rounds:
            if name.casefold() in OWN_ROUNDS:
                raise ValueError(f"names {name!r}, which mjd uses itself: rename the round")
            if (earlier := seen.setdefault(name.casefold(), name)) != name:
                raise ValueError(f"names {earlier!r} and {name!r}, which differ in case alone: rename one")
        return rounds


class Data(Settings):
    """The data set."""

    title: str = Field(description="Name of the data set, shown in every table and figure.")
    synthetic: bool = Field(False, description="Marks tables and figures as made from synthetic data.")
    items: ItemsData = Field(description="Items and human explanations.")
    pairs: PairsData | None = Field(None, description="Labelled pairs for the base classifier; encoders need them.")
    ood: OodData | None = Field(None, description="Out-of-distribution test rounds; encoders need them.")

    @model_validator(mode="after")
    def _tables_have_paths(self) -> Self:
        if self.items.loader == "tables" and not self.items.items:
            raise ValueError("items.loader tables needs items.items, the path of your file")
        for name in ("pairs", "ood"):
            part = getattr(self, name)
            if part and part.loader == "tables" and not part.path:
                raise ValueError(f"{name}.loader tables needs {name}.path, the path of your file")
        return self

    @property
    def label(self) -> str:
        """The data set's name as tables and figures show it."""
        return f"{self.title} (synthetic)" if self.synthetic and "synthetic" not in self.title else self.title


# Registry sources that each loader reads.
_LOADER_SOURCES: dict[str, tuple[str, ...]] = {
    "tables": (),
    "mjd-estimator": ("mjd-estimator-items", "mjd-estimator-splits", "chaosnli-mnli"),
    "esnli": ("esnli",),
    "multinli": ("multinli",),
    "anli-dev": ("anli-dev",),
    "anli-test": ("anli",),
}


def source_ids(loader: str) -> tuple[str, ...]:
    """Ids of the registry sources that a loader reads."""
    return _LOADER_SOURCES[loader]
