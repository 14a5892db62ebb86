"""The Transformers engine: local models, run as prefix trees, on CPU, CUDA or MPS."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from mjd.config import Llm
from mjd.devices import resolve_device
from mjd.errors import ModelError
from mjd.llm import onednn, plain
from mjd.llm.base import EngineInfo, Generate, Generated, Message, Score, Scored, ScoreKind, Usage
from mjd.llm.decoding import Answer
from mjd.llm.tree_model import TreeModel

log = logging.getLogger(__name__)


class TransformersEngine:
    """Generates and scores with a Hugging Face model directory.

    Scores are logits at the first answer position, in the order of a request's letters.

    Args:
        directory: model directory with weights, tokenizer and (usually) a chat template.
        settings: the LLM's configuration entry.
        identity: model and revision, for request keys and provenance.
    """

    score_kind: ScoreKind = "logit"

    def __init__(self, directory: str | Path, settings: Llm, identity: str) -> None:
        self.settings = settings
        self.device = resolve_device(settings.device)
        dtype = getattr(torch, settings.dtype)
        self.tokenizer = AutoTokenizer.from_pretrained(directory)
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, attn_implementation=plain.ATTENTION)
        self.model: Any = model.to(self.device).eval()
        onednn.use_in_linear_layers(self.model)
        self.pad_id = next(i for i in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0) if i is not None)
        self.end_ids = self._end_ids()
        self.info = EngineInfo(
            "transformers",
            transformers.__version__,
            identity,
            (("dtype", settings.dtype), ("chat_template", self._template_name())),
        )
        self._letter_ids: dict[tuple[tuple[str, ...], str], list[int]] = {}
        self._tree = TreeModel(self.model, settings.tokens_per_pass) if settings.prefix_tree else None
        self._checked = False

    def _template_name(self) -> str:
        """`none`, or a hash of the chat template in use: it changes every prompt."""
        template = self.tokenizer.chat_template
        if self.settings.chat_template == "none" or not template:
            return "none"
        return hashlib.sha256(str(template).encode()).hexdigest()[:16]

    def _end_ids(self) -> frozenset[int]:
        """Tokens that end an answer: the generation config's and the tokenizer's."""
        configured = self.model.generation_config.eos_token_id
        ids = configured if isinstance(configured, list) else [configured]
        return frozenset(i for i in [*ids, self.tokenizer.eos_token_id] if i is not None)

    # -- prompts to tokens -----------------------------------------------------------------------------------

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt as text, ending where the answer begins."""
        if self._template_name() == "none":
            return "\n\n".join(message.content for message in messages) + "\n"
        chat = [{"role": message.role, "content": message.content} for message in messages]
        return str(self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of rendered prompts; special tokens are added only where no chat template wrote them."""
        plain = self._template_name() == "none"
        ids = self.tokenizer(list(texts), add_special_tokens=plain, return_attention_mask=False)["input_ids"]
        longest, room = max(map(len, ids)), getattr(self.model.config, "max_position_embeddings", None)
        if room and longest > room:
            raise ModelError(
                f"A prompt has {longest} tokens, but {self.info.model} reads at most {room}.",
                "Shorten the prompt templates or the explanations, or choose a model with a longer context.",
            )
        return [list(map(int, one)) for one in ids]

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
                        f"The tokenizer of {self.info.model} does not write the option letter {letter!r} as one token "
                        f"after the prompt ({self.tokenizer.convert_ids_to_tokens(ids[-3:])}).",
                        "Use a scorer whose tokenizer does, or a prompt that ends in a line break.",
                    )
            self._letter_ids[key] = [ids[-1] for ids in longer]
        return self._letter_ids[key]

    # -- trees or plain batches ------------------------------------------------------------------------------

    def _tree_for(self, ids: Sequence[Sequence[int]]) -> TreeModel | None:
        """The model on prefix trees, checked on a few of these prompts before its first use; None: plain batches."""
        if self._tree is not None and not self._checked:
            misfit = self._tree.misfit(ids, self.pad_id)
            if misfit:
                log.warning("%s is run in plain batches, without prefix trees (%s).", self.info.model, misfit)
                self._tree = None
        self._checked = True
        if self._tree is None:
            self.model.set_attn_implementation(plain.ATTENTION)
        return self._tree

    # -- scoring ---------------------------------------------------------------------------------------------

    def score(self, requests: Sequence[Score]) -> Iterator[tuple[int, Scored]]:
        """Score every request; scores come as passes end."""
        if not requests:
            return
        prompts = [self.render(request.messages) for request in requests]
        ids = self.encode(prompts)
        letters = [self.letter_ids(r.letters, p) for r, p in zip(requests, prompts, strict=True)]
        for batch, logits in self._last_logits(ids):
            chosen = logits.gather(1, torch.tensor([letters[i] for i in batch], device=logits.device))
            mass = (chosen - logits.logsumexp(1, keepdim=True)).exp().sum(1)
            for row, i in enumerate(batch):
                yield i, Scored(tuple(chosen[row].tolist()), "logit", float(mass[row]), Usage(len(ids[i])))

    @torch.inference_mode()
    def _last_logits(self, ids: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Float32 logits [n, vocabulary] after the last tokens of prompts, with the prompts' indices [n]."""
        tree = self._tree_for(ids)
        if tree is not None:
            yield from tree.last_logits(ids)
            return
        for batch in plain.batches(ids, self.settings.tokens_per_pass):
            yield batch, plain.last_logits(self.model, [ids[i] for i in batch], self.pad_id)

    # -- generation ------------------------------------------------------------------------------------------

    def generate(self, requests: Sequence[Generate]) -> Iterator[tuple[int, Generated]]:
        """Answer every request; answers come as they finish."""
        if not requests:
            return
        ids = self.encode([self.render(request.messages) for request in requests])
        for answer in self._answers(ids, requests):
            yield (
                answer.index,
                Generated(
                    self.tokenizer.decode(answer.tokens, skip_special_tokens=True),
                    "stop" if answer.ended else "length",
                    Usage(answer.prompt_tokens, len(answer.tokens)),
                ),
            )

    @torch.inference_mode()
    def _answers(self, ids: Sequence[Sequence[int]], requests: Sequence[Generate]) -> Iterator[Answer]:
        tree = self._tree_for(ids)
        if tree is not None:
            yield from tree.decoder(self.end_ids, self.settings.batch_size).run(ids, requests)
            return
        longest_first = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        for start in range(0, len(ids), self.settings.batch_size):
            batch = longest_first[start : start + self.settings.batch_size]
            yield from plain.generate_batch(self.model, {i: ids[i] for i in batch}, requests, self.pad_id, self.end_ids)
