"""Label order, defined once: every distribution, column group and checkpoint follows it."""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from mjd.errors import DataError


@dataclass(frozen=True)
class Label:
    """One label: a short `key` (column suffix, file value), a `name`, and the `meaning` shown to the LLM."""

    key: str
    name: str
    meaning: str = ""


@dataclass(frozen=True)
class LabelSet:
    """An ordered, closed set of K labels (2 to 6).

    The order of `labels` is the order of every probability vector and column group in mjd.
    """

    labels: tuple[Label, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[Label]:
        return iter(self.labels)

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(label.key for label in self.labels)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(label.name for label in self.labels)

    @property
    def letters(self) -> tuple[str, ...]:
        """Option letters in the order options are shown: A, B, C, ..."""
        return tuple(string.ascii_uppercase[: len(self)])

    def __getitem__(self, key: str) -> Label:
        return self.labels[self.index(key)]

    def index(self, key: str) -> int:
        """Position of a label key in label order; raises `DataError` for an unknown key."""
        try:
            return self.keys.index(key)
        except ValueError:
            raise DataError(
                f"Label {key!r} is not one of {', '.join(self.keys)}.",
                "Use the label keys of the configuration's task.labels.",
            ) from None

    def columns(self, prefix: str) -> list[str]:
        """Column names of one group in label order, e.g. `p_e, p_n, p_c`."""
        return [f"{prefix}_{key}" for key in self.keys]

    def option_orders(self) -> list[tuple[str, ...]]:
        """All K! orders in which the labels can be shown as options, label order first."""
        return list(itertools.permutations(self.keys))

    def normalise(self, value: str, aliases: Mapping[str, str] | None = None) -> str:
        """Map a label key, name (any case) or alias to its key; raises `DataError` when it is none of them."""
        text = str(value).strip()
        if aliases and text in aliases:
            return aliases[text]
        for label in self.labels:
            if text == label.key or text.casefold() == label.name.casefold():
                return label.key
        raise DataError(
            f"Label {value!r} is not one of {', '.join(self.keys)}.",
            "Use the label keys or names of the configuration's task.labels.",
        )


def label_set(entries: Iterable[Mapping[str, str]]) -> LabelSet:
    """Build a `LabelSet` from plain mappings with `key`, `name` and optional `meaning`."""
    return LabelSet(tuple(Label(e["key"], e["name"], e.get("meaning", "")) for e in entries))
