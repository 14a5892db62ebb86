"""Prompts to tokens: chat template, special tokens and option letters of a model directory's tokenizer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from mjd.checkpoints import load_tokenizer
from mjd.errors import ModelError
from mjd.llm.base import Message

# The day for templates that ask for today's (Llama 3.1 and later, which name it where there is no clock): prompts must
# not change from day to day.
DAY = date(2024, 7, 26)


class ChatTokenizer:
    """A model's tokenizer as mjd uses it.

    Args:
        directory: model directory.
        chat_template: `auto` (the tokenizer's own, plain text where it has none) or `none`.
        name: model name for errors.
        longest: most tokens a prompt may have; None reads the model's config.
    """

    def __init__(self, directory: str | Path, chat_template: str, name: str, longest: int | None = None) -> None:
        self.tokenizer: Any = load_tokenizer(directory, name)
        self.name = name
        template = self.tokenizer.chat_template
        self.is_plain = chat_template == "none" or not template
        # The template changes every prompt: its hash is part of request keys, with the day where it asks for that.
        text = f"{template}{DAY}" if "strftime_now" in str(template) else str(template)
        self.template_hash = "none" if self.is_plain else hashlib.sha256(text.encode()).hexdigest()[:16]
        self.longest = longest or _config_value(Path(directory) / "config.json", "max_position_embeddings")
        ends = _config_value(Path(directory) / "generation_config.json", "eos_token_id")
        ids = [*(ends if isinstance(ends, list) else [ends]), self.tokenizer.eos_token_id]
        self.end_ids = sorted({int(i) for i in ids if i is not None})
        self._letter_ids: dict[tuple[tuple[str, ...], str], list[int]] = {}

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt as text, ending where the answer begins.

        Raises:
            ModelError: the chat template refuses it.
        """
        if self.is_plain:
            return "\n\n".join(message.content for message in messages) + "\n"
        chat = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    chat, tokenize=False, add_generation_prompt=True, strftime_now=DAY.strftime
                )
            )
        except Exception as error:  # templates are programs: they raise what they like
            said = str(error) if isinstance(error, TemplateError) else f"{type(error).__name__}: {error}"
            raise ModelError(
                f"The chat template of {self.name} refuses a prompt ({said}).",
                "Where it knows no system role, set prompts.system: null; or set the LLM's chat_template: none.",
            ) from None

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of rendered prompts; special tokens are added only where no chat template wrote them.

        Raises:
            ModelError: a prompt is longer than the model reads.
        """
        if not texts:  # tokenizers of Transformers refuse an empty list
            return []
        ids = self.tokenizer(list(texts), add_special_tokens=self.is_plain, return_attention_mask=False)["input_ids"]
        longest = max(map(len, ids))
        if self.longest and longest > self.longest:
            raise ModelError(
                f"A prompt has {longest} tokens, but {self.name} reads at most {self.longest}.",
                "Shorten the prompt templates or the explanations, or choose a model with a longer context.",
            )
        return [list(map(int, one)) for one in ids]

    def decode(self, ids: Sequence[int]) -> str:
        """An answer's text, without special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def letter_ids(self, letters: Sequence[str], prompt: str) -> list[int]:
        """Token id of each letter as the first token after `prompt`.

        Raises:
            ModelError: a letter is not exactly one further token there.
        """
        tail = prompt[-64:]
        key = (tuple(letters), tail)
        if key not in self._letter_ids:
            base, *longer = self.encode([tail, *(tail + letter for letter in letters)])
            for letter, ids in zip(letters, longer, strict=True):
                known = ids[-1] != self.tokenizer.unk_token_id
                if ids[: len(base)] != base or len(ids) != len(base) + 1 or not known:
                    raise ModelError(
                        f"The tokenizer of {self.name} does not write the option letter {letter!r} as one token "
                        f"after the prompt ({self.tokenizer.convert_ids_to_tokens(ids[-3:])}).",
                        "Use a scorer whose tokenizer does, or a prompt that ends in a line break.",
                    )
            self._letter_ids[key] = [ids[-1] for ids in longer]
        return self._letter_ids[key]


def _config_value(path: Path, key: str) -> Any:
    """A value of a model directory's JSON file; None where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8")).get(key) if path.is_file() else None
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{path} holds no JSON keys ({error}).", "Download the model again.") from error
