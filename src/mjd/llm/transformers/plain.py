"""Plain ways of running a model, for those that prefix trees do not fit: Transformers' own attention, masks and caches.

`PaddedBatches` assumes that a model skips padding and that rows of its cache can be dropped. `OnePromptAtATime` assumes
nothing beyond a forward call and `generate`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from mjd.errors import ModelError
from mjd.llm.base import GenerateRequest
from mjd.llm.transformers.decoding import Answer, Chooser
from mjd.llm.transformers.reference import accepts, logits_alone


def left_padded(ids: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Inputs [n, longest], padded on the left so that every row ends at the last column."""
    width = max(map(len, ids))
    tokens = torch.full((len(ids), width), pad_id)
    mask = torch.zeros((len(ids), width), dtype=torch.long)
    for row, one in enumerate(ids):
        tokens[row, width - len(one) :] = torch.tensor(one)
        mask[row, width - len(one) :] = 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    inputs = {"input_ids": tokens, "attention_mask": mask, "position_ids": positions}
    return {name: tensor.to(device) for name, tensor in inputs.items()}


def batches(ids: Sequence[Sequence[int]], most_tokens: int) -> Iterator[list[int]]:
    """Indices by length, longest first, each batch within `most_tokens` padded tokens."""
    batch: list[int] = []
    for i in sorted(range(len(ids)), key=lambda i: -len(ids[i])):
        if batch and len(ids[batch[0]]) * (len(batch) + 1) > most_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


class PaddedBatches:
    """Prompts of similar length together, padded on the left.

    Args:
        model: any causal language model of Transformers, in evaluation mode.
        pad_id: token that fills shorter rows.
        tokens_per_pass: most padded tokens of a forward call that scores.
        batch_size: answers that grow together.
        use_attention: gives the model the attention that is exact for it.
    """

    name = "padded batches"

    def __init__(
        self, model: Any, pad_id: int, tokens_per_pass: int, batch_size: int, use_attention: Callable[[], None]
    ) -> None:
        self.model, self.pad_id, self.use_attention = model, pad_id, use_attention
        self.tokens_per_pass, self.batch_size = tokens_per_pass, batch_size

    def last_logits(self, ids: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Float32 logits after the last token of each prompt, as (indices [n], logits [n, vocabulary])."""
        for batch in batches(ids, self.tokens_per_pass):
            yield batch, self.probe_last([ids[i] for i in batch])

    def probe_last(self, ids: Sequence[Sequence[int]]) -> torch.Tensor:
        """The same of one batch: [n_prompts, vocabulary]."""
        self.use_attention()
        return self._forward(left_padded(ids, self.pad_id, self.model.device), use_cache=False)

    def probe_steps(self, ids: Sequence[Sequence[int]], n: int) -> torch.Tensor:
        """Logits [n_prompts, n + 1, vocabulary] after a prompt's last tokens, the last `n` as if they were generated.

        A further row is dropped and the others change places on the way, as when finished answers leave a batch.
        """
        growing = _Growing(self, [one[:-n] for one in [*ids, ids[-1]]])
        order, found = list(range(len(ids))), [growing.logits[:-1]]
        for step in range(n):
            order = order[::-1]
            growing.keep(list(range(len(ids)))[::-1])
            growing.step([ids[i][len(ids[i]) - n + step] for i in order])
            found.append(growing.logits[order])  # a reversed order is its own inverse
        return torch.stack(found, dim=1)

    def answers(
        self, ids: Sequence[Sequence[int]], requests: Sequence[GenerateRequest], end_ids: frozenset[int]
    ) -> Iterator[Answer]:
        """The answers to prompts (token ids), batch by batch, longest prompts first."""
        longest_first = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        for start in range(0, len(ids), self.batch_size):
            batch = longest_first[start : start + self.batch_size]
            yield from self._generate({i: ids[i] for i in batch}, requests, end_ids)

    def _generate(
        self, ids: Mapping[int, Sequence[int]], requests: Sequence[GenerateRequest], end_ids: frozenset[int]
    ) -> list[Answer]:
        """Answers of one batch, prompts' token ids by index into `requests`; finished ones leave the batch at once."""
        answers = [Answer(i, len(one), Chooser(requests[i])) for i, one in ids.items()]
        waiting, growing = answers, _Growing(self, list(ids.values()))
        while True:
            keep = [row for row, answer in enumerate(waiting) if not answer.add(growing.logits[row], end_ids)]
            if not keep:
                return answers
            if len(keep) < len(waiting):
                growing.keep(keep)
                waiting = [waiting[row] for row in keep]
            growing.step([answer.tokens[-1] for answer in waiting])

    def _forward(self, inputs: dict[str, torch.Tensor], **more: Any) -> torch.Tensor:
        """Float32 logits [n, vocabulary] at the last column."""
        if not accepts(self.model, "attention_mask"):
            raise ModelError(f"{type(self.model).__name__} has no attention mask", "")
        given = {name: tensor for name, tensor in inputs.items() if accepts(self.model, name)}
        keep = {"logits_to_keep": 1} if accepts(self.model, "logits_to_keep") else {}
        return torch.as_tensor(self.model(**given, **keep, **more).logits[:, -1]).float()


class _Growing:
    """A batch whose rows grow by a token a step; `logits` [n, vocabulary] of the next tokens."""

    def __init__(self, batches: PaddedBatches, ids: Sequence[Sequence[int]]) -> None:
        batches.use_attention()
        self._forward, model = batches._forward, batches.model
        if not accepts(model, "past_key_values"):
            raise ModelError(f"{type(model).__name__} has no cache of keys and values", "")
        inputs = left_padded(ids, batches.pad_id, model.device)
        self._mask, self._positions = inputs["attention_mask"], inputs["position_ids"][:, -1:]
        self._cache = DynamicCache(config=model.config)
        self.logits = self._forward(inputs, past_key_values=self._cache, use_cache=True)

    def keep(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order."""
        chosen = torch.tensor(rows, device=self._mask.device)
        self._cache.reorder_cache(chosen)  # unlike `batch_select_indices`, known to recurrent layers too
        self._mask, self._positions = self._mask[chosen], self._positions[chosen]

    def step(self, tokens: Sequence[int]) -> None:
        """Add a token to every row."""
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=1)
        self._positions = self._positions + 1
        column = torch.tensor(tokens, device=self._mask.device)[:, None]
        inputs = {"input_ids": column, "attention_mask": self._mask, "position_ids": self._positions}
        self.logits = self._forward(inputs, past_key_values=self._cache, use_cache=True)


class OnePromptAtATime:
    """Each prompt alone: a forward call scores it, `generate` of Transformers answers it.

    Args:
        model: any causal language model of Transformers, in evaluation mode.
        pad_id: a token that Transformers wants to know, though nothing is padded.
        use_attention: gives the model the attention that is exact for it.
        use_cache: whether `generate` keeps a cache.
    """

    def __init__(self, model: Any, pad_id: int, use_attention: Callable[[], None], use_cache: bool = True) -> None:
        self.model, self.pad_id, self.use_attention, self.use_cache = model, pad_id, use_attention, use_cache
        self.name = "one prompt at a time" if use_cache else "one prompt at a time without a cache"

    def last_logits(self, ids: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Float32 logits after the last token of each prompt, as ([index], logits [1, vocabulary])."""
        self.use_attention()
        for i, one in enumerate(ids):
            yield [i], logits_alone(self.model, one)

    def probe_last(self, ids: Sequence[Sequence[int]]) -> torch.Tensor:
        """The same as [n_prompts, vocabulary], last prompt first: a model may keep something of the prompt before."""
        self.use_attention()
        return torch.cat([logits_alone(self.model, one) for one in ids[::-1]]).flip(0)

    def probe_steps(self, ids: Sequence[Sequence[int]], n: int) -> torch.Tensor:
        """Logits [n_prompts, n + 1, vocabulary] after the last tokens of prompts, `n` of them as if generated."""
        found = []
        for one in ids:
            seen: list[torch.Tensor] = []

            def choose(
                logits: torch.Tensor, seen: list[torch.Tensor] = seen, tail: Sequence[int] = one[-n:]
            ) -> int | None:
                seen.append(logits.clone())
                return tail[len(seen) - 1] if len(seen) <= n else None

            self._generate(one[:-n], n + 1, choose)
            found.append(torch.stack(seen))
        return torch.stack(found)

    def answers(
        self, ids: Sequence[Sequence[int]], requests: Sequence[GenerateRequest], end_ids: frozenset[int]
    ) -> Iterator[Answer]:
        """The answers to prompts (token ids), in their order; tokens are chosen as in every other way of running."""
        for i, (one, request) in enumerate(zip(ids, requests, strict=True)):
            answer = Answer(i, len(one), Chooser(request))

            def choose(logits: torch.Tensor, answer: Answer = answer) -> int | None:
                return None if answer.add(logits, end_ids) else answer.tokens[-1]

            self._generate(one, request.max_new_tokens, choose)
            yield answer

    def _generate(self, ids: Sequence[int], most: int, choose: Callable[[torch.Tensor], int | None]) -> None:
        """Run `generate`, each next token chosen from logits [vocabulary] by `choose`, up to `most` or until None."""
        self.use_attention()
        choosing = _Choosing(choose)
        tokens = torch.tensor([list(ids)], device=self.model.device)
        # Otherwise Transformers takes tokens that equal the padding for padding.
        mask = {"attention_mask": torch.ones_like(tokens)} if accepts(self.model, "attention_mask") else {}
        with _no_defaults(self.model, self.pad_id):
            self.model.generate(
                tokens,
                **mask,
                max_new_tokens=most,
                do_sample=False,
                use_cache=self.use_cache,
                logits_processor=LogitsProcessorList([choosing]),
                stopping_criteria=StoppingCriteriaList([_Ended(choosing)]),
            )


class _Choosing(LogitsProcessor):  # type: ignore[misc]
    """Leaves `generate` one token to choose."""

    def __init__(self, choose: Callable[[torch.Tensor], int | None]) -> None:
        self.choose, self.has_ended = choose, False

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        token = self.choose(scores[0].float())
        self.has_ended = token is None
        only = torch.full_like(scores, float("-inf"))
        only[:, token or 0] = 0.0
        return only


class _Ended(StoppingCriteria):  # type: ignore[misc]
    """Ends `generate` when no token was chosen."""

    def __init__(self, choosing: _Choosing) -> None:
        self.choosing = choosing

    def __call__(self, input_ids: torch.Tensor, scores: Any, **others: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), self.choosing.has_ended, device=input_ids.device)


@contextmanager
def _no_defaults(model: Any, pad_id: int) -> Iterator[None]:
    """Without the defaults of the model's directory (repetition penalties, end tokens), which would change logits."""
    before = model.generation_config
    model.generation_config = GenerationConfig(pad_token_id=pad_id)
    try:
        yield
    finally:
        model.generation_config = before
