"""Label order, defined once: every distribution, column group and checkpoint follows it."""

from __future__ import annotations

import itertools
import re
import string
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mjd.errors import DataError

# Columns of scores tables beside those of labels: `score_bound` is no label's score. It is in stored scores, whose
# columns stay as they are, so no label may have its key.
RESERVED_KEYS = frozenset({"bound"})

# Characters that look like the hyphen-minus of a key such as -3, and what Unicode calls them.
_DASHES = {"\u2212": "a minus sign", "\u2013": "an en dash", "\u2010": "a hyphen", "\u2011": "a non-breaking hyphen"}
# A whole number as software writes it from a column of floats.
_WHOLE_NUMBER = re.compile(r"(-?[0-9]+)\.0+")
# What software may take for one: spreadsheets write 01 as 1, and -0 as 0.
_LOOKS_WHOLE = re.compile(r"(-?[0-9]{1,300})(?:\.0*)?")


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
        """Map a written value to the key of its label.

        The first that fits: an alias, a key (exactly) of any label, a name (case and white space do not matter) of
        any label, a key written as a decimal number (-3.0 for -3). `check_labels` makes sure that no value fits two
        labels.

        Raises:
            DataError: it is none of them.
        """
        text = str(value).strip()
        if aliases and text in aliases:
            return aliases[text]
        # Keys of all labels before names of any: the name of one label may look like the key of another.
        if text in self.keys:
            return text
        for label in self.labels:
            if same_name(text, label.name):
                return label.key
        number = _WHOLE_NUMBER.fullmatch(text)
        if number and number[1] in self.keys:
            return number[1]
        raise DataError(
            f"Label {value!r} is not one of {', '.join(self.keys)}{dash_note(text)}.",
            "Use the label keys or names of the configuration's task.labels.",
        )


def dash_note(value: str) -> str:
    """For messages: which character of `value` only looks like the hyphen-minus of a key; "" where none does."""
    found = next((character for character in value if character in _DASHES), None)
    return f" (it holds {_DASHES[found]}, U+{ord(found):04X}; write a hyphen-minus, -)" if found else ""


def _folded(text: str) -> str:
    """What two spellings of one name share: case, white space and the form of accents do not count."""
    return " ".join(unicodedata.normalize("NFC", text).split()).casefold()


def same_name(one: str, other: str) -> bool:
    """Whether two spellings are of one name: case, white space and the form of accents do not count."""
    return _folded(one) == _folded(other)


def _meant(text: str) -> str:
    """What two values share that people or software could take for one: dashes look alike, 3.0 and 03 are 3."""
    visible = "".join(character for character in text if unicodedata.category(character) != "Cf")
    plain = _folded(visible).translate(dict.fromkeys(map(ord, _DASHES), "-"))
    number = _LOOKS_WHOLE.fullmatch(plain)
    return str(int(number[1])) if number else plain


def check_labels(labels: LabelSet, count_names: Sequence[str] = ()) -> None:
    """Check that every written value means one label, and every column one thing.

    Args:
        labels: the labels.
        count_names: names of label counts, which are column prefixes of items beside `hjd`.

    Raises:
        ValueError: for validators: keys or names do not differ (in more than case, white space or zeros in front), one
            has a line break, a key is another label's name or taken by a column of mjd, or two columns of items have
            one name.
    """
    _check_differ("key", labels.keys)
    _check_differ("name", labels.names)
    for label in labels:
        for other in labels:
            if label is not other and _meant(label.key) == _meant(other.name):
                raise ValueError(
                    f"key {label.key!r} of label {label.name!r} is also the name of the label with key {other.key!r}: "
                    "in a file it could mean either. Rename one, or give every label its key as its name"
                )
        if label.key.casefold() in RESERVED_KEYS:
            raise ValueError(
                f"label key {label.key!r} is taken: score_{label.key} is a column of mjd. Choose another key"
            )
    groups = {name: labels.columns(name) for name in ("hjd", *count_names)}
    for (name, columns), (later, others) in itertools.combinations(groups.items(), 2):
        shared = {column.casefold() for column in columns} & {column.casefold() for column in others}
        if shared:
            raise ValueError(
                f"the column {sorted(shared)[0]!r} would belong to {name!r} and to {later!r}, whose columns are "
                f"{', '.join(columns)} and {', '.join(others)}. Rename the label counts or the keys"
            )


def _check_differ(what: str, values: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for value in values:
        if not _folded(value):
            raise ValueError(f"a label {what} is empty: give every label a {what}")
        if len(value.splitlines()) > 1:
            raise ValueError(f"label {what} {value!r} has a line break, which would begin another option in prompts")
        earlier = seen.setdefault(_meant(value), value)
        if values.count(value) > 1:
            raise ValueError(f"label {what}s must differ: {', '.join(values)}")
        if earlier != value:
            raise ValueError(
                f"label {what}s must differ in more than case, white space, invisible characters, kind of dash, zeros "
                f"in front or .0, but {earlier!r} and {value!r} do not. Rename one"
            )


def label_set(entries: Iterable[Mapping[str, str]]) -> LabelSet:
    """Build a `LabelSet` from plain mappings with `key`, `name` and optional `meaning`."""
    return LabelSet(tuple(Label(e["key"], e["name"], e.get("meaning", "")) for e in entries))
