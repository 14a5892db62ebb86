"""Prefix trees of prompts: the layout, and the passes in which a model walks it.

The prompts of an item differ in the order of their explanations and options, so their token sequences form a tree.
Its nodes are laid out in depth-first order and computed in passes of a fixed number of nodes, whole items and calls on
end: linear layers run over distinct nodes only, in matrices as large as the budget allows. What a pass needs of the
passes before it is the keys and values of one root path, the ancestors of its first node: memory does not grow with
the tree. Attention is cut into blocks of consecutive nodes. In depth-first order every ancestor of a block's nodes is
either inside the block or an ancestor of the block's first node, so no node is compared to the rest of the tree.

`forest`, `parts` and `passes` plan (NumPy); `mjd.llm.transformers.tree_attention` computes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

# Nodes of a block of attention: larger blocks compare more unrelated nodes, smaller ones multiply smaller matrices.
BLOCK = 128
# Blocks read a multiple of this many keys, so that few shapes of matrices occur: kernels are made once a shape.
KEYS_MULTIPLE = 16
# Nodes that are worth a worker of their own, and nodes of a part above which there are more parts than workers.
SMALLEST_PART = 256
LARGE_PART = 8192

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


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


def parts(prompts: Sequence[Sequence[int]], n_workers: int) -> list[list[int]]:
    """Deal prompts (their indices) into parts that workers walk side by side, each as a forest of its own.

    Parts have about as many nodes each and are cut where neighbours share little, for what they share is computed in
    both. There is one a worker, more when they are large, so that all workers end together, and a single one when the
    prompts are few.
    """
    order = sorted(range(len(prompts)), key=lambda i: list(prompts[i]))
    ids = [np.asarray(prompts[i], dtype=np.int64) for i in order]
    shared = np.array([0, *(shared_prefix(a, b) for a, b in pairwise(ids))])
    ends = np.cumsum(np.array([len(one) for one in ids]) - shared)
    n_nodes = int(ends[-1])
    if n_nodes < n_workers * SMALLEST_PART:
        return [order]
    n = int(np.clip(n_nodes // LARGE_PART, n_workers, 4 * n_workers))
    before = np.concatenate([[0], ends[:-1]])
    wanted = [n_nodes * k / n for k in range(1, n)]
    cuts = sorted({int(np.argmin(np.abs(before - nodes) + shared)) for nodes in wanted} - {0})
    return [order[start:stop] for start, stop in pairwise([0, *cuts, len(order)])]


@dataclass(frozen=True)
class Block:
    """Consecutive nodes of a pass that attend together.

    Attributes:
        start, stop: the nodes, counted in the pass.
        keys: [n_keys] what they read, in rows of the context followed by the pass; the last may be padding.
        mask: [stop - start, n_keys] True where a node may attend: its ancestors and itself.
        distance: [stop - start, n_keys] depth of the node minus depth of the key, for sliding windows.
    """

    start: int
    stop: int
    keys: Ints
    mask: Bools
    distance: Ints


@dataclass(frozen=True)
class Pass:
    """One forward pass over nodes start, ..., stop - 1 of a forest.

    Its context is the root path of `start`, without `start`, which earlier passes computed.

    Attributes:
        nodes: [n_rows] the nodes of the context, then those of the pass.
        blocks: what attends to what.
        carry: [n] the next pass's context, in rows of this context followed by this pass; empty for the last pass.
        leaf: [n_leaves] prompts' last nodes in this pass, counted in the pass.
        prompts: [n_leaves] the prompts they end.
    """

    start: int
    stop: int
    nodes: Ints
    blocks: tuple[Block, ...]
    carry: Ints
    leaf: Ints
    prompts: Ints


def passes(tree: Forest, size: int, block: int = BLOCK) -> Iterator[Pass]:
    """Cut a forest into passes of at most `size` nodes, in the order they must run."""
    by_leaf = np.argsort(tree.leaf, kind="stable")
    leaves = tree.leaf[by_leaf]
    context = np.zeros(0, dtype=np.int64)
    for start in range(0, len(tree), size):
        stop = min(start + size, len(tree))
        known = np.concatenate([context, np.arange(start, stop)])
        firsts = range(start, stop, block)
        blocks = tuple(_block(tree, known, first, min(first + block, stop), start) for first in firsts)
        carry = np.flatnonzero(tree.end[known] > stop)
        here = slice(*np.searchsorted(leaves, [start, stop]))
        yield Pass(start, stop, known, blocks, carry, leaves[here] - start, by_leaf[here])
        context = known[carry]


def _block(tree: Forest, known: Ints, first: int, last: int, start: int) -> Block:
    """The block of nodes first, ..., last - 1 of a pass from `start`; `known` holds its context, then its own nodes."""
    rows = np.flatnonzero((known < last) & (tree.end[known] > first))
    padding = -len(rows) % KEYS_MULTIPLE
    key, query = known[rows][None, :], np.arange(first, last)[:, None]
    mask = (key <= query) & (query < tree.end[key])
    distance = tree.depth[query] - tree.depth[key]
    wide = ((0, 0), (0, padding))
    return Block(first - start, last - start, np.pad(rows, (0, padding)), np.pad(mask, wide), np.pad(distance, wide))


def path_rows(tree: Forest, nodes: Ints, leaf: int) -> Ints:
    """Rows of `nodes` that lead to node `leaf`, from the root, `leaf` included."""
    return np.flatnonzero((nodes <= leaf) & (tree.end[nodes] > leaf))
