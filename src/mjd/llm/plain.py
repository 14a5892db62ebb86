"""The plain way, for models that prefix trees do not fit: padded batches, Transformers' own attention and caches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from transformers import DynamicCache

from mjd.llm.base import Generate
from mjd.llm.decoding import Answer, Chooser


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


def last_logits(model: Any, ids: Sequence[Sequence[int]], pad_id: int) -> torch.Tensor:
    """Float32 logits [n_prompts, vocabulary] after each prompt's last token."""
    out = model(**left_padded(ids, pad_id, model.device), use_cache=False, logits_to_keep=1)
    return torch.as_tensor(out.logits[:, -1]).float()


def generate_batch(
    model: Any,
    ids: Mapping[int, Sequence[int]],
    requests: Sequence[Generate],
    pad_id: int,
    end_ids: frozenset[int],
) -> list[Answer]:
    """Answers of one batch, prompts' token ids by index into `requests`; finished answers leave the batch at once."""
    inputs = left_padded(list(ids.values()), pad_id, model.device)
    mask, positions = inputs["attention_mask"], inputs["position_ids"][:, -1:]
    cache = DynamicCache(config=model.config)
    answers = [Answer(i, len(one), Chooser(requests[i])) for i, one in ids.items()]
    growing = answers
    out = model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
    while True:
        logits = out.logits[:, -1].float()
        keep = [row for row, answer in enumerate(growing) if not answer.add(logits[row], end_ids)]
        if not keep:
            return answers
        if len(keep) < len(growing):
            chosen = torch.tensor(keep, device=model.device)
            cache.batch_select_indices(chosen)
            mask, positions = mask[chosen], positions[chosen]
            growing = [growing[row] for row in keep]
        mask = torch.cat([mask, mask.new_ones(len(growing), 1)], dim=1)
        positions = positions + 1
        tokens = torch.tensor([answer.tokens[-1] for answer in growing], device=model.device)[:, None]
        out = model(
            input_ids=tokens, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        )
