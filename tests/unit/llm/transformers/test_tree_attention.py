"""Attention of prefix trees: what one prompt at a time gives."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mjd.errors import ModelError
from mjd.llm.transformers import tree, tree_attention

PROMPTS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=12)
N_HEADS, N_KV, WIDTH, SCALING = 4, 2, 8, 0.3


def attention(
    forest: tree.Forest,
    heads: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    cut: tuple[int, int],
    together: bool,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    """Attention of all nodes [n_nodes, n_heads, width], in passes and blocks of the sizes of `cut`."""
    walk = tree_attention.Walk(torch.device("cpu"), together)
    module = torch.nn.Module()
    module.layer_idx = 0  # type: ignore[assignment]
    found = []
    for step in tree.passes(forest, *cut):
        walk.begin(step)
        q, k, v = (x[:, :, step.start : step.stop] for x in heads)
        out, _ = tree_attention.tree_attention(
            module, q, k, v, None, scaling=SCALING, sliding_window=window, softcap=softcap, mjd_walk=walk
        )
        found.append(out[0])
    return torch.cat(found)


@pytest.mark.parametrize("together", [False, True])
@settings(max_examples=25)
@given(
    PROMPTS,
    st.tuples(st.integers(1, 40), st.sampled_from([2, 16])),
    st.sampled_from([None, 3]),
    st.sampled_from([None, 5.0]),
)
def test_attention_equals_one_prompt_at_a_time(
    together: bool, prompts: list[list[int]], cut: tuple[int, int], window: int | None, softcap: float | None
) -> None:
    forest = tree.forest(prompts)
    n = len(forest)
    random = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(1, heads, n, WIDTH, generator=random) for heads in (N_HEADS, N_KV, N_KV))
    out = attention(forest, (q, k, v), cut, together, window, softcap)
    for node in range(n):
        path = [u for u in range(node + 1) if forest.end[u] > node][-(window or n) :]
        for head in range(N_HEADS):
            weights = k[0, head // 2, path] @ q[0, head, node] * SCALING
            if softcap:
                weights = softcap * torch.tanh(weights / softcap)
            expected = weights.softmax(0) @ v[0, head // 2, path]
            np.testing.assert_allclose(out[node, head], expected, atol=1e-5)


def test_what_the_attention_cannot_do_is_refused() -> None:
    module, x = torch.nn.Module(), torch.zeros(1, 1, 2, 4)
    module.layer_idx = 0  # type: ignore[assignment]
    walk = tree_attention.Walk(torch.device("cpu"))
    with pytest.raises(ModelError, match=r"cannot do what Module asks \(s_aux\)"):
        tree_attention.tree_attention(module, x, x, x, None, mjd_walk=walk, s_aux=torch.zeros(1))
