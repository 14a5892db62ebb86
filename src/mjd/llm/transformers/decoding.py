"""Answers of many prompts at once: shared prefixes are read once, finished answers make room for the next prompts.

Prompts enter as a prefix tree, so what an item's prompts share is computed once. Answers grow in slots, one token a
step for all of them; when enough answers have ended, the next prompts take their slots. Nothing is computed for a
finished answer, and no cache is copied from step to step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from mjd.errors import ModelError
from mjd.llm.base import GenerateRequest
from mjd.llm.transformers.tree import Ints, forest, passes, path_rows
from mjd.llm.transformers.tree_attention import Attends, Walk, attend_batch

# Prompts enter when this share of the slots is free: together they make larger matrices than one by one.
FREE_SHARE = 0.25

# Logits [n, vocabulary] of tokens [1 or n, ...] at positions of that shape, at the given places of the first row
# (None: the last place of every row), with the attention of the given object.
Forward = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None, Attends], torch.Tensor]


class Chooser:
    """Chooses the tokens of one answer: greedy, or sampled from a generator of its own, whatever the batch is."""

    def __init__(self, request: GenerateRequest) -> None:
        self.request = request
        self.random = torch.Generator().manual_seed(request.random_seed(bits=56))

    def choose(self, logits: torch.Tensor) -> int:
        """Next token id from logits [vocabulary].

        Raises:
            ModelError: the logits are not finite.
        """
        if not bool(logits.max().isfinite()):
            raise ModelError(
                "The logits of a token to generate are not finite.",
                "Set dtype: float32 or bfloat16 (float16 overflows in many models); else the weights are damaged: "
                "download them again.",
            )
        if self.request.temperature == 0:
            return int(logits.argmax())
        p = (logits.float().cpu() / self.request.temperature).softmax(0)
        if self.request.top_p < 1:
            ranked, order = p.sort(descending=True)
            outside = ranked.cumsum(0) - ranked >= self.request.top_p
            p = p.index_fill(0, order[outside], 0.0)
        return int(torch.multinomial(p, 1, generator=self.random))


@dataclass
class Answer:
    """An answer as it grows: the prompt's index and length, the tokens so far."""

    index: int
    prompt_tokens: int
    chooser: Chooser
    tokens: list[int] = field(default_factory=list)
    ended: bool = False

    def add(self, logits: torch.Tensor, end_ids: frozenset[int]) -> bool:
        """Choose the next token; True when the answer is finished."""
        token = self.chooser.choose(logits)
        if token in end_ids:
            self.ended = True
            return True
        self.tokens.append(token)
        return len(self.tokens) >= self.chooser.request.max_new_tokens


class Slots:
    """Keys and values of the answers in progress, every layer's in one tensor that is written in place.

    Attributes:
        lengths: tokens in each slot in use; slots 0, ..., n - 1 are in use.
    """

    def __init__(self, n_slots: int, room: int, device: torch.device) -> None:
        self.n_slots, self.room, self.device = n_slots, room, device
        self.lengths: list[int] = []
        self._caches: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def write(self, layer: int, slot: int, k: torch.Tensor, v: torch.Tensor) -> None:
        """Put a prompt's keys and values [n_kv_heads, n, head_dim] into a slot."""
        if layer not in self._caches:
            self._caches[layer] = tuple(x.new_zeros(self.n_slots, len(x), self.room, x.shape[-1]) for x in (k, v))  # type: ignore[assignment]
        for cache, x in zip(self._caches[layer], (k, v), strict=True):
            cache[slot, :, : x.shape[1]] = x

    def free(self, slot: int) -> None:
        """Give a slot back: the last one moves there."""
        last = len(self.lengths) - 1
        if slot != last:
            for cache in (x for pair in self._caches.values() for x in pair):
                cache[slot] = cache[last]
            self.lengths[slot] = self.lengths[last]
        del self.lengths[last]

    def begin(self) -> torch.Tensor:
        """Positions [n, 1] of the tokens of the next forward call."""
        self._positions = torch.tensor(self.lengths, device=self.device)
        self.lengths = [length + 1 for length in self.lengths]
        self._longest = max(self.lengths)
        self._biases: dict[tuple[int | None, torch.dtype], torch.Tensor] = {}
        return self._positions[:, None]

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        window: int | None,
        softcap: float | None,
    ) -> torch.Tensor:
        """[n, 1, n_heads, head_dim] from query [n, n_heads, 1, head_dim], key and value [n, n_kv, 1, head_dim]."""
        rows = torch.arange(len(query), device=self.device)
        for cache, x in zip(self._caches[layer], (key, value), strict=True):
            cache[rows, :, self._positions] = x[:, :, 0]
        k, v = (cache[: len(query), :, : self._longest] for cache in self._caches[layer])
        q = query[:, :, 0].reshape(len(query), k.shape[1], -1, query.shape[-1])
        return attend_batch(q, k, v, self._bias(window, q.dtype), softcap).flatten(1, 2)[:, None]

    def _bias(self, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        """[n, 1, 1, n_keys]: 0 where an answer's new token may attend, else minus infinity."""
        if (window, dtype) not in self._biases:
            behind = self._positions[:, None] - torch.arange(self._longest, device=self.device)
            hidden = (behind < 0) | (behind >= window) if window else behind < 0
            bias = torch.zeros(hidden.shape, dtype=dtype, device=self.device).masked_fill_(hidden, float("-inf"))
            self._biases[window, dtype] = bias[:, None, None]
        return self._biases[window, dtype]


class Decoder:
    """Greedy and sampled answers with a model whose attention is `mjd_tree`.

    Args:
        forward: the model.
        device: its device.
        end_ids: tokens that end an answer.
        tokens_per_pass: most prompt tokens in one forward call.
        n_slots: most answers in progress.
    """

    def __init__(
        self, forward: Forward, device: torch.device, end_ids: frozenset[int], tokens_per_pass: int, n_slots: int
    ) -> None:
        self.forward, self.device, self.end_ids = forward, device, end_ids
        self.tokens_per_pass, self.n_slots = tokens_per_pass, n_slots

    def run(self, prompts: Sequence[Sequence[int]], requests: Sequence[GenerateRequest]) -> Iterator[Answer]:
        """Answer every prompt (token ids); answers come as they finish. Those that share a beginning go together."""
        waiting = sorted(range(len(prompts)), key=lambda i: list(prompts[i]), reverse=True)
        room = max(len(ids) + r.max_new_tokens for ids, r in zip(prompts, requests, strict=True))
        slots = Slots(min(self.n_slots, len(prompts)), room, self.device)
        growing: list[Answer] = []
        while waiting or growing:
            free = slots.n_slots - len(growing)
            if waiting and (not growing or free >= max(1, FREE_SHARE * slots.n_slots)):
                entering = [waiting.pop() for _ in range(min(free, len(waiting)))]
                growing += [Answer(i, len(prompts[i]), Chooser(requests[i])) for i in entering]
                logits = self.enter([prompts[i] for i in entering], slots)
                first = len(growing) - len(entering)
            else:
                logits, first = self.step([answer.tokens[-1] for answer in growing], slots), 0
            fresh = range(first, len(growing))
            finished = [slot for slot in fresh if growing[slot].add(logits[slot - first], self.end_ids)]
            for slot in reversed(finished):
                yield growing[slot]
                slots.free(slot)
                growing[slot] = growing[-1]
                growing.pop()

    def enter(self, prompts: Sequence[Sequence[int]], slots: Slots) -> torch.Tensor:
        """Read prompts into further slots; logits [n, vocabulary] of their first answer tokens."""
        tree = forest(prompts)
        base = len(slots.lengths)
        slots.lengths += [len(ids) for ids in prompts]
        paths: list[tuple[int, torch.Tensor]] = []

        def keep(layer: int, k: torch.Tensor, v: torch.Tensor) -> None:
            for prompt, rows in paths:
                slots.write(layer, base + prompt, k.index_select(1, rows), v.index_select(1, rows))

        def on_device(values: Ints) -> torch.Tensor:
            return torch.from_numpy(values).to(self.device)

        walk = Walk(self.device, on_keys=keep)
        logits: dict[int, torch.Tensor] = {}
        for step in passes(tree, self.tokens_per_pass):
            walk.begin(step)
            paths = [(int(i), on_device(path_rows(tree, step.nodes, int(tree.leaf[i])))) for i in step.prompts]
            tokens, depth = (on_device(x[step.start : step.stop])[None] for x in (tree.tokens, tree.depth))
            out = self.forward(tokens, depth, on_device(step.leaf), walk)
            logits |= zip(step.prompts.tolist(), out, strict=True)
        return torch.stack([logits[i] for i in range(len(prompts))])

    def step(self, tokens: Sequence[int], slots: Slots) -> torch.Tensor:
        """One more token in every slot; logits [n, vocabulary] of the next ones."""
        positions = slots.begin()
        return self.forward(torch.tensor(tokens, device=self.device)[:, None], positions, None, slots)
