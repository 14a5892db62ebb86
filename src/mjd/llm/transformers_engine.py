"""The Transformers engine: local models, run as prefix trees, on CPU, CUDA or MPS."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM

from mjd import onednn
from mjd.checkpoints import check_quantisation, check_unread_weights, loading
from mjd.config import Llm
from mjd.devices import keep_freed_memory, resolve_device, set_threads
from mjd.errors import ModelError
from mjd.llm import plain
from mjd.llm.base import Engine, EngineInfo, Generate, Generated, Score, Scored, ScoreKind, Usage, Workplace
from mjd.llm.chat_tokens import ChatTokenizer
from mjd.llm.decoding import Answer
from mjd.llm.tree_model import TreeModel

log = logging.getLogger(__name__)


class TransformersEngine(Engine):
    """Generates and scores with a Hugging Face model directory.

    Scores are logits at the first answer position, in the order of a request's letters.

    Args:
        directory: model directory with weights, tokenizer and (usually) a chat template.
        settings: the LLM's configuration entry.
        identity: model and revision, for request keys and provenance.
        workplace: CPU threads to use.

    Raises:
        ModelError: the directory's model cannot be loaded, or lacks weights.
    """

    score_kind: ScoreKind = "logit"

    def __init__(self, directory: str | Path, settings: Llm, identity: str, workplace: Workplace | None = None) -> None:
        if workplace and workplace.threads:
            set_threads(workplace.threads)
        keep_freed_memory()
        self.settings = settings
        # Enough that free slots find further prompts.
        self.answers_per_call = max(48, 2 * settings.batch_size)
        self.device = resolve_device(settings.device, settings.resources.gpu)
        self.model: Any = _load(directory, getattr(torch, settings.dtype), identity, self.device).eval()
        onednn.use_in_linear_layers(self.model)
        longest = getattr(self.model.config, "max_position_embeddings", None)
        self.tokens = ChatTokenizer(directory, settings.chat_template, identity, longest)
        known = self.tokens.tokenizer
        self.pad_id = next(i for i in (known.pad_token_id, known.eos_token_id, 0) if i is not None)
        self.end_ids = frozenset(self.tokens.end_ids)
        self.info = EngineInfo(
            "transformers",
            transformers.__version__,
            identity,
            (("dtype", settings.dtype), ("chat_template", self.tokens.template_hash)),
        )
        self._tree = TreeModel(self.model, settings.tokens_per_pass) if settings.prefix_tree else None
        self._checked = False
        self._plain_attention = self.model.config._attn_implementation

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
            self.model.set_attn_implementation(self._plain_attention)
        return self._tree

    # -- scoring ---------------------------------------------------------------------------------------------

    def score(self, requests: Sequence[Score]) -> Iterator[tuple[int, Scored]]:
        """Score every request; scores come as passes end."""
        if not requests:
            return
        prompts = [self.tokens.render(request.messages) for request in requests]
        ids = self.tokens.encode(prompts)
        letters = [self.tokens.letter_ids(r.letters, p) for r, p in zip(requests, prompts, strict=True)]
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
        """Answer every request; answers come as they finish, at the end of the model's context at the latest."""
        if not requests:
            return
        ids = self.tokens.encode([self.tokens.render(request.messages) for request in requests])
        if self.tokens.longest:
            left = [max(self.tokens.longest - len(one), 1) for one in ids]
            requests = [
                replace(r, max_new_tokens=min(r.max_new_tokens, n)) for r, n in zip(requests, left, strict=True)
            ]
        for answer in self._answers(ids, requests):
            yield (
                answer.index,
                Generated(
                    self.tokens.decode(answer.tokens),
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


def _load(directory: str | Path, dtype: torch.dtype, name: str, device: torch.device) -> Any:
    """The model of a directory on its device; one that lacks weights is refused: Transformers would draw some."""
    cure = (
        "Give a complete directory (config.json, safetensors) of an architecture that Transformers knows; remove a "
        "damaged copy and download it again."
    )
    check_quantisation(directory, name)
    with loading(directory, name, "a language model", cure):
        model, loaded = AutoModelForCausalLM.from_pretrained(
            directory, dtype=dtype, output_loading_info=True, trust_remote_code=False
        )
        if not (getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False)):
            model = model.to(device)  # bitsandbytes has put its models where they belong
    check_unread_weights(loaded["unexpected_keys"], name)
    # Weights that a model shares between layers (tied embeddings) are not among the missing ones.
    missing = sorted(loaded["missing_keys"])
    if missing:
        raise ModelError(
            f"{name} lacks weights of the language model: {', '.join(missing[:3])}{', ...' * (len(missing) > 3)}.",
            "Give a complete checkpoint with its language-model head.",
        )
    return model
