"""Reasoning that models write before their answer: where it begins and ends in prompts and answers."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Sequence

from mjd import registry

# Label mass below which a first token that begins reasoning leaves no doubt that the model reasons first.
LITTLE_MASS = 0.1


def after_reasoning(text: str) -> str | None:
    """An answer without its reasoning; None when it never leaves it.

    An end mark without a begin mark before it ends reasoning that the chat template began. Text before and between
    blocks of reasoning is kept.
    """
    known = registry.reasoning()
    kept: list[str] = []
    for block in known.blocks:
        if block.only_as_pair:
            words = text.lstrip()
            if words.startswith(block.begin) and block.end in words:
                text = words.partition(block.end)[2]
    blocks = [block for block in known.blocks if not block.only_as_pair]
    marks = re.compile("|".join(re.escape(mark) for block in blocks for mark in (block.begin, block.end)))
    begins, ends = {block.begin: block.end for block in blocks}, {block.end for block in blocks}
    at, inside = 0, None
    while found := marks.search(text, at):
        mark = found.group()
        if inside is None and mark in begins:
            kept.append(text[at : found.start()])
            inside = begins[mark]
        elif mark == inside:
            inside = None
        elif inside is None and mark in ends:
            kept.clear()
        elif inside is None:
            kept.append(text[at : found.end()])
        at = found.end()
    if inside is not None:
        return None
    if not at:  # no mark
        return text
    rest = "\n".join([*(part for part in kept if part.strip()), text[at:]])
    for wrapper in known.wrappers:
        rest = rest.replace(wrapper, "")
    return rest.strip()


def opens_reasoning(end_of_prompt: str) -> str | None:
    """The mark of the reasoning that a chat template begins, and does not end, after the last message; else None."""
    for block in registry.reasoning().blocks:
        if not block.only_as_pair and end_of_prompt.rfind(block.begin) > end_of_prompt.rfind(block.end):
            return block.begin
    return None


def begins_reasoning(token: str) -> bool:
    """True for the text of a first token that is, or begins, a mark of reasoning (`<think>`, `[TH`, `<|channel|>`)."""
    token = token.strip()
    marks = [block.begin for block in registry.reasoning().blocks if not block.only_as_pair]
    # Words that begin a sentence ("Here") and a lone bracket may begin anything.
    return len(token) > 1 and any(
        mark.startswith(token) or token.startswith(mark) for mark in marks if not mark[0].isalpha()
    )


def reasons_first(
    answers: Iterable[tuple[str | None, float | None]], read_on: Callable[[int], str] | None = None
) -> str | None:
    """How the answers of a scorer that reasons first begin, from (top token, label mass) of its first scores.

    None where fewer than half of them begin reasoning with little probability for the letters. A lone bracket may begin
    a mark that is several tokens (`<`, `think`, `>`): the longer beginning of an answer tells.

    Args:
        read_on: gives the beginning of the answer to a prompt, by its place in `answers`; without it a lone bracket is
            not taken for reasoning.
    """
    given = list(answers)
    little = {i: token for i, (token, mass) in enumerate(given) if token and (mass is None or mass < LITTLE_MASS)}
    sure = [token for token in little.values() if begins_reasoning(token)]
    unsure = [i for i, token in little.items() if token.strip() in _brackets()]
    if 2 * len(sure) > len(given):
        return sure[0]
    if read_on and unsure and 2 * (len(sure) + len(unsure)) > len(given):
        beginning = read_on(unsure[0])
        return beginning if begins_reasoning(beginning) else None
    return None


@functools.cache
def _brackets() -> frozenset[str]:
    """What marks of reasoning begin with."""
    return frozenset(mark[0] for mark in marks() if not mark[0].isalpha())


@functools.cache
def marks() -> Sequence[str]:
    """Every mark of reasoning."""
    return [mark for block in registry.reasoning().blocks for mark in (block.begin, block.end)]
