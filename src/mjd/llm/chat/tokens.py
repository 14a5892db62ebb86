"""Prompts to tokens: chat template, special tokens and option letters of a model directory's tokenizer."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from mjd import registry
from mjd.backends.checkpoints import load_tokenizer
from mjd.errors import ModelError
from mjd.llm import reasoning
from mjd.llm.base import GenerateRequest, Message, Request, ScoreRequest
from mjd.llm.chat import template as templates
from mjd.llm.chat.letters import LetterTokens, check_distinct, spellings
from mjd.llm.chat.markers import Markers
from mjd.llm.chat.prompt_text import Frame, Prompt, frame_of, in_frame, located, without_directive
from mjd.logs import named

log = logging.getLogger(__name__)

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
        variables: further variables of the chat template.
        letter_tokens: `all` tokens that spell a letter, or the `single` one that follows the prompt.
        answer_room: tokens that must be left after a prompt.

    Raises:
        ConfigError: the chat template does not read one of the `variables`.
    """

    def __init__(
        self,
        directory: str | Path,
        chat_template: str,
        name: str,
        longest: int | None = None,
        variables: Mapping[str, templates.Value] | None = None,
        letter_tokens: LetterTokens = "all",
        answer_room: int = 0,
    ) -> None:
        self.tokenizer: Any = load_tokenizer(directory, name)
        self.name = name
        template = self.tokenizer.chat_template
        self.is_plain = chat_template == "none" or not template
        # The template changes every prompt: its hash is part of request keys, with the day where it asks for that.
        text = f"{template}{DAY}" if "strftime_now" in str(template) else str(template)
        self.template_hash = "none" if self.is_plain else hashlib.sha256(text.encode()).hexdigest()[:16]
        self.longest = longest or _context(Path(directory) / "config.json")
        self.answer_room, self.letter_tokens = answer_room, letter_tokens
        self.end_ids = _end_ids(Path(directory) / "generation_config.json", self.tokenizer.eos_token_id)
        self._letter_ids: dict[tuple[tuple[str, ...], str], list[int | None]] = {}
        self._spelled: dict[tuple[tuple[str, ...], tuple[int | None, ...]], list[list[int]]] = {}
        self._token_texts: dict[int, str] = {}
        self._frames: dict[tuple[tuple[str, ...], str], Frame] = {}
        self.markers = Markers(self.tokenizer, name, add_special_tokens=self.is_plain)
        text = self._template_text()
        templates.check_known(variables or {}, text, name)
        self.variables = dict(variables or {})
        self.variables = templates.without_reasoning(self.variables, text, self._render_probe) if text else {}
        # What `check` found, for provenance.
        self._found: dict[str, Any] = {}

    # -- prompts ---------------------------------------------------------------------------------------------

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
                    chat,
                    tokenize=False,
                    add_generation_prompt=True,
                    strftime_now=DAY.strftime,
                    **self.variables,
                )
            )
        except Exception as error:  # templates are programs: they raise what they like
            said = str(error) if isinstance(error, TemplateError) else f"{type(error).__name__}: {error}"
            raise ModelError(
                f"The chat template of {self.name} refuses a prompt ({said}).",
                "Where it knows no system role, set prompts.system: null; or set the LLM's chat_template: none.",
            ) from None

    def prompt(self, messages: Sequence[Message], is_scored: bool = False, answer_so_far: str = "") -> Prompt:
        """The prompt as text, with the places of its messages; `answer_so_far`, as `answer` gives it, ends it.

        Raises:
            ModelError: the chat template refuses it, leaves out or alters a message, or begins reasoning before an
                answer whose first token `is_scored`.
        """
        prompt = self._located(self.render(messages), messages)
        if answer_so_far:
            template_mark = self._opened_reasoning(prompt) or ""
            prompt = prompt.continued_by(answer_so_far.removeprefix(template_mark))
        if is_scored and (opened := self._opened_reasoning(prompt)):
            raise ModelError(
                f"The chat template of {self.name} begins reasoning ({opened}): the first token is no answer, and "
                "cannot be scored.",
                self.reasoning_cure,
            )
        return prompt

    def prompt_of(self, request: Request) -> Prompt:
        """The prompt of a request, see `prompt`."""
        if isinstance(request, ScoreRequest):
            return self.prompt(request.messages, is_scored=True, answer_so_far=request.answer_so_far)
        return self.prompt(request.messages)

    def _opened_reasoning(self, prompt: Prompt) -> str | None:
        """The mark of the reasoning that the chat template begins at the end of `prompt`."""
        return None if self.is_plain else reasoning.opens_reasoning(prompt.ending)

    def _located(self, text: str, messages: Sequence[Message]) -> Prompt:
        roles = tuple(message.role for message in messages)
        directive, switched = without_directive(messages)
        for word, contents in ((directive, switched), ("", messages)) if directive else (("", messages),):
            if (roles, word) not in self._frames:
                self._frames[roles, word] = frame_of(self.render, roles, self.name, word)
            if found := in_frame(text, contents, self._frames[roles, word]):
                return found
        return located(text, messages, self.name)

    @property
    def reasoning_cure(self) -> str:
        """What to do about a scorer that reasons before it answers."""
        known = sorted(templates.variables(self._template_text()))
        has = f"its template reads {', '.join(known)}" if known else "its template has no variable for it"
        words = [word for word in registry.reasoning().directives if word in self._template_text()]
        word = f" or a system prompt with {words[0]}" if words else ""
        return (
            f"Turn reasoning off with chat_template_kwargs ({has}){word}, choose a scorer that answers at once, or set "
            "chat_template: none."
        )

    def encode(self, texts: Sequence[str | Prompt]) -> list[list[int]]:
        """Token ids of rendered prompts; special tokens are added only where no chat template wrote them.

        What a message spells is never read as a special or added token, see `mjd.llm.chat.markers`.

        Raises:
            ModelError: a prompt is longer than the model reads.
        """
        if not texts:  # tokenizers of Transformers refuse an empty list
            return []
        bare = [text.text if isinstance(text, Prompt) else text for text in texts]
        found = self._ids(bare)
        for i, prompt in enumerate(texts):
            if isinstance(prompt, Prompt) and self.markers.is_read_from_text(prompt, found[i]):
                found[i] = self.markers.as_text(prompt)
        longest = max(map(len, found))
        if self.longest and longest > self.longest - self.answer_room:
            raise ModelError(
                f"A prompt has {longest} tokens, but {self.name} reads at most {self.longest - self.answer_room}.",
                "Shorten the prompt templates or the explanations, or choose a model with a longer context.",
            )
        return found

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts, of any length."""
        ids = self.tokenizer(list(texts), add_special_tokens=self.is_plain, return_attention_mask=False)["input_ids"]
        return [list(map(int, one)) for one in ids]

    def check(self, requests: Iterable[tuple[Request, str]]) -> None:
        """Check the prompts of a job before its first answer, and note what is special about them.

        Args:
            requests: all of the job's, each with what it is (`item i1`), for errors and warnings.

        Raises:
            ModelError: a prompt cannot be rendered or read as asked; the item is named.
        """
        marked: list[str] = []
        imitating: list[str] = []
        near: list[str] = []
        prompt = None
        for request, name in requests:
            try:
                prompt = self.prompt_of(request)
                if self.markers.inside(prompt):
                    self.markers.as_text(prompt)
                    marked.append(name)
                elif prompt.imitates_turns:
                    imitating.append(name)
                wanted = request.max_new_tokens if isinstance(request, GenerateRequest) else 0
                if isinstance(request, ScoreRequest):
                    self.letter_spellings(request.letters, prompt.text)
                # A token is at least one byte.
                if self.longest and len(prompt.text.encode()) + 8 + wanted > self.longest - self.answer_room:
                    (ids,) = self.encode([prompt])
                    if wanted and len(ids) + wanted > self.longest:
                        near.append(name)
            except ModelError as error:
                raise ModelError(f"{name[:1].upper()}{name[1:]}: {error.problem}", error.cure) from None
        if prompt is not None and not getattr(request, "answer_so_far", ""):
            roles = (f"{{{message.role}}}" for message in request.messages)
            self._found["prompt_frame"] = "".join(
                p if i % 2 == 0 else next(roles) for i, p in enumerate(_parts(prompt))
            )
        self._note("with_markers", marked, "contain special tokens of the tokenizer, which are read as plain text")
        self._note(
            "with_turn_marks",
            imitating,
            "spell what the chat template marks turns with, for which the tokenizer has no token: the model may read "
            "it as the template's",
        )
        self._note("near_context_end", near, "leave less of the model's context than max_new_tokens for the answer")

    def _note(self, what: str, names: Sequence[str], why: str) -> None:
        if names:
            log.warning("%d prompts %s: %s", len(names), why, named(names))
            self._found[f"prompts_{what}"] = len(names)
            self._found[f"items_{what}"] = list(dict.fromkeys(names))

    def report(self) -> dict[str, Any]:
        """What provenance adds: template variables, the template's text, letters' tokens, what `check` noted."""
        found = dict(self._found)
        if self.variables:
            found["chat_template_kwargs"] = self.variables
        if self._letter_ids:
            tokens: dict[str, dict[str, str]] = {}
            for letters, tail in self._letter_ids:
                for letter, ids in zip(letters, self.letter_spellings(letters, tail), strict=True):
                    named_ids = zip(map(str, ids), self.tokenizer.convert_ids_to_tokens(ids), strict=True)
                    tokens.setdefault(letter, {}).update(named_ids)
            found["letter_token_ids"] = tokens
        return found

    def settings(self) -> tuple[tuple[str, str], ...]:
        """What is part of request keys: the template, and its variables where some are set."""
        chosen = (("chat_template_kwargs", json.dumps(self.variables, sort_keys=True)),) if self.variables else ()
        return (("chat_template", self.template_hash), *chosen)

    def scoring(self) -> tuple[tuple[str, str], ...]:
        """What is part of the keys of scores alone."""
        return (("letter_tokens", "all"),) if self.letter_tokens == "all" else ()

    def _template_text(self) -> str:
        """The chat template; "" where none is used."""
        template = self.tokenizer.chat_template
        if isinstance(template, dict):
            template = template.get("default")
        return "" if self.is_plain else str(template or "")

    def _render_probe(self, variables: Mapping[str, templates.Value]) -> str:
        """A chat with other template variables; "" where the template refuses it."""
        before, self.variables = self.variables, dict(variables)
        try:
            return self.render([Message("user", "Hello")])
        except ModelError:
            return ""
        finally:
            self.variables = before

    # -- answers ---------------------------------------------------------------------------------------------

    def answer(self, ids: Sequence[int], prompt: Prompt) -> str:
        """The text of an answer to `prompt`, as `decode` gives it.

        It begins with the mark of the reasoning that the chat template began, if any: an answer that is cut off within
        that reasoning holds no other mark of it.
        """
        return (self._opened_reasoning(prompt) or "") + self.decode(ids)

    def decode(self, ids: Sequence[int]) -> str:
        """An answer's text, without special tokens but for those that mark reasoning."""
        parts: list[str] = []
        start = 0
        for at, i in enumerate(ids):
            if i in self._reasoning_marks:
                parts += [self._decoded(ids[start:at]), self._reasoning_marks[i]]
                start = at + 1
        return "".join([*parts, self._decoded(ids[start:])])

    def _decoded(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)) if ids else ""

    @functools.cached_property
    def _reasoning_marks(self) -> dict[int, str]:
        """Special tokens that are, or are part of, marks of reasoning, by id."""
        added = self.tokenizer.added_tokens_decoder
        return {
            int(i): token.content
            for i, token in added.items()
            if token.special and len(token.content) > 2 and any(token.content in mark for mark in reasoning.marks())
        }

    def token_text(self, i: int) -> str:
        """The text of one token of an answer, white space before it included."""
        if i not in self._token_texts:
            self._token_texts[i] = self._text_after_another(i)
        return self._token_texts[i]

    def _text_after_another(self, i: int) -> str:
        if i in self.tokenizer.added_tokens_decoder:
            return str(self.tokenizer.added_tokens_decoder[i].content)
        other = self.tokenizer("a", add_special_tokens=False)["input_ids"][-1:]
        before, both = (str(self.tokenizer.decode(ids)) for ids in (other, [*other, i]))
        return both[len(before) :] if both.startswith(before) else str(self.tokenizer.decode([i]))

    # -- letters ---------------------------------------------------------------------------------------------

    def letter_spellings(self, letters: Sequence[str], prompt: str) -> list[list[int]]:
        """Ids of the tokens that count for each letter as the first token after `prompt`, as `letter_tokens` says.

        Raises:
            ModelError: no single token spells a letter, or one spells two.
        """
        if self.letter_tokens == "single":
            return [[i] for i in self.letter_ids(letters, prompt)]
        key, glued = tuple(letters), self._glued(letters, prompt)
        if (key, tuple(glued)) in self._spelled:
            return self._spelled[key, tuple(glued)]
        in_vocabulary = spellings(self.tokenizer, letters)
        found = {
            letter: list(dict.fromkeys([*([] if i is None else [i]), *in_vocabulary[letter]]))
            for letter, i in zip(letters, glued, strict=True)
        }
        for letter, ids in found.items():
            if not ids:
                raise self._no_token(letter, "as one token")
        check_distinct(found, self.name)
        self._spelled[key, tuple(glued)] = list(found.values())
        return self._spelled[key, tuple(glued)]

    def letter_ids(self, letters: Sequence[str], prompt: str) -> list[int]:
        """Token id of each letter as the first token after `prompt`.

        Raises:
            ModelError: a letter is not exactly one further token there.
        """
        found: list[int] = []
        for letter, i in zip(letters, self._glued(letters, prompt), strict=True):
            if i is None:
                raise self._no_token(letter, "as one token after the prompt")
            found.append(i)
        check_distinct({letter: [i] for letter, i in zip(letters, found, strict=True)}, self.name)
        return found

    def _glued(self, letters: Sequence[str], prompt: str) -> list[int | None]:
        """Token id of each letter glued onto `prompt`; None where it is not exactly one further token."""
        tail = prompt[-64:]
        key = (tuple(letters), tail)
        if key not in self._letter_ids:
            base, *longer = self._ids([tail, *(tail + letter for letter in letters)])
            unknown = self.tokenizer.unk_token_id
            self._letter_ids[key] = [
                ids[-1] if ids[: len(base)] == base and len(ids) == len(base) + 1 and ids[-1] != unknown else None
                for ids in longer
            ]
        return self._letter_ids[key]

    def _no_token(self, letter: str, how: str) -> ModelError:
        return ModelError(
            f"The tokenizer of {self.name} does not write the option letter {letter!r} {how} "
            f"({self.tokenizer.convert_ids_to_tokens(self._ids([letter])[0])}).",
            "Use a scorer whose tokenizer does, letter_tokens: all, or a prompt that ends in a line break.",
        )


def _parts(prompt: Prompt) -> list[str]:
    """Texts of the template and of messages in turn, the template's first."""
    at, parts = 0, []
    for start, stop in prompt.spans:
        parts += [prompt.text[at:start], prompt.text[start:stop]]
        at = stop
    return [*parts, prompt.text[at:]]


def _end_ids(path: Path, eos: int | None) -> list[int]:
    """Tokens that end an answer: those of the generation configuration, and the tokenizer's."""
    ends = _config_value(path, "eos_token_id")
    ids = [one for one in [*(ends if isinstance(ends, list) else [ends]), eos] if one is not None]
    if wrong := [one for one in ids if not isinstance(one, int)]:
        raise ModelError(f"{path}: eos_token_id is no token id ({wrong[0]!r}).", "Give the id, a whole number.")
    return sorted(set(ids))


def _context(path: Path) -> int | None:
    """Tokens that a model reads at most, as its configuration file says; None where it does not."""
    names = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len")
    config = _config_value(path, None) or {}
    found = (part.get(name) for part in (config, config.get("text_config") or {}) for name in names)
    return next((int(value) for value in found if value and int(value) > 0), None)


def _config_value(path: Path, key: str | None) -> Any:
    """A value of a model directory's JSON file, or the whole of it; None where there is none."""
    try:
        whole = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        return whole if key is None or whole is None else whole.get(key)
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{path} holds no JSON keys ({error}).", "Download the model again.") from error
