"""Prompts: templates filled with an item's text, explanations and options in a given order."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mjd.config.prompts import ExplainPrompts, Prompts
from mjd.io import Provenance, write_text
from mjd.labels import Label, LabelSet
from mjd.llm.base import Message
from mjd.settings import check


@dataclass(frozen=True)
class Explanation:
    """An explanation and the key of the label it argues for."""

    label: str
    text: str


@dataclass(frozen=True)
class ScorePrompt:
    """One prompt of an item.

    `explanation_order` holds positions of the item's explanations in the order shown, `option_order` label keys in the
    order shown (the first is option A).
    """

    explanation_order: tuple[int, ...]
    option_order: tuple[str, ...]
    messages: tuple[Message, ...]


def _messages(prompts: ExplainPrompts, user: str) -> tuple[Message, ...]:
    system = (Message("system", prompts.system),) if prompts.system else ()
    return (*system, Message("user", user.strip()))


def _label_fields(prompts: ExplainPrompts, label: Label) -> dict[str, str]:
    return {"label": prompts.label_name(label), "label_meaning": label.meaning}


def prompts_from(given: Mapping[str, Any] | str) -> Prompts:
    """A rule's templates: those of its params, or of a file that rule upstream_prompts wrote.

    Raises:
        ConfigError: the templates lack a key or have an unknown one.
    """
    if isinstance(given, str):
        return check(Prompts, json.loads(Path(given).read_text(encoding="utf-8"))["prompts"], given)
    return check(Prompts, given, "prompts")


def explain_prompts_from(given: Mapping[str, Any] | str) -> ExplainPrompts:
    """The same for generating explanations, whose params hold the templates that it uses."""
    return prompts_from(given) if isinstance(given, str) else check(ExplainPrompts, given, "prompts")


def write_prompts(prompts: Prompts, path: str | Path, provenance: Provenance) -> None:
    """Write templates as JSON, for `prompts_from`."""
    whole = {"provenance": dict(provenance), "prompts": prompts.model_dump()}
    write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n", path)


def explain_prompt(prompts: ExplainPrompts, texts: Mapping[str, str], label: Label) -> tuple[Message, ...]:
    """The prompt that asks for explanations of one label."""
    return _messages(prompts, prompts.explain_template(label).format(**texts, **_label_fields(prompts, label)))


def explanation_orders(n: int, orders: Literal["all", "cyclic"] | int, seed: int) -> list[tuple[int, ...]]:
    """Orders in which n explanations are shown.

    Args:
        n: number of explanations; 0 gives one empty order.
        orders: `all` n! permutations, the n `cyclic` rotations (each explanation once in each place), or that many
            distinct permutations (all if there are no more), drawn with `seed`, the listed order always among them.
    """
    if n == 0:
        return [()]
    listed = tuple(range(n))
    if orders == "cyclic":
        return [listed[shift:] + listed[:shift] for shift in range(n)]
    if orders == "all" or orders >= math.factorial(n):
        return list(itertools.permutations(listed))
    # Numbers of permutations, not a list of them: 10 explanations have 3.6 million.
    drawn, chosen = random.Random(seed), {0}
    while len(chosen) < orders:
        chosen.add(drawn.randrange(math.factorial(n)))
    return [_permutation(n, number) for number in sorted(chosen)]


def _permutation(n: int, number: int) -> tuple[int, ...]:
    """Permutation `number` (from 0) of 0, ..., n - 1, in lexicographic order."""
    left, found = list(range(n)), []
    for size in range(n - 1, -1, -1):
        place, number = divmod(number, math.factorial(size))
        found.append(left.pop(place))
    return tuple(found)


def score_prompts(
    prompts: Prompts,
    texts: Mapping[str, str],
    explanations: Sequence[Explanation],
    labels: LabelSet,
    mode: Literal["implicit", "explicit", "plain"],
    orders: Literal["all", "cyclic"] | int,
    seed: int,
) -> list[ScorePrompt]:
    """Every prompt of one item: all option orders for each explanation order, neighbours sharing prefixes.

    Args:
        mode: `plain` shows no explanations, `implicit` their texts, `explicit` texts and labels.
    """
    shown = () if mode == "plain" else explanations
    return [
        ScorePrompt(shown_as, options, _score_prompt(prompts, texts, shown, labels, mode, shown_as, options))
        for shown_as in explanation_orders(len(shown), orders, seed)
        for options in labels.option_orders()
    ]


def first_score_prompt(
    prompts: Prompts,
    texts: Mapping[str, str],
    explanations: Sequence[Explanation],
    labels: LabelSet,
    mode: Literal["implicit", "explicit", "plain"],
) -> ScorePrompt:
    """The first of `score_prompts`: explanations in listed order, options in label order."""
    shown = () if mode == "plain" else explanations
    listed = tuple(range(len(shown)))
    messages = _score_prompt(prompts, texts, shown, labels, mode, listed, labels.keys)
    return ScorePrompt(listed, labels.keys, messages)


def _score_prompt(
    prompts: Prompts,
    texts: Mapping[str, str],
    explanations: Sequence[Explanation],
    labels: LabelSet,
    mode: str,
    explanation_order: Sequence[int],
    option_order: Sequence[str],
) -> tuple[Message, ...]:
    options = "\n".join(
        prompts.option.format(letter=letter, **_label_fields(prompts, labels[key]))
        for letter, key in zip(labels.letters, option_order, strict=True)
    )
    single = {
        f"option_{letter}": prompts.label_name(labels[key])
        for letter, key in zip(labels.letters, option_order, strict=True)
    }
    fields = dict(texts, options=options, letters=_enumerate(labels.letters), **single)
    if not explanations:
        return _messages(prompts, prompts.score.format(**fields))
    template = prompts.explicit if mode == "explicit" else prompts.implicit
    lines = (
        template.format(
            number=number, text=explanations[i].text, **_label_fields(prompts, labels[explanations[i].label])
        )
        for number, i in enumerate(explanation_order, start=1)
    )
    return _messages(prompts, prompts.score_with_explanations.format(**fields, explanations="\n".join(lines)))


def _enumerate(letters: Sequence[str]) -> str:
    """`A, B or C`."""
    return f"{', '.join(letters[:-1])} or {letters[-1]}"
