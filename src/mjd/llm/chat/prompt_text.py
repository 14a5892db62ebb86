"""Rendered prompts: where each message stands in the text that a chat template makes of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from mjd import registry
from mjd.errors import ModelError
from mjd.llm.base import Message

# Stands for the content of message number i; mixed case, so that a template that changes case is noticed.
_STAND_IN = "Mjd{}Text"
# How templates mark turns: [INST], <</SYS>>, <|user|>, <start_of_turn>, <｜User｜>.
_TURN_MARK = re.compile(r"\[/?[A-Z_]+\]|<<?/?\w+>?>|<[|｜][^|｜<>\n]+[|｜]>")
_DROPPED = "Set prompts.system: null and put its text into the user prompts, or set the LLM's chat_template: none."
_ALTERED = "Set the LLM's chat_template: none, or change the text, or choose another model."


@dataclass(frozen=True)
class Frame:
    """A chat template's own text around messages of given roles: `pieces[i]` stands before message i."""

    pieces: tuple[str, ...]

    @property
    def text(self) -> str:
        """The frame with its stand-ins for the messages."""
        return "".join(part for i, piece in enumerate(self.pieces) for part in (stand_in(i) * (i > 0), piece))

    @cached_property
    def turn_marks(self) -> frozenset[str]:
        """What the template marks turns with, as text; not all tokenizers have tokens for it."""
        return frozenset(mark for piece in self.pieces for mark in _TURN_MARK.findall(piece))


@dataclass(frozen=True)
class Prompt:
    """A rendered prompt.

    Attributes:
        text: what the model reads.
        spans: start and end of each message's content in `text`.
        frame: the template's text around them; None where that depends on the contents.
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    frame: Frame | None

    @property
    def ending(self) -> str:
        """The text after the last message."""
        return self.text[self.spans[-1][1] :] if self.spans else self.text

    def continued_by(self, answer: str) -> Prompt:
        """The prompt with the beginning of the model's own answer, whose special tokens count as the template's do."""
        frame = Frame((*self.frame.pieces[:-1], self.frame.pieces[-1] + answer)) if self.frame else None
        return Prompt(self.text + answer, self.spans, frame)

    @property
    def imitates_turns(self) -> bool:
        """True where a message spells one of the template's marks of turns."""
        marks = self.frame.turn_marks if self.frame else frozenset()
        return any(mark in self.text[start:stop] for mark in marks for start, stop in self.spans)


def stand_in(i: int) -> str:
    """What takes the place of message i (from 1) in a frame."""
    return _STAND_IN.format(i - 1)


def frame_of(render: Callable[[Sequence[Message]], str], roles: Sequence[str], name: str, directive: str = "") -> Frame:
    """The frame that a template puts around messages of `roles`.

    Args:
        render: applies the template.
        directive: a word of the system message that the template acts on, see `without_directive`.

    Raises:
        ModelError: it leaves a message out, alters it, repeats it or changes the order.
    """
    contents = [_STAND_IN.format(i) for i in range(len(roles))]
    more = [f" {directive}" if directive and role == "system" else "" for role in roles]
    rest = render([Message(role, text + word) for role, text, word in zip(roles, contents, more, strict=True)])
    whole, pieces = rest, []
    for role, content in zip(roles, contents, strict=True):
        if whole.count(content) > 1:
            raise ModelError(f"The chat template of {name} writes the {role} message more than once.", _ALTERED)
        if content not in rest:
            raise _lacking(name, role, content, rest, whole)
        piece, _, rest = rest.partition(content)
        pieces.append(piece)
    return Frame((*pieces, rest))


def in_frame(text: str, messages: Sequence[Message], frame: Frame) -> Prompt | None:
    """A rendered prompt with the places of its messages; None where they do not stand as they are in `frame`."""
    spans = _spans_in_frame(text, messages, frame)
    return Prompt(text, spans, frame) if spans else None


def located(text: str, messages: Sequence[Message], name: str) -> Prompt:
    """The same where the template's text depends on the messages.

    Raises:
        ModelError: a message does not stand in it, up to white space, or out of order.
    """
    return Prompt(text, _spans_found(text, messages, name), None)


def without_directive(messages: Sequence[Message]) -> tuple[str, list[Message]]:
    """A word of the system message that switches reasoning, "" if there is none, and the messages without it.

    Templates that act on it take it out. System messages are the configuration's: no text of data is taken out so.
    """
    known = registry.reasoning().directives
    texts = [message.content for message in messages if message.role == "system"]
    directive = next((word for word in known if any(word in text for text in texts)), "")
    if not directive:
        return "", list(messages)
    return directive, [Message(m.role, m.content.replace(directive, "")) if m.role == "system" else m for m in messages]


def _spans_in_frame(text: str, messages: Sequence[Message], frame: Frame) -> tuple[tuple[int, int], ...] | None:
    """Spans between the frame's pieces; None where the text has other pieces."""
    first, *pieces = frame.pieces
    if not text.startswith(first):
        return None
    at, spans = len(first), []
    for i, (message, piece) in enumerate(zip(messages, pieces, strict=True)):
        stop = _end(text, at, message.content, piece, is_last=i == len(messages) - 1)
        if stop is None:
            return None
        spans.append((at, stop))
        at = stop + len(piece)
    return tuple(spans)


def _end(text: str, at: int, content: str, piece: str, is_last: bool) -> int | None:
    """Where `content` ends that starts at `at` and is followed by `piece`."""

    def follows(stop: int) -> bool:
        return text.startswith(piece, stop) and (not is_last or stop + len(piece) == len(text))

    for variant in (content, content.strip(), content.rstrip(), content.lstrip()):
        if text.startswith(variant, at) and follows(at + len(variant)):
            return at + len(variant)
    stop = _matched(text, at, content)[0]
    if stop is None:
        return None
    spaces = len(text) - stop - len(text[stop:].lstrip())
    return next((end for end in range(stop, stop + spaces + 1) if follows(end)), None)


def _matched(text: str, at: int, content: str) -> tuple[int | None, int]:
    """Where `content` ends in `text` if it starts at `at`, up to white space; and how much of it is there."""
    i = at
    for j, character in enumerate(content):
        if character.isspace():
            continue
        while i < len(text) and text[i].isspace():
            i += 1
        if i == len(text) or text[i] != character:
            return None, j
        i += 1
    return i, len(content)


def _spans_found(text: str, messages: Sequence[Message], name: str) -> tuple[tuple[int, int], ...]:
    """Spans of messages in a text whose frame is not known: each at its first place after the one before."""
    at, spans = 0, []
    for message in messages:
        first = next((c for c in message.content if not c.isspace()), "")
        start: int | None = at
        while first:
            found = text.find(first, start)
            if found < 0:
                raise _altered(name, message.role, message.content, text[at:])
            stop = _matched(text, found, message.content)[0]
            if stop is not None:
                spans.append((found, stop))
                at = stop
                break
            start = found + 1
        else:
            spans.append((at, at))
    return tuple(spans)


def _lacking(name: str, role: str, content: str, rest: str, whole: str) -> ModelError:
    """The error of a stand-in that does not stand where it should in a frame."""
    if content in whole:
        return ModelError(f"The chat template of {name} changes the order of messages (the {role} one).", _ALTERED)
    if content.lower() in rest.lower():
        return ModelError(
            f"The chat template of {name} alters the {role} message (its upper and lower case).", _ALTERED
        )
    cure = _DROPPED if role == "system" else _ALTERED
    return ModelError(f"The chat template of {name} leaves out the {role} message.", cure)


def _altered(name: str, role: str, content: str, text: str) -> ModelError:
    """The error of a message that does not stand in a prompt as it is."""
    content = content.strip()
    starts = (text.find(content[:size]) for size in (24, 8, 2))
    place = next((start for start in starts if start >= 0), None)
    same = 0 if place is None else _matched(text, place, content)[1]
    return ModelError(
        f"The chat template of {name} alters the {role} message (from {content[same : same + 40]!r} on).", _ALTERED
    )
