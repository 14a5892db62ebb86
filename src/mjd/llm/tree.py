"""Prefix trees of prompts: every shared prefix is computed once, in one packed forward pass.

The prompts of an item differ in the order of their explanations and options, so their token sequences form a tree.
Its nodes are laid out in depth-first order as one sequence: linear layers run over distinct nodes only. Attention is
cut into blocks of consecutive nodes. In depth-first order every ancestor of a block's nodes is either inside the block
or an ancestor of the block's first node, so a block needs the keys of one root path and its own: no node attends, or is
compared, to the rest of the tree, and queries need no padding.

`forest` plans (NumPy), `tree_attention` computes (registered with Transformers as attention `mjd_tree`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mjd.errors import ModelError

ATTENTION = "mjd_tree"
BLOCK = 128

# Keyword arguments of Transformers' attention call that do not change the result here.
_HARMLESS = {"dropout", "is_causal", "position_ids", "use_cache", "cache_position", "output_attentions", "return_dict"}
_HARMLESS |= {"output_hidden_states", "num_items_in_batch", "logits_to_keep", "position_embeddings"}

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Forest:
    """Token trees in depth-first order.

    Attributes:
        tokens: [n_nodes] token ids.
        depth: [n_nodes] position of each node in its prompt, from 0.
        end: [n_nodes] index after the last node of each node's subtree: u is v or its ancestor iff u <= v < end[u].
        leaf: [n_prompts] node of each prompt's last token, in the order the prompts were given.
    """

    tokens: Ints
    depth: Ints
    end: Ints
    leaf: Ints

    def __len__(self) -> int:
        return len(self.tokens)


def shared_prefix(a: Ints, b: Ints) -> int:
    """Length of the common prefix of two token sequences."""
    n = min(len(a), len(b))
    different = np.flatnonzero(a[:n] != b[:n])
    return int(different[0]) if len(different) else n


def forest(prompts: Sequence[Sequence[int]]) -> Forest:
    """Build the prefix forest of token sequences; equal sequences share their leaf. Prompts must not be empty."""
    arrays = [np.asarray(prompt, dtype=np.int64) for prompt in prompts]
    order = sorted(range(len(arrays)), key=lambda i: tuple(arrays[i].tolist()))
    tokens: list[Ints] = []
    depths: list[Ints] = []
    leaf = np.zeros(len(arrays), dtype=np.int64)
    path = np.zeros(max(len(a) for a in arrays), dtype=np.int64)
    closed: list[tuple[Ints, int]] = []
    n, previous = 0, np.zeros(0, dtype=np.int64)
    for i in order:
        current = arrays[i]
        shared = shared_prefix(previous, current)
        new = len(current) - shared
        if new or not len(previous):
            closed.append((path[shared : len(previous)].copy(), n))
            path[shared : len(current)] = np.arange(n, n + new)
            tokens.append(current[shared:])
            depths.append(np.arange(shared, len(current)))
            n += new
            previous = current
        leaf[i] = path[len(current) - 1]
    end = np.full(n, n, dtype=np.int64)
    for nodes, at in closed:
        end[nodes] = at
    return Forest(np.concatenate(tokens), np.concatenate(depths), end, leaf)


@dataclass(frozen=True)
class Plan:
    """A forest cut into blocks, on the model's device.

    Attributes:
        tokens, depth: [1, n_blocks * block] inputs, padded at the end.
        keys: [n_blocks, n_keys] nodes whose keys and values a block reads (padded with its own first node).
        mask: [n_blocks, 1, block, n_keys] True where a query may attend.
        distance: [n_blocks, 1, block, n_keys] query depth minus key depth, for sliding windows; None without one.
        leaf: [n_prompts] as in `Forest`.
    """

    tokens: torch.Tensor
    depth: torch.Tensor
    keys: torch.Tensor
    mask: torch.Tensor
    distance: torch.Tensor | None
    leaf: torch.Tensor


def plan(tree: Forest, device: torch.device | str, block: int = BLOCK, windows: bool = False) -> Plan:
    """Lay a forest out in blocks of `block` nodes; `windows` keeps distances for sliding-window layers."""
    n = len(tree)
    n_blocks = -(-n // block)
    padded = n_blocks * block
    tokens, depth = np.zeros(padded, np.int64), np.zeros(padded, np.int64)
    end = np.arange(1, padded + 1)
    tokens[:n], depth[:n], end[:n] = tree.tokens, tree.depth, tree.end
    starts = np.arange(0, padded, block)
    paths = [np.flatnonzero(end[:start] > start) for start in starts]
    own = starts[:, None] + np.arange(block)
    n_path = max(len(path) for path in paths)
    above = np.full((n_blocks, n_path), -1, np.int64)
    for row, path in enumerate(paths):
        above[row, : len(path)] = path
    keys = np.concatenate([above, own], axis=1)
    real = keys >= 0
    keys = np.where(real, keys, starts[:, None])
    query, key = own[:, :, None], keys[:, None, :]
    mask = (key <= query) & (query < end[key]) & real[:, None, :]
    distance = depth[query] - depth[key] if windows else None

    def to(values: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(values).to(device)

    return Plan(
        to(tokens)[None],
        to(depth)[None],
        to(keys),
        to(mask)[:, None],
        None if distance is None else to(distance)[:, None],
        to(tree.leaf),
    )


def tree_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    mjd_plan: Plan | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of packed trees, in the form Transformers calls attention functions.

    Args:
        query: [1, n_heads, n_nodes, head_dim]; key and value: [1, n_kv_heads, n_nodes, head_dim].
        mjd_plan: the `Plan` given to the model's forward call.

    Returns:
        [1, n_nodes, n_heads, head_dim] and None.

    Raises:
        ModelError: the model asks for something this function does not do (attention sinks, position biases).
    """
    unknown = {name for name, given in others.items() if given is not None} - _HARMLESS
    if mjd_plan is None or attention_mask is not None or unknown:
        raise ModelError(
            f"Prefix-tree attention cannot do what {type(module).__name__} asks ({', '.join(sorted(unknown))}).",
            "Set prefix_tree: false for this LLM.",
        )
    n_blocks, n_keys = mjd_plan.keys.shape
    n_heads, n_kv, n_nodes, width = query.shape[1], key.shape[1], query.shape[2], query.shape[3]
    group = n_heads // n_kv
    mask = mjd_plan.mask
    if sliding_window and mjd_plan.distance is not None:
        mask = mask & (mjd_plan.distance < sliding_window)
    # Heads that share keys become further rows of one query: no key or value is repeated.
    q = query[0].view(n_kv, group, n_blocks, -1, width).permute(2, 0, 1, 3, 4).flatten(2, 3)
    flat = mjd_plan.keys.flatten()
    k, v = (x[0].index_select(1, flat).view(n_kv, n_blocks, n_keys, -1).transpose(0, 1) for x in (key, value))
    rows = mask.expand(-1, group, -1, -1).flatten(1, 2)[:, None]
    out = _attend(q, k, v, rows, scaling, softcap)
    out = out.view(n_blocks, n_kv, group, -1, out.shape[-1]).permute(0, 3, 1, 2, 4)
    return out.reshape(1, n_nodes, n_heads, out.shape[-1]), None


def _attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor, scaling: float | None, softcap: float | None
) -> torch.Tensor:
    if softcap is None:
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling)
    weights = q @ k.transpose(-1, -2) * (scaling if scaling is not None else q.shape[-1] ** -0.5)
    weights = (softcap * torch.tanh(weights / softcap)).masked_fill(~mask, float("-inf"))
    return weights.softmax(-1, dtype=torch.float32).to(v.dtype) @ v


def register() -> None:
    """Make `tree_attention` known to Transformers under the name `mjd_tree`."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, tree_attention)
