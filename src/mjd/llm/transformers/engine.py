"""The Transformers engine: local models, run as prefix trees, on CPU, CUDA or MPS."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM

from mjd.backends import onednn
from mjd.backends.checkpoints import (
    check_decoder_only,
    check_quantisation,
    check_unread_weights,
    loading,
    warn_of_unread_weights,
)
from mjd.backends.devices import keep_freed_memory, resolve_device, set_threads
from mjd.config.llms import Llm
from mjd.errors import ModelError
from mjd.llm.base import (
    Engine,
    EngineInfo,
    EngineResources,
    Generated,
    GenerateRequest,
    Request,
    Scored,
    ScoreRequest,
    Usage,
)
from mjd.llm.chat.letters import letter_scores
from mjd.llm.chat.tokens import ChatTokenizer
from mjd.llm.specs import ENGINES
from mjd.llm.transformers.decoding import Answer
from mjd.llm.transformers.execution import Execution

log = logging.getLogger(__name__)


class TransformersEngine(Engine):
    """Generates and scores with a Hugging Face model directory.

    Scores are logits at the first answer position, in the order of a request's letters.

    Args:
        directory: model directory with weights, tokenizer and (usually) a chat template.
        settings: the LLM's configuration entry.
        identity: model and revision, for request keys and provenance; messages name the model as the settings do.
        resources: CPU threads to use.

    Raises:
        ModelError: the directory's model cannot be loaded, or lacks weights.
    """

    score_kind = ENGINES["transformers"].score_kind
    continues_answers = True

    def __init__(
        self, directory: str | Path, settings: Llm, identity: str, resources: EngineResources | None = None
    ) -> None:
        if resources and resources.threads:
            set_threads(resources.threads)
        keep_freed_memory()
        self.settings = settings
        # Enough that free slots find further prompts.
        self.answers_per_call = max(48, 2 * settings.batch_size)
        self.device = resolve_device(settings.device, settings.resources.gpu)
        self.model: Any = _load(directory, getattr(torch, settings.dtype), settings.model, self.device).eval()
        onednn.use_in_linear_layers(self.model)
        # No end is None, 0 or (XLNet) -1.
        longest = max(getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or 0, 0) or None
        self.tokens = ChatTokenizer(
            directory,
            settings.chat_template,
            settings.model,
            longest,
            variables=settings.chat_template_kwargs,
            letter_tokens=settings.letter_tokens,
        )
        known = self.tokens.tokenizer
        self.pad_id = next(i for i in (known.pad_token_id, known.eos_token_id, 0) if i is not None)
        self.end_ids = frozenset(self.tokens.end_ids)
        self.info = EngineInfo(
            "transformers",
            transformers.__version__,
            identity,
            (("dtype", settings.dtype), *self.tokens.settings()),
            scoring=self.tokens.scoring(),
        )
        self.execution = Execution(
            self.model,
            settings.model,
            self.pad_id,
            prefix_tree=settings.prefix_tree,
            tokens_per_pass=settings.tokens_per_pass,
            batch_size=settings.batch_size,
            longest=self.tokens.longest,
        )

    def check(self, requests: Iterable[tuple[Request, str]]) -> None:
        """Check every prompt of a job, see `ChatTokenizer.check`."""
        self.tokens.check(requests)

    def report(self) -> dict[str, Any]:
        """Tokens of the letters, template variables, what `check` noted, and how scoring and generation were run."""
        return self.tokens.report() | self.execution.report()

    # -- scoring ---------------------------------------------------------------------------------------------

    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[tuple[int, Scored]]:
        """Score every request; scores come as passes end."""
        if not requests:
            return
        prompts = [self.tokens.prompt_of(request) for request in requests]
        ids = self.tokens.encode(prompts)
        letters = [self.tokens.letter_spellings(r.letters, p.text) for r, p in zip(requests, prompts, strict=True)]
        for batch, logits in self._last_logits(ids):
            chosen = letter_scores(logits, [letters[i] for i in batch])
            mass = (chosen - logits.logsumexp(1, keepdim=True)).exp().sum(1)
            top = logits.argmax(1).tolist()
            for row, i in enumerate(batch):
                scores, first = tuple(chosen[row].tolist()), self.tokens.token_text(top[row])
                yield i, Scored(scores, "logit", float(mass[row]), Usage(len(ids[i])), top_token=first)

    @torch.inference_mode()
    def _last_logits(self, ids: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Float32 logits [n, vocabulary] after the last tokens of prompts, with the prompts' indices [n]."""
        yield from self.execution.last_logits(ids)

    # -- generation ------------------------------------------------------------------------------------------

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[tuple[int, Generated]]:
        """Answer every request; answers come as they finish, at the end of the model's context at the latest."""
        if not requests:
            return
        prompts = [self.tokens.prompt_of(request) for request in requests]
        ids = self.tokens.encode(prompts)
        if self.tokens.longest:
            left = [max(self.tokens.longest - len(one), 1) for one in ids]
            requests = [
                replace(r, max_new_tokens=min(r.max_new_tokens, n)) for r, n in zip(requests, left, strict=True)
            ]
        for answer in self._answers(ids, requests):
            yield (
                answer.index,
                Generated(
                    self.tokens.answer(answer.tokens, prompts[answer.index]),
                    "stop" if answer.ended else "length",
                    Usage(answer.prompt_tokens, len(answer.tokens)),
                ),
            )

    @torch.inference_mode()
    def _answers(self, ids: Sequence[Sequence[int]], requests: Sequence[GenerateRequest]) -> Iterator[Answer]:
        yield from self.execution.answers(ids, requests, self.end_ids)


def _load(directory: str | Path, dtype: torch.dtype, name: str, device: torch.device) -> Any:
    """The model of a directory on its device; one that lacks weights is refused: Transformers would draw some."""
    cure = (
        "Give a complete directory (config.json, safetensors) of an architecture that Transformers knows; remove a "
        "damaged copy and download it again."
    )
    check_quantisation(directory, name)
    check_decoder_only(directory, name)
    with loading(directory, name, "a language model", cure):
        # Eager: some classes keep the attention they are loaded with, and only eager is exact for every architecture.
        model, loaded = AutoModelForCausalLM.from_pretrained(
            directory, dtype=dtype, output_loading_info=True, trust_remote_code=False, attn_implementation="eager"
        )
        if not (getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False)):
            model = model.to(device)  # bitsandbytes has put its models where they belong
    check_unread_weights(loaded["unexpected_keys"], name)
    warn_of_unread_weights(loaded["unexpected_keys"], name)
    # Weights that a model shares between layers (tied embeddings) are not among the missing ones.
    missing = sorted(loaded["missing_keys"])
    if missing:
        raise ModelError(
            f"{name} lacks weights of the language model: {', '.join(missing[:3])}{', ...' * (len(missing) > 3)}.",
            "Give a complete checkpoint with its language-model head.",
        )
    return model
