"""The Transformers engine: local models, scored as prefix trees, on CPU, CUDA or MPS."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from mjd.config import Llm
from mjd.devices import resolve_device, set_threads
from mjd.errors import ModelError
from mjd.llm import tree
from mjd.llm.base import (
    Engine,
    EngineInfo,
    Generate,
    Generated,
    Message,
    Score,
    Scored,
    ScoreKind,
    Usage,
    Workplace,
)

log = logging.getLogger(__name__)

# Largest difference in logits between a tree and one prompt at a time that the self-check accepts, in float32.
TREE_TOLERANCE = 1e-3


class TransformersEngine(Engine):
    """Generates and scores with a Hugging Face model directory.

    Scores are logits at the first answer position, in the order of a request's letters.

    Args:
        directory: model directory with weights, tokenizer and (usually) a chat template.
        settings: the LLM's configuration entry.
        identity: model and revision, for request keys and provenance.
        workplace: CPU threads to use.
    """

    score_kind: ScoreKind = "logit"
    answers_per_call = 48

    def __init__(self, directory: str | Path, settings: Llm, identity: str, workplace: Workplace | None = None) -> None:
        if workplace and workplace.threads:
            set_threads(workplace.threads)
        self.settings = settings
        self.device = resolve_device(settings.device)
        dtype = getattr(torch, settings.dtype)
        self.tokenizer = AutoTokenizer.from_pretrained(directory)
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, attn_implementation="sdpa")
        self.model: Any = model.to(self.device).eval()
        self.pad_id = next(i for i in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0) if i is not None)
        self.end_ids = self._end_ids()
        self.info = EngineInfo(
            "transformers",
            transformers.__version__,
            identity,
            (("dtype", settings.dtype), ("chat_template", self._template_name())),
        )
        self._letter_ids: dict[tuple[tuple[str, ...], str], list[int]] = {}
        self._tree_checked = False
        self._use_tree = settings.prefix_tree
        tree.register()

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

    # -- scoring ---------------------------------------------------------------------------------------------

    def score(self, requests: Sequence[Score]) -> Iterator[tuple[int, Scored]]:
        """Score every request; those with a long common beginning should be neighbours."""
        prompts = [self.render(request.messages) for request in requests]
        ids = self.encode(prompts)
        letters = [self.letter_ids(r.letters, p) for r, p in zip(requests, prompts, strict=True)]
        if self._use_tree and not self._tree_checked:
            self._use_tree = self._tree_is_exact(ids)
            self._tree_checked = True
        batches = self._tree_batches(ids) if self._use_tree else self._plain_batches(ids)
        for batch in batches:
            logits = self._last_logits([ids[i] for i in batch], self._use_tree)
            chosen = logits.gather(1, torch.tensor([letters[i] for i in batch], device=logits.device))
            mass = (chosen - logits.logsumexp(1, keepdim=True)).exp().sum(1)
            for row, i in enumerate(batch):
                yield i, Scored(tuple(chosen[row].tolist()), "logit", float(mass[row]), Usage(len(ids[i])))

    @torch.inference_mode()
    def _last_logits(self, ids: Sequence[Sequence[int]], as_tree: bool) -> torch.Tensor:
        """Float32 logits [n_prompts, vocabulary] after each prompt's last token."""
        if as_tree:
            self.model.set_attn_implementation(tree.ATTENTION)
            plan = tree.plan(tree.forest(ids), self.device, windows=self._has_windows())
            out = self.model(
                input_ids=plan.tokens,
                position_ids=plan.depth,
                use_cache=False,
                logits_to_keep=plan.leaf,
                mjd_plan=plan,
            )
            return torch.as_tensor(out.logits[0]).float()
        self.model.set_attn_implementation("sdpa")
        inputs = self._left_padded(ids)
        out = self.model(**inputs, use_cache=False, logits_to_keep=1)
        return torch.as_tensor(out.logits[:, -1]).float()

    def _has_windows(self) -> bool:
        return bool(getattr(self.model.config.get_text_config(), "sliding_window", None))

    def _left_padded(self, ids: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        """Inputs [n, longest], padded on the left so that every row ends at the last column."""
        width = max(map(len, ids))
        tokens = torch.full((len(ids), width), self.pad_id)
        mask = torch.zeros((len(ids), width), dtype=torch.long)
        for row, one in enumerate(ids):
            tokens[row, width - len(one) :] = torch.tensor(one)
            mask[row, width - len(one) :] = 1
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        inputs = {"input_ids": tokens, "attention_mask": mask, "position_ids": positions}
        return {name: tensor.to(self.device) for name, tensor in inputs.items()}

    def _tree_is_exact(self, ids: Sequence[Sequence[int]]) -> bool:
        """Compare tree and plain scores on a few prompts; False, with a warning, when this model needs plain ones."""
        probe = list(ids[:3])
        try:
            difference = (self._last_logits(probe, True) - self._last_logits(probe, False)).abs().max().item()
        except (ModelError, TypeError, ValueError, RuntimeError) as error:
            log.warning("%s is scored in plain batches: no prefix tree (%s)", self.info.model, error)
            return False
        tolerance = TREE_TOLERANCE if self.settings.dtype == "float32" else 0.5
        if difference > tolerance:
            log.warning("%s is scored in plain batches: prefix-tree logits differ by %.2g", self.info.model, difference)
        return difference <= tolerance

    def _tree_batches(self, ids: Sequence[list[int]]) -> Iterator[list[int]]:
        """Indices in token order, cut where the distinct nodes of a pass would exceed `tokens_per_pass`."""
        batch: list[int] = []
        nodes = 0
        previous: Sequence[int] = []
        for i in sorted(range(len(ids)), key=lambda i: ids[i]):
            new = len(ids[i]) - _shared(previous, ids[i])
            if batch and nodes + new > self.settings.tokens_per_pass:
                yield batch
                batch, nodes, new = [], 0, len(ids[i])
            batch.append(i)
            nodes += new
            previous = ids[i]
        if batch:
            yield batch

    def _plain_batches(self, ids: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Indices by length, longest first, each batch within `tokens_per_pass` padded tokens."""
        batch: list[int] = []
        for i in sorted(range(len(ids)), key=lambda i: -len(ids[i])):
            if batch and len(ids[batch[0]]) * (len(batch) + 1) > self.settings.tokens_per_pass:
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    # -- generation ------------------------------------------------------------------------------------------

    def generate(self, requests: Sequence[Generate]) -> Iterator[tuple[int, Generated]]:
        """Answer every request, in length-sorted batches; finished answers leave the batch at once."""
        self.model.set_attn_implementation("sdpa")
        ids = self.encode([self.render(request.messages) for request in requests])
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        for start in range(0, len(order), self.settings.batch_size):
            batch = order[start : start + self.settings.batch_size]
            answers = self._generate_batch([requests[i] for i in batch], [ids[i] for i in batch])
            yield from zip(batch, answers, strict=True)

    @torch.inference_mode()
    def _generate_batch(self, requests: Sequence[Generate], ids: Sequence[Sequence[int]]) -> list[Generated]:
        inputs = self._left_padded(ids)
        mask, positions = inputs["attention_mask"], inputs["position_ids"][:, -1:]
        cache = DynamicCache(config=self.model.config)
        answers: list[list[int]] = [[] for _ in requests]
        finished = [False] * len(requests)
        choosers = [_Chooser(request) for request in requests]
        rows = list(range(len(requests)))
        out = self.model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
        while True:
            tokens = [choosers[i].choose(out.logits[row, -1]) for row, i in enumerate(rows)]
            keep = []
            for row, (i, token) in enumerate(zip(rows, tokens, strict=True)):
                finished[i] = token in self.end_ids
                if not finished[i]:
                    answers[i].append(token)
                    if len(answers[i]) < requests[i].max_new_tokens:
                        keep.append(row)
            if not keep:
                break
            if len(keep) < len(rows):
                chosen = torch.tensor(keep, device=self.device)
                cache.batch_select_indices(chosen)
                mask, positions = mask[chosen], positions[chosen]
                rows = [rows[row] for row in keep]
                tokens = [tokens[row] for row in keep]
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            positions = positions + 1
            out = self.model(
                input_ids=torch.tensor(tokens, device=self.device)[:, None],
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            )
        return [
            Generated(
                self.tokenizer.decode(answer, skip_special_tokens=True),
                "stop" if finished[i] else "length",
                Usage(len(ids[i]), len(answer)),
            )
            for i, answer in enumerate(answers)
        ]


class _Chooser:
    """Chooses the tokens of one answer: greedy, or sampled from a generator of its own, whatever the batch is."""

    def __init__(self, request: Generate) -> None:
        self.request = request
        text = repr((request.seed, request.sample_index, request.messages))
        digest = hashlib.sha256(text.encode()).digest()
        self.random = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))

    def choose(self, logits: torch.Tensor) -> int:
        """Next token id from logits [vocabulary]."""
        if self.request.temperature == 0:
            return int(logits.argmax())
        p = (logits.float().cpu() / self.request.temperature).softmax(0)
        if self.request.top_p < 1:
            ranked, order = p.sort(descending=True)
            outside = ranked.cumsum(0) - ranked >= self.request.top_p
            p = p.index_fill(0, order[outside], 0.0)
        return int(torch.multinomial(p, 1, generator=self.random))


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common prefix of two token lists."""
    n = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        n += 1
    return n
