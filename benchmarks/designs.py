"""Other designs of scoring a prefix tree, kept for comparison: Transformers' own attention on the same trees.

Linear layers multiply with oneDNN, as mjd's do, so that differences are the designs'.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, DynamicCache
from ways import Measured, Work, each_item

from mjd.backends import onednn
from mjd.llm.transformers.tree import Forest, Ints, forest

# Cached and new tokens, padding included, of one level-wise batch.
LEVEL_TOKENS = 8192


def load(directory: str, attention: str) -> Any:
    """The model with an attention of Transformers'."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation=attention).eval()
    onednn.use_in_linear_layers(model)
    return model


@dataclass(frozen=True)
class Segment:
    """Nodes without a branch: `path` leads to them, `nodes` are theirs, `level` counts the segments above."""

    level: int
    path: Ints
    nodes: Ints


def segments(tree: Forest) -> list[Segment]:
    """A forest's segments, parents first; every prompt ends where one of them ends."""
    ends_here = set(tree.leaf.tolist())
    found: list[Segment] = []
    above: list[tuple[int, Segment]] = []  # open segments with the ends of their last nodes' subtrees
    first = 0
    for node in range(len(tree)):
        only_child = (
            node + 1 < len(tree) and tree.end[node + 1] == tree.end[node] and tree.depth[node + 1] > tree.depth[node]
        )
        if only_child and node not in ends_here:
            continue
        while above and above[-1][0] <= first:
            above.pop()
        parents = [segment.nodes for _, segment in above]
        path = np.concatenate(parents) if parents else np.zeros(0, dtype=np.int64)
        segment = Segment(len(above), path, np.arange(first, node + 1))
        found.append(segment)
        above.append((int(tree.end[node]), segment))
        first = node + 1
    return found


@torch.inference_mode()
def levels(work: Work) -> Measured:
    """Level by level: its segments in padded batches, the keys and values of their paths gathered for each row."""
    model = load(work.model, "sdpa")

    def score(item: int) -> torch.Tensor:
        tree = forest(work.items[item])
        caches: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        logits = torch.zeros(len(tree), len(work.letters))
        waiting = sorted(segments(tree), key=lambda s: (s.level, -len(s.path), -len(s.nodes)))
        while waiting:
            n = 1
            width = len(waiting[0].path) + len(waiting[0].nodes)
            while n < len(waiting) and waiting[n].level == waiting[0].level and (n + 1) * width <= LEVEL_TOKENS:
                n += 1
            _run_level(model, tree, waiting[:n], caches, logits, work.letters)
            waiting = waiting[n:]
        return logits[torch.from_numpy(tree.leaf)]

    return each_item("level by level", len(work.items), score)


def _run_level(
    model: Any,
    tree: Forest,
    rows: list[Segment],
    caches: dict[int, tuple[torch.Tensor, torch.Tensor]],
    logits: torch.Tensor,
    letters: list[int],
) -> None:
    past, new = max(len(row.path) for row in rows), max(len(row.nodes) for row in rows)
    paths = torch.zeros(len(rows), past, dtype=torch.long)
    tokens, depth = (torch.zeros(len(rows), new, dtype=torch.long) for _ in range(2))
    mask = torch.full((len(rows), 1, new, past + new), torch.finfo(torch.float32).min)
    mask[..., past:] = mask[..., past:].triu(1)
    for i, row in enumerate(rows):
        paths[i, : len(row.path)] = torch.from_numpy(row.path)
        tokens[i, : len(row.nodes)] = torch.from_numpy(tree.tokens[row.nodes])
        depth[i, : len(row.nodes)] = torch.from_numpy(tree.depth[row.nodes])
        mask[i, :, :, : len(row.path)] = 0
    cache = DynamicCache()
    if past:
        for layer, stored in caches.items():
            cache.update(*(x[:, paths].transpose(0, 1) for x in stored), layer)
    hidden = model.model(
        input_ids=tokens, position_ids=depth, attention_mask=mask, past_key_values=cache, use_cache=True
    ).last_hidden_state
    last = torch.stack([hidden[i, len(row.nodes) - 1] for i, row in enumerate(rows)])
    ends = torch.tensor([row.nodes[-1] for row in rows])
    logits[ends] = model.lm_head(last)[:, letters]
    for layer, kept in enumerate(cache.layers):
        for which, x in enumerate((kept.keys, kept.values)):
            if layer not in caches:
                room = (x.shape[1], len(tree), x.shape[3])
                caches[layer] = (x.new_zeros(room), x.new_zeros(room))
            for i, row in enumerate(rows):
                caches[layer][which][:, torch.from_numpy(row.nodes)] = x[i, :, past : past + len(row.nodes)]


@torch.inference_mode()
def packed(work: Work) -> Measured:
    """The whole tree as one sequence with a mask of nodes by nodes."""
    model = load(work.model, "sdpa")

    def score(item: int) -> torch.Tensor:
        tree = forest(work.items[item])
        node, end = torch.arange(len(tree)), torch.from_numpy(tree.end)
        allowed = (node[None] <= node[:, None]) & (node[:, None] < end[None])
        mask = torch.zeros(allowed.shape).masked_fill_(~allowed, torch.finfo(torch.float32).min)[None, None]
        return _packed_logits(model, tree, mask, work.letters)

    return each_item("one sequence", len(work.items), score)


@torch.inference_mode()
def flex(work: Work) -> Measured:
    """The whole tree as one sequence with FlexAttention, compiled for every item's length before it is timed."""
    from torch.nn.attention.flex_attention import create_block_mask

    # For lengths that vary the compiler writes C++ that compilers refuse (PyTorch 2.13 on CPUs).
    torch._dynamo.config.automatic_dynamic_shapes = False
    model = load(work.model, "flex_attention")

    def score(item: int) -> torch.Tensor:
        tree = forest(work.items[item])
        end = torch.from_numpy(tree.end)

        def is_ancestor(b: Any, h: Any, query: Any, key: Any) -> Any:
            return (key <= query) & (query < end[key])

        mask = create_block_mask(is_ancestor, None, None, len(tree), len(tree), device="cpu")
        return _packed_logits(model, tree, mask, work.letters)

    for item in range(len(work.items)):
        score(item)
    return each_item("FlexAttention", len(work.items), score)


def _packed_logits(model: Any, tree: Forest, mask: Any, letters: list[int]) -> torch.Tensor:
    tokens, depth = (torch.from_numpy(x)[None] for x in (tree.tokens, tree.depth))
    hidden = model.model(input_ids=tokens, position_ids=depth, attention_mask=mask, use_cache=False).last_hidden_state
    scores: torch.Tensor = model.lm_head(hidden[0, torch.from_numpy(tree.leaf)])[:, letters]
    return scores
