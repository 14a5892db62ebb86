"""Texts that contain a tokenizer's own tokens (`<|im_end|>`, `</s>`, `<think>`): they stay texts.

Data and answers are no part of a chat's structure, whatever they contain. A prompt with such a text is tokenised with
a copy of the tokenizer in which every such token has another, private name; where the chat template wrote a token, its
private name is put in. So tokens of the template are read as before, those of texts are not, and all else is as it was.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer

from mjd.errors import ModelError
from mjd.llm.chat.prompt_text import Prompt

# Lower-case letters and digits: no normaliser changes them.
_PRIVATE = "zqxjkvmjd{:06d}vkjxqz"
_BEGINNING = 3
# Frames whose markers are remembered; frames that end with an answer are many.
_FRAMES_KEPT = 64
# Chat structure is written in brackets: <think>, [TOOL_CALLS], |||x|||, <｜x｜>, ◁think▷.
_BRACKETS = "<>[]{}|｜◁▷"
_ANY_PRIVATE = re.compile(r"zqxjkvmjd\d{6}vkjxqz")


class Markers:
    """The special and added tokens of a tokenizer that texts could spell.

    Added tokens that are words, signs or white space (runs of spaces, say) are part of the language, not of a chat's
    structure, unless the tokenizer calls them special.

    Args:
        tokenizer: a Transformers tokenizer.
        name: model name for errors.
        add_special_tokens: whether it adds tokens of its own to prompts.
    """

    def __init__(self, tokenizer: Any, name: str, add_special_tokens: bool) -> None:
        self.tokenizer, self.name, self.add_special_tokens = tokenizer, name, add_special_tokens
        added = tokenizer.added_tokens_decoder
        self.texts: dict[str, int] = {
            token.content: int(i) for i, token in added.items() if token.content and _is_marker(token)
        }
        # An unknown character becomes the unknown token: that is no marker in a text.
        self.ids = frozenset(self.texts.values()) - {tokenizer.unk_token_id}
        longest_first = sorted(self.texts, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        # Tokenizers have hundreds of reserved tokens, whose beginnings are few: looking for those is fast.
        self._by_beginning: dict[str, list[str]] = {}
        for text in longest_first:
            self._by_beginning.setdefault(text[:_BEGINNING], []).append(text)
        self._beginnings = re.compile("|".join(map(re.escape, self._by_beginning)) or r"(?!)")
        self._in_frames: dict[str, list[int]] = {}

    def inside(self, prompt: Prompt) -> list[str]:
        """Markers that the contents of `prompt` spell, alone or together with the template's text beside them."""
        return [
            marker
            for at, marker in self._found(prompt.text)
            if any(at < stop and start < at + len(marker) for start, stop in prompt.spans)
        ]

    def _found(self, text: str) -> Iterator[tuple[int, str]]:
        """Where markers begin in a text, overlapping ones too; of those that begin at one place the longest."""
        at = 0
        while found := self._beginnings.search(text, at):
            start = found.start()
            beginnings = (text[start : start + n] for n in range(_BEGINNING, 0, -1))
            markers = (marker for beginning in beginnings for marker in self._by_beginning.get(beginning, ()))
            marker = next((marker for marker in markers if text.startswith(marker, start)), None)
            if marker:
                yield start, marker
            at = start + 1

    def is_read_from_text(self, prompt: Prompt, ids: Sequence[int]) -> bool:
        """True when the tokens of `prompt` hold markers that are not the template's, or lack some that are."""
        return bool(self.inside(prompt)) or (
            prompt.frame is not None and [i for i in ids if i in self.ids] != self._of_frame(prompt)
        )

    def as_text(self, prompt: Prompt) -> list[int]:
        """Token ids of `prompt`, its contents read as plain text.

        Raises:
            ModelError: they cannot be kept apart from the template's tokens.
        """
        if prompt.frame is None or self._copy is None or _ANY_PRIVATE.search(prompt.text):
            raise self._refusal(prompt)
        copy, ids_of = self._copy
        marked = []
        at = 0
        for start, stop in (*prompt.spans, (len(prompt.text), len(prompt.text))):
            marked += [self._renamed(prompt.text[at:start]), prompt.text[start:stop]]
            at = stop
        found = copy.encode("".join(marked), add_special_tokens=False).ids
        before, after = self._added_around if self.add_special_tokens else ((), ())
        ids = [*before, *(ids_of.get(i, i) for i in found), *after]
        if [i for i in ids if i in self.ids] != self._of_frame(prompt):
            raise self._refusal(prompt)
        return ids

    def _refusal(self, prompt: Prompt) -> ModelError:
        found = ", ".join(map(repr, dict.fromkeys(self.inside(prompt)))) or "special tokens"
        return ModelError(
            f"A text spells {found}, which {self.name} would read as its own tokens.",
            "Remove them from the text, or set the LLM's chat_template: none.",
        )

    def _of_frame(self, prompt: Prompt) -> list[int]:
        """Markers among the tokens of the frame alone, in order."""
        assert prompt.frame is not None
        text = prompt.frame.text
        if text not in self._in_frames:
            if len(self._in_frames) >= _FRAMES_KEPT:
                self._in_frames.clear()
            ids = self.tokenizer(text, add_special_tokens=self.add_special_tokens)["input_ids"]
            self._in_frames[text] = [int(i) for i in ids if i in self.ids]
        return self._in_frames[text]

    @cached_property
    def _private(self) -> dict[str, str]:
        return {text: _PRIVATE.format(i) for i, text in enumerate(self.texts)}

    def _renamed(self, text: str) -> str:
        return self._pattern.sub(lambda found: self._private[found.group()], text)

    @cached_property
    def _added_around(self) -> tuple[list[int], list[int]]:
        """Tokens that the tokenizer adds before and after a text."""
        bare, whole = (list(self.tokenizer("a", add_special_tokens=add)["input_ids"]) for add in (False, True))
        start = next(i for i in range(len(whole) + 1) if whole[i : i + len(bare)] == bare)
        return whole[:start], whole[start + len(bare) :]

    @cached_property
    def _copy(self) -> tuple[Tokenizer, Mapping[int, int]] | None:
        """The tokenizer with private names for markers, and the ids that differ; None for one written in Python."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            return None
        spec = json.loads(backend.to_str())
        ids = {token["content"]: token["id"] for token in spec["added_tokens"]}
        for token in spec["added_tokens"]:
            token["content"] = self._private.get(token["content"], token["content"])
        spec |= {"truncation": None, "padding": None, "post_processor": None}
        _rename_in_model(spec["model"], self._private)
        copy = Tokenizer.from_str(json.dumps(spec))
        return copy, {copy.token_to_id(self._private.get(text, text)) or 0: i for text, i in ids.items()}


def _is_marker(token: Any) -> bool:
    content = token.content
    has_brackets = any(c in _BRACKETS for c in content) and any(c.isalnum() for c in content)
    return bool(content.strip()) and (token.special or has_brackets)


def _rename_in_model(model: dict[str, Any], private: Mapping[str, str]) -> None:
    """Rename markers in a tokenizer's vocabulary, where some have pieces for them that texts would match."""
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        model["vocab"] = {private.get(piece, piece): i for piece, i in vocabulary.items()}
    elif isinstance(vocabulary, list):
        model["vocab"] = [[private.get(piece, piece), score] for piece, score in vocabulary]
    if model.get("unk_token") in private:
        model["unk_token"] = private[model["unk_token"]]
    if model.get("merges"):
        pairs = [tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
        model["merges"] = [list(pair) for pair in pairs if not private.keys() & {*pair, "".join(pair)}]
