"""Prefix forests: the layout, and attention that gives what one prompt at a time gives."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mjd.errors import ModelError
from mjd.llm import tree

PROMPTS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=12)


def prompt_of(forest: tree.Forest, leaf: int) -> list[int]:
    """Tokens on the path to a node, read off the intervals."""
    nodes = [u for u in range(leaf + 1) if forest.end[u] > leaf]
    return forest.tokens[nodes].tolist()


def test_shared_prefixes_are_stored_once() -> None:
    forest = tree.forest([[1, 2, 3], [1, 2, 4, 5], [1, 2, 3]])
    assert forest.tokens.tolist() == [1, 2, 3, 4, 5]
    assert forest.depth.tolist() == [0, 1, 2, 2, 3]
    assert forest.end.tolist() == [5, 5, 3, 5, 5]
    assert forest.leaf.tolist() == [2, 4, 2]


def test_a_prompt_may_be_the_beginning_of_another() -> None:
    forest = tree.forest([[1, 2, 3], [1, 2]])
    assert forest.leaf.tolist() == [2, 1]


@given(PROMPTS)
def test_every_prompt_is_a_path(prompts: list[list[int]]) -> None:
    forest = tree.forest(prompts)
    assert [prompt_of(forest, leaf) for leaf in forest.leaf] == prompts


@given(PROMPTS)
def test_nodes_are_distinct_prefixes(prompts: list[list[int]]) -> None:
    prefixes = {tuple(prompt[: n + 1]) for prompt in prompts for n in range(len(prompt))}
    assert len(tree.forest(prompts)) == len(prefixes)


@given(PROMPTS, st.sampled_from([1, 2, 4, 16]))
def test_blocks_read_exactly_the_ancestors(prompts: list[list[int]], block: int) -> None:
    forest = tree.forest(prompts)
    plan = tree.plan(forest, "cpu", block)
    for node in range(len(forest)):
        row, offset = divmod(node, block)
        read = plan.keys[row][plan.mask[row, 0, offset]].tolist()
        assert sorted(read) == [u for u in range(node + 1) if forest.end[u] > node]


@settings(deadline=None, max_examples=25)
@given(PROMPTS, st.sampled_from([2, 16]), st.sampled_from([None, 3]), st.sampled_from([None, 5.0]))
def test_attention_equals_one_prompt_at_a_time(
    prompts: list[list[int]], block: int, window: int | None, softcap: float | None
) -> None:
    forest = tree.forest(prompts)
    plan = tree.plan(forest, "cpu", block, windows=window is not None)
    n = plan.tokens.shape[1]
    random = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(1, heads, n, 8, generator=random) for heads in (4, 2, 2))
    out, _ = tree.tree_attention(
        torch.nn.Module(), q, k, v, None, scaling=0.3, sliding_window=window, softcap=softcap, mjd_plan=plan
    )
    for leaf in forest.leaf:
        path = [u for u in range(leaf + 1) if forest.end[u] > leaf][-(window or n) :]
        for head in range(4):
            weights = k[0, head // 2, path] @ q[0, head, leaf] * 0.3
            if softcap:
                weights = softcap * torch.tanh(weights / softcap)
            expected = weights.softmax(0) @ v[0, head // 2, path]
            np.testing.assert_allclose(out[0, leaf, head], expected, atol=1e-5)


def test_what_the_attention_cannot_do_is_refused() -> None:
    plan = tree.plan(tree.forest([[1, 2]]), "cpu", 2)
    x = torch.zeros(1, 1, 2, 4)
    with pytest.raises(ModelError, match=r"cannot do what Module asks \(s_aux\)"):
        tree.tree_attention(torch.nn.Module(), x, x, x, None, mjd_plan=plan, s_aux=torch.zeros(1))
