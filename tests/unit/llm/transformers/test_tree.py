"""Prefix forests: the layout, and the passes that read it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mjd.llm.transformers import tree

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


@given(PROMPTS, st.integers(1, 9), st.sampled_from([1, 2, 4, 16]))
def test_passes_read_exactly_the_ancestors(prompts: list[list[int]], size: int, block: int) -> None:
    forest = tree.forest(prompts)
    seen = []
    for step in tree.passes(forest, size, block):
        for one in step.blocks:
            for row, node in enumerate(range(step.start + one.start, step.start + one.stop)):
                read = step.nodes[one.keys[one.mask[row]]].tolist()
                assert read == [u for u in range(node + 1) if forest.end[u] > node]
                distances = one.distance[row][one.mask[row]].tolist()
                assert distances == [forest.depth[node] - forest.depth[u] for u in read]
                seen.append(node)
    assert seen == list(range(len(forest)))


@given(PROMPTS, st.integers(1, 9))
def test_a_pass_keeps_one_path_of_the_passes_before(prompts: list[list[int]], size: int) -> None:
    context: list[int] = []
    for step in tree.passes(tree.forest(prompts), size):
        assert step.nodes.tolist() == [*context, *range(step.start, step.stop)]
        assert step.stop - step.start <= size
        assert len(context) < max(map(len, prompts))
        context = step.nodes[step.carry].tolist()
    assert context == []


@given(PROMPTS, st.integers(1, 9))
def test_every_prompt_ends_in_one_pass(prompts: list[list[int]], size: int) -> None:
    forest = tree.forest(prompts)
    ends = {
        int(prompt): step.start + int(leaf)
        for step in tree.passes(forest, size)
        for prompt, leaf in zip(step.prompts, step.leaf, strict=True)
    }
    assert ends == dict(enumerate(forest.leaf.tolist()))


@given(PROMPTS, st.integers(1, 9))
def test_path_rows_lead_to_the_leaf(prompts: list[list[int]], size: int) -> None:
    forest = tree.forest(prompts)
    for step in tree.passes(forest, size):
        for prompt, leaf in zip(step.prompts, step.leaf, strict=True):
            rows = tree.path_rows(forest, step.nodes, step.start + int(leaf))
            assert forest.tokens[step.nodes[rows]].tolist() == prompts[prompt]


@given(PROMPTS, st.integers(1, 4))
def test_parts_hold_every_prompt_once_and_neighbours_together(prompts: list[list[int]], n_workers: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tree, "SMALLEST_PART", 1)
        dealt = tree.parts(prompts, n_workers)
    assert all(dealt)
    assert len(dealt) <= n_workers
    order = [i for part in dealt for i in part]
    assert sorted(order) == list(range(len(prompts)))
    assert [prompts[i] for i in order] == sorted(prompts)


def test_parts_are_cut_where_little_is_shared() -> None:
    """Two stems of 300 nodes, one after 2 of its 3 branches of 10 nodes: the cut is between the stems."""
    stem = {word: [word] * 300 for word in (1, 2)}
    prompts = [stem[word] + [branch] * 10 for word in (1, 2) for branch in (7, 8, 9)]
    assert tree.parts(prompts, 2) == [[0, 1, 2], [3, 4, 5]]


def test_few_prompts_are_one_part_and_large_parts_are_more_than_workers() -> None:
    assert len(tree.parts([[1] * 200, [2] * 200], 2)) == 1
    many = [[word] * 1000 for word in range(40)]
    assert [len(part) for part in tree.parts(many, 2)] == [10] * 4


def test_blocks_read_multiples_of_keys() -> None:
    steps = list(tree.passes(tree.forest([[1, 2, 3], [1, 2, 4, 5]]), 3, 2))
    assert {len(block.keys) % tree.KEYS_MULTIPLE for step in steps for block in step.blocks} == {0}
